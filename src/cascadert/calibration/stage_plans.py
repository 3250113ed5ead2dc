"""One stage's int8: every calibrator tried, the best by what was measured, and groups that fall back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cascadert.calibration.gate import INT8_LABEL_AGREEMENT_LIMIT, INT8_SQNR_LIMIT_DB
from cascadert.calibration.half_range import operators_beyond_half
from cascadert.calibration.judge import Floor, Found, StageJudge
from cascadert.calibration.ranges import Measured
from cascadert.calibration.sensitivity import Fallback, Group, fall_back, measure_groups
from cascadert.export.lowering import lower
from cascadert.export.precision import as_measured, quantized_operators
from cascadert.graph import Graph
from cascadert.precision import Calibrator, Int8Dialect, QuantizationPlan, StageCalibration, int8_numerics

Say = Callable[[str], None]

FLOOR = Floor(INT8_SQNR_LIMIT_DB, INT8_LABEL_AGREEMENT_LIMIT)
"""What a stage must reach by itself, before the cascade is looked at as a whole."""

IMPOSSIBLE = Floor(math.inf, math.inf)
"""What no int8 reaches."""

STEP_DB = 3.0
"""By how much the floor rises when the cascade as a whole is not within its limits: half the power of the noise."""


@dataclass(frozen=True)
class DialectPlan:
    """How one stage becomes int8 in one dialect, and how that was found.

    `tried` has what each calibrator gives with everything quantized, `plan` is the best of those; `fallback` holds the
    plan that was taken, `floor` what it had to reach, and `groups` what was measured for it.
    """

    tried: Mapping[Calibrator, Found]
    plan: QuantizationPlan
    fallback: Fallback
    floor: Floor
    groups: tuple[Group, ...] = ()


class StagePlanner:
    """Finds the plans of one stage.

    Args:
        graph: its semantic graph.
        measured: what its tensors did on calibration data.
        judge: compares with fp32 on held-out frames.
        say: called with what is being done.
    """

    def __init__(self, graph: Graph, measured: Measured, judge: StageJudge, say: Say) -> None:
        self._graph, self.measured, self._judge, self._say = graph, measured, judge, say
        lowered = lower(graph, "tensorrt")
        self.fp16_keep = operators_beyond_half(lowered, measured.peaks)
        self.plans: dict[Int8Dialect, DialectPlan] = {}

    def choose(self, dialect: Int8Dialect, calibrators: Sequence[Calibrator]) -> None:
        """Try the calibrators, take the one that keeps most labels, and let groups fall back where that is too few."""
        plans = {name: self._plan(name, dialect) for name in calibrators}
        tried = {}
        for name, plan in plans.items():
            self._say(f"{self._judge.name}: {dialect}, {name}")
            tried[name] = self.judge(dialect, plan)
        best = max(tried, key=lambda name: (tried[name].agreement, tried[name].sqnr_db))
        self.plans[dialect] = DialectPlan(tried, plans[best], Fallback(plans[best], tried[best]), FLOOR)
        if not FLOOR.holds(tried[best]):
            self._fall_back(dialect, FLOOR)

    def tighten(self, dialect: Int8Dialect) -> bool:
        """Ask for more, because the cascade needs it; false if nothing is left to give up."""
        found = self.plans[dialect]
        if found.fallback.exhausted or not self._operators(dialect, found.plan):
            return False
        better, floor = found.fallback.found, found.floor
        self._fall_back(
            dialect,
            Floor(
                max(floor.sqnr_db, better.sqnr_db) + STEP_DB,
                1 - (1 - max(floor.agreement, better.agreement)) / 2,
                min(floor.score_share, better.score_share or floor.score_share) / 2,
            ),
        )
        return True

    def give_up(self, dialect: Int8Dialect) -> None:
        """Leave nothing in int8."""
        self._fall_back(dialect, IMPOSSIBLE)

    def calibration(self) -> StageCalibration:
        """Return what was found, as it is stored."""
        plans = {dialect: found.fallback.plan for dialect, found in self.plans.items()}
        return StageCalibration(peaks=self.measured.peaks, fp16_keep=self.fp16_keep, int8=plans)

    def judge(self, dialect: Int8Dialect, plan: QuantizationPlan) -> Found:
        """Run the stage with a plan on the held-out frames."""
        calibration = StageCalibration(peaks={}, fp16_keep=self.fp16_keep, int8={dialect: plan})
        return self._judge.judge(as_measured(self._graph, int8_numerics(dialect), calibration))

    def _plan(self, calibrator: Calibrator, dialect: Int8Dialect) -> QuantizationPlan:
        return QuantizationPlan(calibrator=calibrator, ranges=self.measured.ranges(calibrator, dialect))

    def _operators(self, dialect: Int8Dialect, plan: QuantizationPlan) -> Mapping[str, str]:
        return quantized_operators(self._graph, dialect, plan)

    def _fall_back(self, dialect: Int8Dialect, floor: Floor) -> None:
        found = self.plans[dialect]

        def judge(plan: QuantizationPlan) -> Found:
            return self.judge(dialect, plan)

        def progress(done: int, groups: int) -> None:
            self._say(f"{self._judge.name}: {dialect}, sensitivity of group {done} of {groups}")

        groups = found.groups
        if not groups:
            groups = measure_groups(found.plan, self._operators(dialect, found.plan), judge, progress)
        fallback = fall_back(found.plan, groups, judge, floor)
        self.plans[dialect] = replace(found, fallback=fallback, floor=floor, groups=groups)
