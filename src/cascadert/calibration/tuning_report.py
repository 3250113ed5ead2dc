"""What came of tuning: curves of quality and cost, the front, and the choice, as values for tables, pages and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from cascadert.calibration.exit_report import ExitReport
from cascadert.calibration.finite_json import dump
from cascadert.calibration.tuning_choice import Goal
from cascadert.precision import Numerics
from cascadert.stage_spec import Unit

ReferenceKind = Literal["fast", "every block", "block oracle", "pixel oracle"]
FAST: Final = "fast"
EVERY: Final = "every block"
BLOCK_ORACLE: Final = "block oracle"
PIXEL_ORACLE: Final = "pixel oracle"


@dataclass(frozen=True)
class Quality:
    """Shares, not percentages; IoU is NaN for a class that neither side ever names."""

    miou: float
    accuracy: float
    class_iou: tuple[float, ...]


@dataclass(frozen=True)
class Counts:
    """How many blocks a stage refines, over frames: the mean, and quantiles."""

    mean: float
    q10: float
    q90: float
    p95: float


@dataclass(frozen=True)
class Outcome:
    """What some frames gave.

    Attributes:
        quality: of the labels.
        n: of each stage that decides; none where nothing says how much is refined.
        latency_ms: mean over frames of the time of a frame, stages in turn; NaN where nobody could run it.
        period_ms: mean over frames of the busiest stage's time: between two frames of the overlapped stream.
        macs: mean multiply-adds.
    """

    quality: Quality
    n: Mapping[str, Counts]
    latency_ms: float
    period_ms: float
    macs: float

    @property
    def miou(self) -> float:
        """Mean IoU, a share."""
        return self.quality.miou


@dataclass(frozen=True)
class Point:
    """One theta for each stage that decides: on the frames that choose, and on those held out."""

    thetas: Mapping[str, float]
    seen: Outcome
    held: Outcome


@dataclass(frozen=True)
class Reference:
    """A way to label frames that no theta is needed for, or that no theta can beat; `stage` makes its labels."""

    kind: ReferenceKind
    stage: str | None
    seen: Outcome
    held: Outcome


@dataclass(frozen=True)
class Histogram:
    """Scores before one decision: `counts[i]` of them from `edges[i]` to `edges[i + 1]`, in `unit`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    unit: Unit


@dataclass(frozen=True)
class Variant:
    """One way to cut frames and to compute: blocks of `height` x `width` pixels every `stride`, and their halo."""

    block: tuple[int, int]
    stride: tuple[int, int]
    halo: int
    numerics: Numerics = "fp32"

    def __str__(self) -> str:
        height, width = self.block
        size = f"{height}" if height == width else f"{width}x{height}"
        overlap = "" if self.stride == self.block else f" every {self.stride[0]}"
        numerics = "" if self.numerics == "fp32" else f", {self.numerics}"
        return f"block {size}{overlap}, halo {self.halo}{numerics}"


@dataclass(frozen=True)
class Curve:
    """One variant over theta.

    Attributes:
        variant: which.
        blocks: of a frame, of all cameras.
        composed: whether labels were put together from two runs of each frame, every block refined; else each theta
            was run.
        times_from: what measured the times.
        stage_ms: stages in turn, by n; "frame" where a stage sees no blocks.
        overlapped_stage_ms: the same with the threads that stages have side by side.
        points: theta ascending; of several decisions, in the order of the first.
        own: the index of the point that the bundle had.
        references: see `Reference`.
        scores: before each decision, of the frames that choose.
    """

    variant: Variant
    blocks: int
    composed: bool
    times_from: str
    stage_ms: Mapping[str, Mapping[str, float]]
    overlapped_stage_ms: Mapping[str, Mapping[str, float]]
    points: tuple[Point, ...]
    own: int
    references: Mapping[str, Reference]
    scores: Mapping[str, Histogram]


@dataclass(frozen=True)
class Choice:
    """The point that the goal picks.

    Attributes:
        curve, point: indices.
        best_miou, held_best_miou: what a drop is counted from, on the frames that choose and on those held out.
        held_met: whether the held-out frames agree that the goal is met.
    """

    curve: int
    point: int
    best_miou: float
    held_best_miou: float
    held_met: bool


@dataclass(frozen=True)
class ExitChoice:
    """What the goal says of a plan of exits: periods of the overlapped stream, and the held-out frames' opinion."""

    period_ms: float
    held_period_ms: float
    best_miou: float
    held_best_miou: float
    held_met: bool


@dataclass(frozen=True)
class TuningReport:
    """Everything that was found.

    Attributes:
        name: of the cascade.
        classes: their names.
        frames: how many there were, those `held_out` included.
        goal: what was asked for, if anything.
        curves: one for each variant; none where exits were planned.
        front: (curve, point) that no other beats on the frames that choose, the fastest first.
        choice: of the goal.
        class_iou: on the frames that choose, by what labelled them.
        exits: of a cascade of exits, all plans; `exit_choice` is what the goal says of the one that was chosen.
    """

    name: str
    classes: tuple[str, ...]
    frames: int
    held_out: int
    goal: Goal | None
    curves: tuple[Curve, ...]
    front: tuple[tuple[int, int], ...]
    choice: Choice | None
    class_iou: Mapping[str, tuple[float, ...]]
    exits: ExitReport | None = None
    exit_choice: ExitChoice | None = None

    def at(self, curve: int, point: int) -> Point:
        """Return one point."""
        return self.curves[curve].points[point]

    @property
    def chosen(self) -> Point | None:
        """The point that was chosen."""
        return None if self.choice is None else self.at(self.choice.curve, self.choice.point)

    @property
    def main(self) -> int:
        """The curve that matters most: the chosen one, or the first."""
        return 0 if self.choice is None else self.choice.curve

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return everything as JSON."""
        return dump(self.to_dict())
