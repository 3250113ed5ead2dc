"""What came of evaluating a cascade on labelled frames: stages alone, the cascade, and what no choice could beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.finite_json import dump
from cascadert.calibration.oracles import error_map
from cascadert.errors import ParityError
from cascadert.stage_spec import Unit

Labels = NDArray[np.uint8]
Kind = Literal["stage", "cascade", "random", "block oracle", "pixel oracle"]

IDENTITY_LIMIT: Final = 1e-5
"""How far the sum of aleatoric and epistemic uncertainty may be from the predictive: float32 of some bits."""

EPISTEMIC_LEAST: Final = -1e-6
"""Epistemic uncertainty is a mutual information, which is never below zero but by rounding (paper 002, eq. 3)."""


@dataclass(frozen=True)
class Sample:
    """A frame with its labels: RGB uint8 `[N, H, W, 3]`, the planes of the port `frame`, and uint8 `[N, H, W]`."""

    name: str
    image: NDArray[np.uint8]
    planes: Mapping[str, NDArray[np.uint8]]
    truth: Labels


@dataclass(frozen=True)
class Taken:
    """Blocks of a frame that come from the more accurate side: `mean_n` of `blocks`, each `height` x `width` pixels.

    `stage` is the one that refines them; none for an oracle, which refines nothing.
    """

    mean_n: float
    blocks: int
    height: int
    width: int
    stage: str | None = None


@dataclass(frozen=True)
class EvaluationRow:
    """One way to label the frames: shares, not percentages. IoU is NaN for a class that neither side ever names."""

    name: str
    kind: Kind
    accuracy: float
    miou: float
    class_iou: tuple[float, ...]
    taken: tuple[Taken, ...] = ()


@dataclass(frozen=True)
class PavpuRow:
    """PAvPU for windows of `window` x `window` pixels, and the windows of each kind that it is made of."""

    window: int
    value: float
    accurate_certain: int
    accurate_uncertain: int
    inaccurate_certain: int
    inaccurate_uncertain: int


@dataclass(frozen=True)
class UncertaintyFigures:
    """How unsure one stage is of each pixel.

    `means` are over all pixels, by output: entropy, and aleatoric and epistemic where the stage has them. A window is
    certain below `threshold`. `identity_error` is the largest |entropy - aleatoric - epistemic|, `least_epistemic` the
    least epistemic uncertainty; both are absent where the stage has no such outputs.
    """

    stage: str
    unit: Unit
    threshold: float
    means: Mapping[str, float]
    pavpu: tuple[PavpuRow, ...]
    identity_error: float | None = None
    least_epistemic: float | None = None

    def check(self) -> None:
        """Raise what contradicts the decomposition.

        Raises:
            ParityError: the parts do not add up, or the epistemic part is negative.
        """
        remedy = "the network must return the mean entropy of its members, and what is missing to their mean's"
        if self.identity_error is not None and not self.identity_error <= IDENTITY_LIMIT:
            found = f"aleatoric and epistemic miss it by up to {self.identity_error:.1e} {self.unit}"
            raise ParityError(f"entropy of stage '{self.stage}'", found, remedy)
        if self.least_epistemic is not None and not self.least_epistemic >= EPISTEMIC_LEAST:
            found = f"is as low as {self.least_epistemic:.1e} {self.unit}"
            raise ParityError(f"epistemic uncertainty of stage '{self.stage}'", found, remedy)


@dataclass(frozen=True)
class Evaluation:
    """Every row, and what was measured.

    `faster` and `better` are the two stages that the oracles choose between; `pixels` counts those that have a label.
    """

    classes: tuple[str, ...]
    frames: int
    pixels: int
    faster: str
    better: str
    rows: tuple[EvaluationRow, ...]
    uncertainty: UncertaintyFigures | None = None

    @property
    def occurring(self) -> tuple[int, ...]:
        """The classes that any row names or the truth does."""
        ious = np.array([row.class_iou for row in self.rows])
        return tuple(np.flatnonzero(np.isfinite(ious).any(axis=0)).tolist())

    def check(self) -> None:
        """Raise what contradicts itself.

        Raises:
            ParityError: see `UncertaintyFigures.check`; or labels that name no class.
        """
        if not self.pixels:
            raise ParityError("evaluation", "no pixel of any frame has a label", "give other labels")
        if self.uncertainty is not None:
            self.uncertainty.check()

    def to_json(self) -> str:
        """Return everything as JSON; a number that is not finite is null, which JSON has no other word for."""
        return dump(asdict(self))


@dataclass(frozen=True)
class CascadeLabels:
    """What a cascade made of one frame, labels uint8 `[N, H, W]`.

    `stages` are the labels of each stage where every block is refined, `cascade` those of the cascade on its own
    decisions, and `refined` the blocks of each of these, counted through the cameras.
    """

    stages: Mapping[str, Labels]
    cascade: Labels
    refined: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class OracleChoice:
    """The blocks that the block oracle takes from the better stage, and the labels that it makes, uint8 `[N, H, W]`."""

    blocks: tuple[int, ...]
    labels: Labels


@dataclass(frozen=True)
class UncertaintyMaps:
    """Uncertainties of one frame, float32 `[N, h, w]` by name, each from 0 to at most `most` in `unit`."""

    maps: Mapping[str, NDArray[np.float32]]
    most: float
    unit: Unit


@dataclass(frozen=True)
class EvaluatedFrame:
    """One frame, to look at.

    `refined` are the blocks that the cascade takes from the better stage; none where it does not decide about blocks.
    """

    sample: Sample
    labels: CascadeLabels
    faster: str
    better: str
    refined: tuple[int, ...] | None
    oracle: OracleChoice
    uncertainty: UncertaintyMaps | None

    @cached_property
    def missed_pixels(self) -> int:
        """How many more pixels the block oracle has right than the cascade."""
        wrong, least = (error_map(labels, self.sample.truth) for labels in (self.labels.cascade, self.oracle.labels))
        return int(np.count_nonzero(wrong)) - int(np.count_nonzero(least))
