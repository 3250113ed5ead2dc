"""What a finished frame says about costs: the observations that decisions learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from cascadert.runtime.job import Job
from cascadert.runtime.plan import Plan
from cascadert.runtime.selection import Observation


def observations(job: Job, plan: Plan) -> dict[str, Observation]:
    """Return, for each decision that was made on a frame, what was measured around it.

    t_f is the longest path of stages before the decision, each with the time it ran: waiting for a stream is not the
    frame's cost. The busiest stream's total is the period that frames like this one can sustain.
    """
    times = job.times
    busy: dict[str, float] = defaultdict(float)
    for piece in job.pieces:
        busy[piece.stream] += times[piece.name]
    before, busiest = paths_before(plan, times), max(busy.values())
    return {
        stage: Observation(decision.n, before[stage], times.get(stage, 0.0), busiest)
        for stage, decision in job.decisions.items()
        if decision.source is not None
    }


def paths_before(plan: Plan, times: Mapping[str, float]) -> dict[str, float]:
    """Return the longest path of stages before each stage, the upload included; `times` is by stage, "upload" too."""
    before: dict[str, float] = {}
    for stage in plan.stages:
        paths = (before[name] + times.get(name, 0.0) for name in stage.producers)
        before[stage.name] = max(paths, default=times.get("upload", 0.0))
    return before
