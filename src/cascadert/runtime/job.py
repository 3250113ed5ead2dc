"""One frame in flight: what was decided, queued and heard of it so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cascadert.device import Buffer, Event, HostArray
from cascadert.errors import CascadertError
from cascadert.runtime.plan import Plan, StagePlan, producer
from cascadert.runtime.results import Policies, Result, Span, StageRun, Ticket
from cascadert.runtime.slots import Slot, Staging


@dataclass(eq=False)
class Piece:
    """A piece of work that was queued on a stream: of a stage, or a copy.

    It `has_ended` once that was heard of. Nobody waits for one that `is_dropped`, or reads what it made.
    """

    name: str
    stream: str
    begin: Event
    end: Event
    n: int | None = None
    stage: StagePlan | None = None
    has_ended: bool = False
    is_dropped: bool = False

    @property
    def subject(self) -> str:
        """What errors call it."""
        return f"the {self.name}" if self.stage is None else self.stage.subject

    @property
    def is_running(self) -> bool:
        """Whether it began and did not end."""
        return self.begin.is_done and not self.end.is_done


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs (n is not 0), and on how many blocks; n is none for a stage that always runs.

    The rest is there for a decision that was made on scores: their tensor and their blocks', what it expected, and when
    it began and ended, in seconds of `time.perf_counter`.
    """

    n: int | None = None
    source: str | None = None
    order: str | None = None
    predicted_ms: float | None = None
    theta: float | None = None
    made_s: tuple[float, float] | None = None


@dataclass(eq=False)
class Job:
    """A frame. The scheduler's thread alone touches it, from its submission until it is finished.

    Attributes:
        remaining: stages that are neither certain to run, and queued, nor skipped.
        guesses: stages that were queued before they were decided about, and what their work failed with.
        decisions: of the other stages.
        owners: for each tensor of a stage that was skipped, the one that stands for it, or none.
        arrived: tensors that the host has a copy of.
        pieces: everything that was queued.
        imported: planes that came in device memory.
        is_queued: nothing more will be.
        is_overdue: its deadline has passed.
        is_expired: and that cost it a stage, or its labels are late.
        is_finished: its result is there. Work that was dropped may still run.
        has_ended: nothing of it runs any more.
        labels: the tensor that the result is.
        dropped: frames dropped just before it.
    """

    ticket: Ticket
    staging: Staging
    policies: Policies
    foreign: Mapping[str, Any]
    remaining: list[StagePlan]
    submitted_s: float = field(default_factory=time.perf_counter)
    deadline_s: float | None = None
    slot: Slot | None = None
    imported: dict[str, Buffer] = field(default_factory=dict)
    ready: tuple[Event, ...] = ()
    owners: dict[str, str | None] = field(default_factory=dict)
    guesses: dict[str, BaseException | None] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)
    pieces: list[Piece] = field(default_factory=list)
    device_labels: Buffer | None = None
    is_queued: bool = False
    is_overdue: bool = False
    is_expired: bool = False
    is_finished: bool = False
    has_ended: bool = False
    error: CascadertError | None = None
    labels: str = ""
    runs: tuple[StageRun, ...] = ()
    spans: tuple[Span, ...] = ()
    finished_s: float | None = None
    has_begun: bool = False
    has_left: bool = False
    dropped: int = 0
    result: Result | None = None

    @cached_property
    def times(self) -> dict[str, float]:
        """Milliseconds of each piece of work that counts, by its name; all have ended."""
        counting = [piece for piece in self.pieces if not piece.is_dropped]
        return {piece.name: piece.end.milliseconds_since(piece.begin) for piece in counting}

    @property
    def readable(self) -> Set[str]:
        """Stages whose outputs may be read, or are known to be skipped.

        With a deadline, those that still run are not among them: what is queued behind them could not be given up.
        """
        if self.deadline_s is None:
            return self.decisions.keys()
        return self.decisions.keys() - {piece.name for piece in self.pieces if not piece.has_ended}

    @property
    def is_awaited(self) -> bool:
        """Whether work runs that the frame waits for; a frame that failed waits for all of it."""
        return any(not piece.has_ended and not (piece.is_dropped and self.error is None) for piece in self.pieces)

    @property
    def counting(self) -> Set[str]:
        """Return the stages whose work counts: those that were queued, and neither dropped nor just a guess."""
        return {piece.name for piece in self.pieces if not piece.is_dropped} - self.guesses.keys()

    def skip(self, stage: StagePlan) -> None:
        """Let others stand for what a stage would have made; drop what was made in vain."""
        for output, tensor in zip(stage.entry.outputs, stage.writes, strict=True):
            self.owners[tensor] = None if output.when_skipped is None else self.owner(output.when_skipped)
        self.drop({stage.name})

    def drop(self, names: Set[str]) -> None:
        """Do not wait for the work of stages any more, nor heed what it made."""
        for piece in self.pieces:
            piece.is_dropped |= piece.name in names

    def last_labels(self, plan: Plan, stages: Set[str]) -> str | None:
        """Return the last labels that one of `stages` made, or that one of theirs stand for."""
        owners = (self.owner(tensor) for tensor in reversed(plan.labelled))
        return next((owner for owner in owners if owner is not None and producer(owner) in stages), None)

    def owner(self, tensor: str) -> str | None:
        """Return the tensor that stands for one; a plane of the frame stands for itself."""
        return self.owners.get(tensor, tensor)

    def lacks(self, stage: StagePlan) -> bool:
        """Whether a stage reads what was skipped and nothing stands for."""
        return any(self.owner(tensor) is None for tensor in stage.reads)

    def buffer(self, tensor: str) -> Buffer:
        """Return the device memory of a tensor that stands for itself."""
        assert self.slot is not None
        found = self.slot.buffers.get(tensor) or self.imported.get(tensor)
        return found if found is not None else self.staging.planes[tensor]

    def host(self, tensor: str) -> HostArray:
        """Return the host's copy of a tensor: the pipeline's own memory."""
        return self.staging.result(tensor)
