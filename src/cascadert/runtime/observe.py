"""What a finished frame says about costs: the observations that decisions learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from cascadert.runtime.job import Job
from cascadert.runtime.plan import Plan
from cascadert.runtime.selection import Observation


def observations(job: Job, plan: Plan) -> dict[str, Observation]:
    """Return, for each decision that was made on a frame, what was measured around it.

    t_f is the longest path of stages before the decision, each with the time it ran: waiting for a stream is not the
    frame's cost. t_b(n) is the longest path of those that run because of it. The busiest stream's total, work that was
    dropped included, is the period that frames like this one can sustain.
    """
    times = job.times
    busy: dict[str, float] = defaultdict(float)
    for piece in job.pieces:
        if piece.end.is_done:
            busy[piece.stream] += piece.end.milliseconds_since(piece.begin)
    before, busiest = paths_before(plan, times), max(busy.values())
    return {
        stage: Observation(job.decisions[stage].n or 0, before[stage], path_through(plan, times, dependants), busiest)
        for stage, dependants in plan.dependants.items()
        if stage in job.decisions and job.decisions[stage].source is not None
    }


def paths_before(plan: Plan, times: Mapping[str, float]) -> dict[str, float]:
    """Return the longest path of stages before each stage, the upload included; `times` is by stage, "upload" too."""
    before: dict[str, float] = {}
    for stage in plan.stages:
        paths = (before[name] + times.get(name, 0.0) for name in stage.producers)
        before[stage.name] = max(paths, default=times.get("upload", 0.0))
    return before


def path_through(plan: Plan, times: Mapping[str, float], stages: Collection[str]) -> float:
    """Return the longest path that passes through some stages alone."""
    until: dict[str, float] = {}
    for stage in plan.stages:
        if stage.name in stages:
            paths = (until[name] for name in stage.producers if name in until)
            until[stage.name] = max(paths, default=0.0) + times.get(stage.name, 0.0)
    return max(until.values())
