"""One frame in flight: what was decided, queued and measured of it so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.device import Buffer, Event
from cascadert.errors import CascadertError
from cascadert.runtime.plan import Plan, StagePlan
from cascadert.runtime.results import Policies, Result, Span, StageRun, Ticket
from cascadert.runtime.slots import Slot, Staging


@dataclass(frozen=True)
class Piece:
    """A piece of work that was queued on a stream."""

    name: str
    stream: str
    begin: Event
    end: Event
    n: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether it began and did not end."""
        return self.begin.is_done and not self.end.is_done


@dataclass(frozen=True)
class Decision:
    """The decision before a stage. `source` is the scores' tensor; absent where their producer was skipped."""

    n: int
    source: str | None = None
    order: str | None = None
    predicted_ms: float | None = None
    theta: float | None = None


@dataclass(eq=False)
class Job:
    """A frame. The scheduler's thread alone touches it, from its submission until it is finished.

    `owners` maps each tensor of a stage that was skipped to the one that stands for it, or to none. `imported` holds
    planes that came in device memory. `outstanding` counts pieces of work whose end was not heard of yet; the frame is
    finished when nothing remains to be queued and none is outstanding. `dropped` counts frames dropped just before it.
    """

    ticket: Ticket
    staging: Staging
    policies: Policies
    foreign: Mapping[str, Any]
    remaining: list[StagePlan]
    submitted_s: float = field(default_factory=time.perf_counter)
    slot: Slot | None = None
    imported: dict[str, Buffer] = field(default_factory=dict)
    ready: tuple[Event, ...] = ()
    owners: dict[str, str | None] = field(default_factory=dict)
    handled: set[str] = field(default_factory=set)
    arrived: set[str] = field(default_factory=set)
    decisions: dict[str, Decision] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    host_spans: list[Span] = field(default_factory=list)
    device_labels: Buffer | None = None
    outstanding: int = 0
    is_queued: bool = False
    error: CascadertError | None = None
    runs: tuple[StageRun, ...] = ()
    spans: tuple[Span, ...] = ()
    finished_s: float | None = None
    has_begun: bool = False
    dropped: int = 0
    result: Result | None = None

    @cached_property
    def times(self) -> dict[str, float]:
        """Milliseconds of each piece of work, by its name; all have ended."""
        return {piece.name: piece.end.milliseconds_since(piece.begin) for piece in self.pieces}

    def owner(self, tensor: str) -> str | None:
        """Return the tensor that stands for one; a plane of the frame stands for itself."""
        return self.owners.get(tensor, tensor)

    def buffer(self, tensor: str) -> Buffer:
        """Return the device memory of a tensor that stands for itself."""
        assert self.slot is not None
        found = self.slot.buffers.get(tensor) or self.imported.get(tensor)
        return found if found is not None else self.staging.planes[tensor]

    def host(self, tensor: str) -> NDArray[Any]:
        """Return the host's copy of a tensor: the pipeline's own memory."""
        return self.staging.result(tensor)


def stage_runs(job: Job, plan: Plan) -> tuple[StageRun, ...]:
    """Return what every stage did, with copies of its decision's scores and order."""
    return tuple([_stage_run(job, stage.name, job.times.get(stage.name, 0.0)) for stage in plan.stages])


def _stage_run(job: Job, stage: str, milliseconds: float) -> StageRun:
    decision = job.decisions.get(stage)
    if decision is None:
        return StageRun(stage, milliseconds)
    if decision.source is None or decision.order is None:
        scores, order = np.empty(0, np.float32), np.empty(0, np.int32)
    else:
        scores, order = job.host(decision.source).copy(), job.host(decision.order).copy()
    return StageRun(stage, milliseconds, decision.n, scores, order, decision.predicted_ms, decision.theta)
