"""What a finished frame says about costs: the observations that decisions learn from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from cascadert.device import Stream
from cascadert.runtime.job import Job
from cascadert.runtime.plan import Plan
from cascadert.runtime.selection import Observation


def observations(job: Job, plan: Plan, streams: Mapping[str, Stream]) -> dict[str, Observation]:
    """Return, for each decision that was made on a frame, what was measured around it.

    t_f is the longest path of stages before the decision, each with the time it ran: waiting for a stream is not the
    frame's cost. The busiest stream's total is the period that frames like this one can sustain.
    """
    times = {piece.name: piece.end.milliseconds_since(piece.begin) for piece in job.pieces}
    busy: dict[int, float] = defaultdict(float)
    for stage, stream in streams.items():
        busy[id(stream)] += times.get(stage, 0.0)
    copies = times.get("upload", 0.0)
    path: dict[str, float] = {}
    seen = {}
    for stage_plan in plan.stages:
        before = max((path[name] for name in stage_plan.producers), default=copies)
        own = times.get(stage_plan.name, 0.0)
        path[stage_plan.name] = before + own
        decision = job.decisions.get(stage_plan.name)
        if decision is not None and decision.source is not None:
            seen[stage_plan.name] = Observation(decision.n, before, own, max(busy.values()))
    return seen
