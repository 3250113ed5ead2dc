"""What a frame costs, from n of each decision and the measured times of its stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cascadert.bundle import BundleManifest
from cascadert.errors import InvalidRequest
from cascadert.graph import Graph
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.open import open_graphs
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.plan import StagePlan, make_plan
from cascadert.runtime.profiling.profile import WHOLE, Profile, ProfileOptions, measure_profiles, profiling_options
from cascadert.runtime.profiling.profile_file import read_stage_times
from cascadert.runtime.profiling.report import WHOLE_FRAME
from cascadert.runtime.results import Planes

StageMs = Mapping[str, Mapping[int | None, float]]


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds by stage and n, `WHOLE` for one that sees no blocks; and of both copies, where there are any."""

    stages: StageMs
    copies: Mapping[str, float]

    def stage_ms(self, stage: StagePlan, n: int) -> float:
        """Return what a stage takes that runs, interpolated where n was not measured."""
        measured = self.stages[stage.name]
        if not stage.sees_blocks:
            return measured[WHOLE] if WHOLE in measured else measured[1]
        points = sorted((n, ms) for n, ms in measured.items() if n is not None)
        return StageCosts(0.0, tuple(points)).refine_ms(n)

    def shown(self) -> dict[str, dict[str, float]]:
        """Return the stages as JSON has them."""
        return {
            stage: {WHOLE_FRAME if n is WHOLE else str(n): ms for n, ms in by_n.items()}
            for stage, by_n in self.stages.items()
        }


@dataclass(frozen=True)
class FrameCost:
    """One frame: stages in turn; the busiest stage, or copy, of those that run side by side; multiply-adds."""

    latency_ms: float
    period_ms: float
    macs: int


class CostModel:
    """Costs of frames of one cascade.

    Args:
        manifest: how stages are wired.
        serial: times of stages in turn.
        overlapped: times with the threads that stages have side by side.
        times_from: what measured them.
    """

    def __init__(self, manifest: BundleManifest, serial: StageTimes, overlapped: StageTimes, times_from: str) -> None:
        self.serial, self.overlapped, self.times_from = serial, overlapped, times_from
        plan = make_plan(manifest)
        self.stages = tuple(plan.dependants)
        self._plan = plan.stages
        self._needs = {s.name: [d for d, those in plan.dependants.items() if s.name in those] for s in plan.stages}
        self.frame = lru_cache(maxsize=None)(self._frame)

    def _frame(self, counts: tuple[int, ...]) -> FrameCost:
        """Return the cost of a frame with these n, of `stages` in their order."""
        n_of = dict(zip(self.stages, counts, strict=True))
        serial, macs = sum(self.serial.copies.values()), 0
        busiest = max(self.overlapped.copies.values(), default=0.0)
        for stage in self._plan:
            if not all(n_of[decision] for decision in self._needs[stage.name]):
                continue
            n = n_of[stage.decided_by] if stage.decided_by is not None and stage.sees_blocks else 1
            serial += self.serial.stage_ms(stage, n)
            busiest = max(busiest, self.overlapped.stage_ms(stage, n))
            macs += n * stage.entry.network.macs
        return FrameCost(serial, busiest, macs)


@dataclass(frozen=True)
class Costed:
    """A cascade to measure: its manifest, and the graph of each stage as ONNX Runtime is to run it."""

    manifest: BundleManifest
    graphs: Mapping[str, Graph]


def measure_costs(
    cascades: Sequence[Costed], frames: Sequence[Planes], threads: int, repeats: int, say: Callable[[str], None]
) -> list[CostModel]:
    """Measure every stage at several n on this machine, in turn and with the threads that it has side by side.

    Cascades take turns, so that a machine that changes its speed changes it for all of them.

    Args:
        cascades: what to measure; all are open at once.
        frames: to measure on, taken in turns.
        threads: of each stage; 0: all cores in turn, a share of them side by side.
        repeats: measurements of each n, of which the median counts.
        say: called with what is being done.
    """
    cores = sorted(os.sched_getaffinity(0))
    serial, beside = RuntimeOptions(mode="serial", threads=threads), RuntimeOptions(threads=threads)
    in_turn = [profiling_options(one.manifest, serial, cores) for one in cascades]
    overlapped = [profiling_options(one.manifest, beside, cores) for one in cascades]
    same = [options.threads for options in in_turn] == [options.threads for options in overlapped]
    times = [
        _measure(cascades, options, frames, repeats, lambda done, total: say(f"times of stages: {done} of {total}"))
        for options in ((in_turn,) if same else (in_turn, overlapped))
    ]
    made_by = f"this run, medians of {repeats}"
    pairs = zip(cascades, times[0], times[-1], strict=True)
    return [CostModel(one.manifest, first, last, made_by) for one, first, last in pairs]


def _measure(
    cascades: Sequence[Costed], options: Sequence[RuntimeOptions], frames: Sequence[Planes], repeats: int,
    progress: Callable[[int, int], None],
) -> list[StageTimes]:  # fmt: skip
    with ExitStack() as opened:
        pipelines = [
            opened.enter_context(open_graphs(one.manifest, one.graphs, each))
            for one, each in zip(cascades, options, strict=True)
        ]
        return [_times(found) for found in measure_profiles(pipelines, frames, ProfileOptions(repeats), None, progress)]


def read_costs(manifest: BundleManifest, report: Path) -> CostModel:
    """Take the times of a bench's report.

    Raises:
        InvalidRequest: no such report, or one of another cascade.
    """
    stages, copies = read_stage_times(report, manifest)
    for stage in make_plan(manifest).stages:
        if not stage.sees_blocks and not {WHOLE, 1} & stages[stage.name].keys():
            found = f"has no time of stage '{stage.name}' for a whole frame"
            raise InvalidRequest(f"{report}: stage_ms", found, "measure it anew with `cascadert bench --json`")
    times = StageTimes(stages, copies)
    return CostModel(manifest, times, times, f"the bench {report.name}")


def _times(profile: Profile) -> StageTimes:
    stages = {stage: {n: times.median for n, times in by_n.items()} for stage, by_n in profile.stages.items()}
    return StageTimes(stages, {name: times.median for name, times in profile.copies.items()})
