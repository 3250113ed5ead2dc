"""A cascade of exits, tuned: its plans are searched as `cascadert exits` does it, under the goals of tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cascadert.bundle import Bundle, BundleManifest
from cascadert.calibration.exit_measurement import ExitMeasurement, measure_exits
from cascadert.calibration.exit_plan import planned_manifest
from cascadert.calibration.exit_report import plan_exits
from cascadert.calibration.exit_search import Best, Fastest, final_quality, search_exits
from cascadert.calibration.exits import Candidate, ExitCosts, ExitOutcome, ExitPlan, ExitRecords, Floats, run_plan
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.refit import Recording
from cascadert.calibration.tuning_choice import Goal
from cascadert.calibration.tuning_curves import Split
from cascadert.calibration.tuning_report import ExitChoice, TuningReport
from cascadert.runtime.profiling.profile_file import read_stage_ms


@dataclass(frozen=True)
class OverlappedCosts(ExitCosts):
    """Periods in place of latencies: of the overlapped stream, an image takes what its busiest stage takes.

    A speculative segment runs for every image that reaches the exit before it, also for those that leave there.
    """

    def after_head(self, clock: Floats, candidate: Candidate, before: Candidate | None = None) -> Floats:
        """Return the busiest head so far."""
        return np.maximum(clock, candidate.head_ms)

    def latency_ms(self, clock: Floats, point: int) -> Floats:
        """Return the period of an image whose last head lies at `point`."""
        return np.maximum(clock, max(self.segment_ms[: point + self.speculative]))


@dataclass(frozen=True)
class _Judge:
    """The outcome of plans, with periods, on the frames that choose and on those held out."""

    seen: ExitRecords
    held: ExitRecords
    periods: OverlappedCosts

    def choice(self, goal: Goal, plan: ExitPlan, latency: ExitCosts) -> ExitChoice:
        seen, held = (run_plan(plan.exits, records, self.periods) for records in (self.seen, self.held))
        in_turn = run_plan(plan.exits, self.held, latency)
        best, held_best = final_quality(self.seen), final_quality(self.held)
        met = goal.is_met(_Figures(in_turn, held), held_best)
        return ExitChoice(seen.latency_ms, held.latency_ms, best, held_best, met)


@dataclass(frozen=True)
class _Figures:
    """A plan as goals see it."""

    in_turn: ExitOutcome
    overlapped: ExitOutcome

    @property
    def miou(self) -> float:
        return self.in_turn.quality

    @property
    def latency_ms(self) -> float:
        return self.in_turn.latency_ms

    @property
    def period_ms(self) -> float:
        return self.overlapped.latency_ms


def plan_by_goal(
    bundle: Bundle,
    recording: Recording,
    split: Split,
    goal: Goal | None,
    threads: int = 0,
    profile: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[BundleManifest | None, TuningReport]:
    """Plan the exits of a bundle; return the manifest that follows the plan, if there is a goal, and the report.

    Raises:
        InvalidRequest: no plan reaches the goal.
    """
    stage_ms = None if profile is None else read_stage_ms(profile, bundle.manifest)
    pairs = zip(recording.frames, recording.truths or (), strict=True)
    total = len(recording.frames)
    found = measure_exits(bundle, pairs, threads, stage_ms, lambda done: say(f"all exits: frame {done} of {total}"))
    in_turn = found.costs(speculative=False)
    periods = OverlappedCosts(in_turn.segment_ms, all(one.speculative for one in found.exits[1:]))
    judge = _Judge(found.records(split.seen), found.records(split.held), periods)
    plan = None
    if goal is not None:
        plan = search_exits(judge.seen, periods if goal.kind == "target-fps" else in_turn, _objective(goal))
        plan = ExitPlan(plan.exits, run_plan(plan.exits, judge.seen, in_turn))
    planned = plan_exits(found, None, serial=True, plan=plan)
    report = TuningReport(
        name=bundle.spec.name,
        classes=bundle.spec.classes.names,
        frames=found.images,
        held_out=len(split.held),
        goal=goal,
        curves=(),
        front=(),
        choice=None,
        class_iou=_class_iou(found, split.seen, plan),
        exits=planned.report,
        exit_choice=None if plan is None or goal is None else judge.choice(goal, plan, in_turn),
    )
    return None if plan is None else planned_manifest(bundle.manifest, found.exits, plan), report


def _objective(goal: Goal) -> Fastest | Best:
    return Fastest(goal.value / 100) if goal.kind == "max-drop" else Best(goal.limit_ms)


def _class_iou(found: ExitMeasurement, images: Sequence[int], plan: ExitPlan | None) -> Mapping[str, tuple[float, ...]]:
    """Return the IoU of each class by the first exit, the plan and the final exit."""
    takes = np.zeros((len(found.exits), found.images), np.int64)
    takes[0] = 1
    rows = {f"{found.exits[0].name} alone": takes, f"{found.exits[-1].name} alone": takes[::-1]}
    if plan is not None:
        rows["chosen"] = _taken(found, plan)
    return {name: _iou(found, images, taken) for name, taken in rows.items()}


def _taken(found: ExitMeasurement, plan: ExitPlan) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return 1 where an image leaves at an exit, `[E, I]`."""
    names = [one.name for one in found.exits]
    taken, remaining = np.zeros((len(names), found.images), np.int64), np.ones(found.images, bool)
    for planned in plan.exits:
        index = names.index(planned.candidate.name)
        leaves = remaining & planned.takes(np.nan_to_num(found.confidence[index], nan=1.0))
        taken[index], remaining = leaves, remaining & ~leaves
    return taken


def _iou(
    found: ExitMeasurement, images: Sequence[int], taken: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
) -> tuple[float, ...]:
    matrix = ConfusionMatrix(found.confusion.shape[-1])
    matrix.counts += np.einsum("ei,eikl->kl", taken[:, list(images)], found.confusion[:, list(images)])
    return tuple(matrix.iou().tolist())
