"""What is told of a frame that is finished: what each stage did, and when each piece of work ran."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from cascadert.device import Event, Stream
from cascadert.runtime.job import Decision, Job
from cascadert.runtime.plan import Plan, StagePlan
from cascadert.runtime.results import Outcome, Span, StageRun


@dataclass(frozen=True)
class Clock:
    """A moment on the device and on the host: where spans count from."""

    event: Event
    seconds: float

    @staticmethod
    def start(stream: Stream) -> Clock:
        """Return the present moment of a stream on which nothing runs."""
        event = stream.record()
        event.synchronize()
        return Clock(event, time.perf_counter())

    def on_device(self, event: Event) -> float:
        """Milliseconds since then of an event that happened."""
        return event.milliseconds_since(self.event)

    def on_host(self, seconds: float) -> float:
        """Milliseconds since then of a reading of `time.perf_counter`."""
        return (seconds - self.seconds) * 1e3


def stage_runs(job: Job, plan: Plan) -> tuple[StageRun, ...]:
    """Return what every stage did, with copies of its decision's scores and order."""
    ran = job.counting
    return tuple([_stage_run(job, stage, stage.name in ran) for stage in plan.stages])


def spans(job: Job, clock: Clock) -> tuple[Span, ...]:
    """Return when everything ran that has ended, and when decisions were made."""
    found = []
    for piece in job.pieces:
        if not piece.is_dropped or (piece.end.is_done and piece.end.error is None):
            start_ms, took_ms = clock.on_device(piece.begin), piece.end.milliseconds_since(piece.begin)
            found.append(Span(piece.name, piece.stream, start_ms, start_ms + took_ms, piece.n, piece.is_dropped))
    for stage, decision in job.decisions.items():
        if decision.made_s is not None:
            start_ms, end_ms = map(clock.on_host, decision.made_s)
            found.append(Span(f"decide {stage}", "host", start_ms, end_ms, decision.n))
    return tuple(found)


def _stage_run(job: Job, stage: StagePlan, ran: bool) -> StageRun:
    decision = job.decisions.get(stage.name, Decision())
    outcome: Outcome = "ran" if ran else "skipped" if decision.n == 0 else "expired"
    milliseconds = job.times[stage.name] if ran else 0.0
    if stage.entry.select is None or stage.name not in job.decisions:
        return StageRun(stage.name, milliseconds, decision.n, outcome=outcome)
    if decision.source is None or decision.order is None:
        scores, order = np.empty(0, np.float32), np.empty(0, np.int32)
    else:
        scores, order = job.host(decision.source).copy(), job.host(decision.order).copy()
    return StageRun(stage.name, milliseconds, decision.n, scores, order, decision.predicted_ms, decision.theta, outcome)
