"""The thread that queues work: every stage of every frame as soon as its inputs are queued and its n is known.

It reads the plan and knows no system. What it waits for are messages: a frame, the end of a piece of work, a result
that was taken; and deadlines. Nothing here waits for a device; a decision that needs scores is made when their stage
reports.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from cascadert.device import Device
from cascadert.errors import CascadertError, ExecutionError, FrameCancelled, PipelineBroken, StageTimeout
from cascadert.executable import Executable
from cascadert.runtime.account import Clock, spans, stage_runs
from cascadert.runtime.deadlines import Deadlines, Now, cut_short
from cascadert.runtime.decisions import Decisions
from cascadert.runtime.dispatch import Dispatcher
from cascadert.runtime.job import Decision, Job, Piece
from cascadert.runtime.lanes import Lanes
from cascadert.runtime.ledger import Ledger
from cascadert.runtime.patience import Patience
from cascadert.runtime.plan import Plan, StagePlan
from cascadert.runtime.slots import Slot


class Scheduler:
    """Runs frames through the stages.

    Args:
        plan: what there is to run.
        executables: each stage, loaded.
        device: makes copies.
        lanes: the streams.
        slots: memory for frames in flight; all that are equal may be used at once.
        decisions: whether a stage runs, and on how many blocks.
        ledger: gives frames to begin, and is told which are finished.
        kept: tensors to bring home beside the labels.
        on_device: whether to leave a copy of the labels on the device.
        timeout_s: after how long without any progress a stage counts as hung.
        now: the clock of deadlines.
    """

    def __init__(
        self, plan: Plan, executables: Mapping[str, Executable], device: Device, lanes: Lanes, slots: list[Slot],
        decisions: Decisions, ledger: Ledger, *, kept: frozenset[str], on_device: bool, timeout_s: float | None,
        now: Now = time.perf_counter,
    ) -> None:  # fmt: skip
        self._plan, self._device, self._lanes, self._slots = plan, device, lanes, deque(slots)
        self._decisions, self._ledger = decisions, ledger
        self._dispatcher = Dispatcher(
            plan, executables, device, lanes, kept=kept, on_device=on_device, report=self._report
        )
        self._deadlines, self._patience = Deadlines(now), Patience(timeout_s)
        self._occupants: dict[int, Job] = {}
        self._running: dict[int, Job] = {}
        self._mailbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_nudged = False
        self.broken: CascadertError | None = None
        self._clock = Clock.start(lanes.upload)
        self._thread = threading.Thread(target=self._run, name="cascadert-scheduler", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """Say that there may be a frame to begin, or room for one. Any thread."""
        if not self._is_nudged:  # one message is enough for all who say so before it is read
            self._is_nudged = True
            self._mailbox.put(self._nudged)

    def cancel(self, before: int) -> None:
        """Give up the frames with lower numbers that are not finished; what is queued runs to its end. Any thread."""
        self._mailbox.put(lambda: self._cancel_running(before))

    def stop(self, timeout_s: float) -> bool:
        """End the thread; return false where it did not end in time. Any thread but its own."""
        self._mailbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._device.current():
            self._handle_messages()

    def _handle_messages(self) -> None:
        while True:
            try:
                message = self._mailbox.get(timeout=max(0.0, min(self._patience.look_every_s, self._deadlines.left_s)))
            except Empty:
                message = _nothing
            if message is None:
                return
            try:
                message()
                self._keep_deadlines()
                self._look_for_hung_stages()
            except Exception as error:
                found = f"failed with {error!r}"
                self._break(PipelineBroken("scheduler", found, "report this; open a new pipeline"), error)
            del message  # it may hold the last reference to a frame

    # Frames begin and end

    def _nudged(self) -> None:
        self._is_nudged = False
        self._admit()

    def _admit(self) -> None:
        """Begin frames while slots are to be had: a slot can be queued for again once its last frame is all queued."""
        if self.broken is not None:
            self._refuse_waiting(self.broken)  # they came in while it broke
        while self.broken is None and self._is_open(self._slots[0]):
            job = self._ledger.take(False)
            if job is None:
                return
            slot = self._slots[0]
            self._slots.rotate(-1)
            self._patience.renew()
            job.slot = slot
            self._occupants[id(slot)] = self._running[job.ticket.number] = job
            self._deadlines.watch(job)
            self._guarded(job, "the upload", self._dispatcher.upload)
            self._advance(job)

    def _is_open(self, slot: Slot) -> bool:
        occupant = self._occupants.get(id(slot))
        return occupant is None or occupant.is_queued

    def _advance(self, job: Job) -> None:
        """Queue or skip every stage whose inputs are queued and whose n is known; then the way home."""
        if job.is_overdue and not job.is_queued:
            cut_short(job, self._plan)
        for stage in tuple(job.remaining):
            if job.error is None:
                self._guarded(job, stage.subject, self._handle, stage)
        if job.error is not None:
            job.remaining.clear()
        if not job.remaining and not job.is_queued and not (job.deadline_s is not None and job.is_awaited):
            if job.error is None:
                self._guarded(job, "the download", self._dispatcher.bring_home)
            job.is_queued = True
            self._admit()
        if job.is_queued and not job.is_awaited:
            self._finish(job)

    def _guarded(self, job: Job, subject: str, step: Callable[..., None], *given: Any) -> None:
        """Let what a step raises be the failure of its frame; `subject` is the stage or copy at fault."""
        try:
            step(job, *given)
        except Exception as error:
            job.error = job.error or _as_failure(subject, error)

    def _finish(self, job: Job) -> None:
        """Hand out the result; and what the frame holds, once nothing runs of it: not even what was dropped."""
        if job.ticket.number not in self._running:
            return  # it was given up before
        has_ended = all(piece.has_ended for piece in job.pieces)
        if has_ended:
            self._let_go(job)
        if not job.is_finished:
            job.is_finished = True
            if job.error is None:
                self._guarded(job, "the measurement", self._evaluate)
            self._ledger.finished(job)
        if has_ended:
            self._ledger.ended(job)
        self._admit()

    def _let_go(self, job: Job) -> None:
        """Forget a frame; what the caller lent goes back."""
        del self._running[job.ticket.number]
        job.foreign, job.imported = {}, {}
        if self._occupants.get(id(job.slot)) is job:
            del self._occupants[id(job.slot)]

    def _evaluate(self, job: Job) -> None:
        job.runs, job.spans = stage_runs(job, self._plan), spans(job, self._clock)
        self._decisions.learn(job)

    # Stages

    def _handle(self, job: Job, stage: StagePlan) -> None:
        readable = job.readable
        decision = self._decisions.of(job, stage) if stage.producers <= readable else None
        if decision is not None:
            self._settle(job, stage, decision)
        elif self._is_worth_a_guess(job, stage) and stage.sources <= readable and not job.lacks(stage):
            self._guess(job, stage)

    def _settle(self, job: Job, stage: StagePlan, decision: Decision) -> None:
        """Queue a stage that is certain to run, if it was not queued before, or skip it."""
        job.remaining.remove(stage)
        job.decisions[stage.name] = decision
        is_guessed, failure = stage.name in job.guesses, job.guesses.pop(stage.name, None)
        if decision.n == 0:
            job.skip(stage)
        elif not is_guessed:
            self._dispatcher.run(job, stage, decision.n)
            self._patience.renew()
        elif failure is not None:
            raise failure

    def _is_worth_a_guess(self, job: Job, stage: StagePlan) -> bool:
        """Whether to queue a stage before it is decided about. On one stream it would hold up what is certain."""
        is_free = stage.name not in job.guesses and not job.is_overdue
        return stage.entry.speculative and self._lanes.side_by_side and is_free

    def _guess(self, job: Job, stage: StagePlan) -> None:
        """Queue a stage that may be skipped yet. Nothing is queued behind it before it is certain."""
        job.guesses[stage.name] = None
        try:
            self._dispatcher.run(job, stage, 1)
        except Exception as error:  # it concerns the frame if the stage does
            job.guesses[stage.name] = error
        self._patience.renew()

    # What streams report

    def _report(self, job: Job, piece: Piece, error: BaseException | None) -> None:
        self._mailbox.put(partial(self._heard, job, piece, error))

    def _heard(self, job: Job, piece: Piece, error: BaseException | None) -> None:
        """A piece of work has ended."""
        self._patience.renew()
        piece.has_ended = True
        if piece.stage is not None and error is None:
            arrived = self._plan.decision_tensors.intersection(piece.stage.writes)
            job.arrived.update(arrived)
            error = _find_nan(job, arrived)
        if error is not None:
            self._fail(job, piece, error)
        self._advance(job)

    def _fail(self, job: Job, piece: Piece, error: BaseException) -> None:
        """Let the failure of a piece of work be that of its frame, unless what it makes does not count."""
        if piece.name in job.guesses:
            job.guesses[piece.name] = job.guesses[piece.name] or error
        elif not piece.is_dropped and job.error is None:
            job.error = _as_failure(_origin(job, piece, error).subject, error)

    # Time

    def _keep_deadlines(self) -> None:
        for job in self._deadlines.passed():
            job.is_overdue = True
            self._advance(job)

    def _look_for_hung_stages(self) -> None:
        if not self._patience.is_over() or not self._running or self.broken is not None:
            return
        job, piece = next(
            ((job, piece) for job in self._running.values() for piece in job.pieces if piece.is_running),
            (next(iter(self._running.values())), None),
        )
        name = "the device" if piece is None else piece.subject
        found = f"has not finished frame {job.ticket.number} after {self._patience.waited_s:.3g} s"
        remedy = "find out why it hangs, or raise timeout_s if it is only slow"
        if not job.is_finished:
            job.error = StageTimeout(name, found, remedy)
        self._break(PipelineBroken("pipeline", f"is broken: {name} {found}", "open a new one"), None)

    # What goes wrong

    def _break(self, error: CascadertError, cause: BaseException | None) -> None:
        """Fail every frame that is not finished, and take no more. The memory that work may touch is left to it."""
        error.__cause__ = cause
        self.broken = self.broken or error
        self._ledger.close(self.broken)
        running, self._running = self._running, {}
        for job in running.values():
            if job.slot is not None:
                job.slot.retired = True
            job.remaining.clear()
            if not job.is_finished:
                job.is_finished = True
                job.error = job.error or error.again()
                self._ledger.finished(job)
        self._refuse_waiting(error)

    def _refuse_waiting(self, error: CascadertError) -> None:
        while (waiting := self._ledger.take(True)) is not None:
            waiting.error = error.again()
            self._ledger.finished(waiting)
            self._ledger.ended(waiting)

    def _cancel_running(self, before: int) -> None:
        for job in [job for job in self._running.values() if job.ticket.number < before and not job.is_finished]:
            number = job.ticket.number
            job.error = job.error or FrameCancelled(
                f"frame {number}", "was given up before it was finished", "submit it again"
            )
            self._advance(job)


def _nothing() -> None:
    """Say nothing: no message came."""


def _as_failure(subject: str, error: BaseException) -> CascadertError:
    """Return an error of ours; what else a backend raises is named with its stage or copy, and is the cause."""
    if isinstance(error, CascadertError):
        return error
    failure = ExecutionError(subject, f"failed with {error!r}", "see its cause")
    failure.__cause__ = error
    return failure


def _origin(job: Job, piece: Piece, error: BaseException) -> Piece:
    """Return the piece of work that failed with an error: those that waited for it carry the same, and may be first."""
    return next((other for other in job.pieces if other.end.error is error), piece)


def _find_nan(job: Job, arrived: frozenset[str]) -> CascadertError | None:
    """Where scores hold NaN their order means nothing."""
    for name in arrived:
        array = job.host(name)
        if array.dtype.kind == "f" and np.isnan(array.max()):
            return ExecutionError(name, "holds NaN", "check the weights, and the frame")
    return None
