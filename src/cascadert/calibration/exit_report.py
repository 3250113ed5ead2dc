"""Which exits a bundle has, which plans they allow, and what comes of them: values for tables, pages and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cascadert.calibration.exit_measurement import ExitMeasurement
from cascadert.calibration.exit_search import Best, Fastest, SearchSpace, pareto, search_exits
from cascadert.calibration.exits import ExitOutcome, ExitPlan, PlannedExit, run_plan
from cascadert.calibration.finite_json import dump
from cascadert.errors import InvalidRequest

HELD_OUT = 4
"""Every fourth image judges plans and does not choose them."""

NEVER = 1.01
"""A confidence that no image reaches: nothing leaves there."""

_CURVE_STEPS = 20


@dataclass(frozen=True)
class ExitRow:
    """One exit alone: the network up to there on every image, as `export --until` makes it.

    Attributes:
        name: of the exit.
        segment: the stages between the exit before and this one.
        confidence: mean over images; NaN where it has none.
        miou: a share.
        latency_ms: stage after stage.
        macs: multiply-adds.
    """

    name: str
    segment: tuple[str, ...]
    confidence: float
    miou: float
    latency_ms: float
    macs: int


@dataclass(frozen=True)
class CurvePoint:
    """All exits with one threshold in common; rates are shares of the images, by exit."""

    threshold: float
    rates: tuple[float, ...]
    macs: float
    latency_ms: float
    miou: float


@dataclass(frozen=True)
class PlanRow:
    """One plan: which exits, the confidence at which an image leaves each, and what that gives.

    `latency_ms`, `miou`, `rates` and `macs` (means per image) are of the images on which plans were searched, `judged`
    of those held out.
    """

    exits: tuple[str, ...]
    thresholds: tuple[float, ...]
    latency_ms: float
    miou: float
    rates: tuple[float, ...]
    macs: float
    judged: ExitOutcome


@dataclass(frozen=True)
class ExitReport:
    """Everything that was found.

    Attributes:
        name: of the cascade.
        images: how many there were, those `held_out` included.
        speculative: whether exits were taken to run beside the segments that follow.
        times_from: where times came from.
        stage_ms: of each stage.
        exits: each alone, on all images.
        curve: from a threshold of 0, where every image leaves at the first exit, to one that none reaches; all images.
        front: the plans that no other beats, the fastest first.
        plan: the one that was asked for, if any was.
    """

    name: str
    images: int
    held_out: int
    speculative: bool
    times_from: str
    stage_ms: Mapping[str, float]
    exits: tuple[ExitRow, ...]
    curve: tuple[CurvePoint, ...]
    front: tuple[PlanRow, ...]
    plan: PlanRow | None

    def some_of_front(self, most: int) -> tuple[PlanRow, ...]:
        """Return plans of the front, about evenly spread in mIoU, the first and the last among them."""
        if len(self.front) <= most:
            return self.front
        miou = np.array([row.miou for row in self.front])
        wanted = np.linspace(miou[0], miou[-1], most)
        return tuple(self.front[index] for index in sorted({int(np.abs(miou - each).argmin()) for each in wanted}))

    def to_json(self) -> str:
        """Return everything as JSON."""
        return dump(asdict(self))


@dataclass(frozen=True)
class PlannedExits:
    """The report, and the plan that was asked for, if any was."""

    report: ExitReport
    plan: ExitPlan | None


def plan_exits(
    found: ExitMeasurement, objective: Fastest | Best | None, *, serial: bool = False, plan: ExitPlan | None = None
) -> PlannedExits:
    """Search exits and thresholds on three images of four, and judge on the others.

    Args:
        found: what was measured.
        objective: what to look for beside all plans that no other beats.
        serial: take stages to run one after the other, also where the bundle has them speculate.
        plan: one that was found otherwise, to report in place of what the objective finds.

    Raises:
        InvalidRequest: too few images, or no plan is within the bound.
    """
    if found.images < 2 * HELD_OUT:
        remedy = f"give {2 * HELD_OUT} or more: every {HELD_OUT}th judges"
        raise InvalidRequest("exits", f"were measured on {found.images} image(s)", remedy)
    searched = _Searched(found, speculative=not serial and all(one.speculative for one in found.exits[1:]))
    if objective is not None:
        plan = searched.best(objective)
    report = ExitReport(
        name=found.manifest.spec.name,
        images=found.images,
        held_out=searched.held.images,
        speculative=searched.costs.speculative,
        times_from=found.times_from,
        stage_ms=found.stage_ms,
        exits=tuple(_exit_row(found, index) for index in range(len(found.exits))),
        curve=tuple(searched.at(threshold) for threshold in _thresholds(found)),
        front=searched.front(),
        plan=None if plan is None else searched.row(plan),
    )
    return PlannedExits(report, plan)


class _Searched:
    """Images on which plans are searched, images that judge, and costs."""

    def __init__(self, found: ExitMeasurement, *, speculative: bool) -> None:
        self._found, self.costs = found, found.costs(speculative=speculative)
        held = range(HELD_OUT - 1, found.images, HELD_OUT)
        self.seen = found.records([image for image in range(found.images) if image not in held])
        self.held = found.records(list(held))
        self._space = SearchSpace(max_exits=len(found.exits) - 1)

    def best(self, objective: Fastest | Best) -> ExitPlan:
        return search_exits(self.seen, self.costs, objective, self._space)

    def front(self) -> tuple[PlanRow, ...]:
        return tuple(self.row(plan) for plan in pareto(self.seen, self.costs, self._space))

    def row(self, plan: ExitPlan) -> PlanRow:
        names, outcome = [one.candidate.name for one in plan.exits], plan.outcome
        return PlanRow(
            exits=tuple(names),
            thresholds=tuple(one.threshold for one in plan.exits),
            latency_ms=outcome.latency_ms,
            miou=outcome.quality,
            rates=outcome.rates,
            macs=self._mean_macs(names, outcome),
            judged=run_plan(plan.exits, self.held, self.costs),
        )

    def at(self, threshold: float) -> CurvePoint:
        """Send all images through all exits."""
        *early, final = self._found.candidates
        exits = [*(PlannedExit(candidate, threshold) for candidate in early), PlannedExit(final, 0.0)]
        outcome = run_plan(exits, self._found.records(), self.costs)
        macs = self._mean_macs([one.candidate.name for one in exits], outcome)
        return CurvePoint(threshold, outcome.rates, macs, outcome.latency_ms, outcome.quality)

    def _mean_macs(self, names: Sequence[str], outcome: ExitOutcome) -> float:
        costs = [self._found.macs_of(names[: index + 1]) for index in range(len(names))]
        return float(np.dot(outcome.rates, costs))


def _exit_row(found: ExitMeasurement, index: int) -> ExitRow:
    one, records = found.exits[index], found.records()
    alone = run_plan([PlannedExit(found.candidates[index], 0.0)], records, found.costs(speculative=False))
    return ExitRow(
        one.name, one.segment, float(found.confidence[index].mean()), alone.quality, alone.latency_ms,
        found.macs_of([one.name]),
    )  # fmt: skip


def _thresholds(found: ExitMeasurement) -> list[float]:
    """Return 0, confidences between which images leave, evenly spaced values, and one that no image reaches."""
    early = found.confidence[:-1].astype(np.float64)
    between: Any = np.quantile(early, np.linspace(0, 1, _CURVE_STEPS + 1))
    return sorted({0.0, *np.linspace(0, 1, _CURVE_STEPS + 1).round(6).tolist(), *between.tolist(), NEVER})
