"""The thread that queues work: every stage of every frame as soon as its inputs are queued and its n is known.

It reads the plan and knows no system. What it waits for are messages: a frame, the end of a piece of work, a result
that was taken. Nothing here waits for a device; a decision that needs scores is made when their stage reports.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from cascadert.device import Device, Event, Stream
from cascadert.errors import CascadertError, ExecutionError, FrameCancelled, PipelineBroken, StageTimeout
from cascadert.executable import Executable
from cascadert.runtime.job import Decision, Job, Piece, stage_runs
from cascadert.runtime.lanes import Lanes
from cascadert.runtime.observe import observations
from cascadert.runtime.plan import Plan, StagePlan
from cascadert.runtime.results import Span
from cascadert.runtime.selection import Decider
from cascadert.runtime.slots import Slot

_IDLE_S = 0.5  # how often a scheduler with frames in flight looks whether something hangs, at least


@dataclass(frozen=True)
class Clock:
    """A moment on the device and on the host: where spans count from."""

    event: Event
    seconds: float

    def on_device(self, event: Event) -> float:
        """Milliseconds since then of an event that happened."""
        return event.milliseconds_since(self.event)

    def on_host(self, seconds: float) -> float:
        """Milliseconds since then of a reading of `time.perf_counter`."""
        return (seconds - self.seconds) * 1e3


class Scheduler:
    """Runs frames through the stages.

    Args:
        plan: what there is to run.
        executables: each stage, loaded.
        device: makes copies.
        lanes: the streams.
        slots: memory for frames in flight; all that are equal may be used at once.
        deciders: the decision before each stage that has one.
        timeout_s: after how long without any progress a stage counts as hung.
        take: returns the next frame to begin, if there is one and room for it (or without asking for room).
        finished: called with every frame that is finished.
    """

    def __init__(
        self, plan: Plan, executables: Mapping[str, Executable], device: Device, lanes: Lanes, slots: list[Slot],
        deciders: Mapping[str, Decider], *, kept: frozenset[str], on_device: bool, timeout_s: float | None,
        take: Callable[[bool], Job | None], finished: Callable[[Job], None],
    ) -> None:  # fmt: skip
        self._plan, self._executables, self._device, self._lanes = plan, executables, device, lanes
        self._slots, self._deciders, self._kept, self._on_device = deque(slots), deciders, kept, on_device
        self._timeout_s, self._take, self._finished = timeout_s, take, finished
        self._occupants: dict[int, Job] = {}
        self._running: dict[int, Job] = {}
        self._mailbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._patience_s = _IDLE_S if timeout_s is None else min(_IDLE_S, timeout_s / 4)
        self._looked_s, self._waited_s = time.perf_counter(), 0.0
        self._is_nudged = False
        self.broken: CascadertError | None = None
        epoch = lanes.upload.record()
        epoch.synchronize()
        self.clock = Clock(epoch, time.perf_counter())
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
                message = self._mailbox.get(timeout=self._patience_s)
            except Empty:
                message = _nothing
            if message is None:
                return
            try:
                message()
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
            job = self._take(False)
            if job is None:
                return
            slot = self._slots[0]
            self._slots.rotate(-1)
            self._waited_s = 0.0
            job.slot = slot
            self._occupants[id(slot)] = self._running[job.ticket.number] = job
            self._guarded(job, "upload", self._upload)
            self._advance(job)

    def _is_open(self, slot: Slot) -> bool:
        occupant = self._occupants.get(id(slot))
        return occupant is None or occupant.is_queued

    def _upload(self, job: Job) -> None:
        """Bring the frame to the device; where memory is shared it is there already."""
        assert job.slot is not None
        if not job.foreign and self._device.unified:
            return
        stream, names = self._lanes.upload, list(self._plan.planes)
        for event in job.slot.before_writing(names, stream):
            stream.wait(event)
        begin = stream.begin()
        try:
            for name in names:
                source = job.staging.planes[name]
                if name in job.foreign:
                    source = self._device.import_array(job.foreign[name], stream)
                if self._device.unified:
                    job.imported[name] = source
                else:
                    self._device.copy(source, job.slot.buffers[name], stream)
        finally:
            end = stream.record()
            if self._device.unified:
                job.ready = (end,)
            else:
                job.slot.writing(names, stream, end)
            self._await(job, Piece("upload", stream.name, begin, end), stream)

    def _advance(self, job: Job) -> None:
        """Queue or skip every stage whose inputs are queued and whose n is known; then the way home."""
        for stage in tuple(job.remaining):
            if job.error is None and stage.producers <= job.handled:
                self._guarded(job, stage.name, self._handle, stage)
        if job.error is not None:
            job.remaining.clear()
        if not job.remaining and not job.is_queued:
            if job.error is None:
                self._guarded(job, "download", self._download)
            job.is_queued = True
            self._admit()
        if job.is_queued and not job.outstanding:
            self._finish(job)

    def _guarded(self, job: Job, name: str, step: Callable[..., None], *given: Any) -> None:
        """Let what a step raises be the failure of its frame; `name` is the stage or copy at fault."""
        try:
            step(job, *given)
        except Exception as error:
            job.error = job.error or self._as_failure(name, error)

    def _finish(self, job: Job) -> None:
        if self._running.pop(job.ticket.number, None) is None:
            return  # it was given up before
        assert job.slot is not None
        if job.error is None:
            self._guarded(job, "measurement", self._evaluate)
        if not job.slot.retired:  # nothing runs any more: what the caller lent goes back
            job.foreign, job.imported = {}, {}
            if self._occupants.get(id(job.slot)) is job:
                del self._occupants[id(job.slot)]
        self._finished(job)
        self._admit()

    def _evaluate(self, job: Job) -> None:
        job.runs, job.spans = stage_runs(job, self._plan), self._spans(job)
        if any(self._deciders[stage].learns(job.policies[stage]) for stage in job.decisions):
            for stage, seen in observations(job, self._plan).items():
                self._deciders[stage].observe(seen)

    # Stages

    def _handle(self, job: Job, stage: StagePlan) -> None:
        n = None
        if stage.entry.select is not None:
            decision = self._decide(job, stage)
            if decision is None:
                return  # its scores have not arrived
            job.decisions[stage.name], n = decision, decision.n
        job.remaining.remove(stage)
        job.handled.add(stage.name)
        if n == 0:
            for output in stage.entry.outputs:
                stand_in = output.when_skipped
                job.owners[f"{stage.name}.{output.name}"] = None if stand_in is None else job.owner(stand_in)
        else:
            self._queue_stage(job, stage, n)

    def _decide(self, job: Job, stage: StagePlan) -> Decision | None:
        select = stage.entry.select
        assert select is not None
        scores, order = job.owner(select.scores), job.owner(select.order)
        if scores is None or order is None:
            return Decision(0)
        decider, policy = self._deciders[stage.name], job.policies[stage.name]
        started = time.perf_counter()
        n = decider.without_scores(policy, self._candidates(job, scores))
        if n is None:
            if scores not in job.arrived:
                return None
            n = decider.choose(policy, job.host(scores))
        n = self._executables[stage.name].blocks(n) if n else 0
        ended = time.perf_counter()
        name, clock = f"decide {stage.name}", self.clock
        job.host_spans.append(Span(name, "host", clock.on_host(started), clock.on_host(ended), n))
        return Decision(n, scores, order, decider.predicted_ms(n), decider.theta)

    def _candidates(self, job: Job, scores: str) -> int:
        """How many blocks have a score: all of them, or those that the stage refined which made the scores."""
        decision = job.decisions.get(scores.split(".", 1)[0])
        return self._plan.tensors[scores].shape[0] if decision is None else decision.n

    def _queue_stage(self, job: Job, stage: StagePlan, n: int | None) -> None:
        assert job.slot is not None
        stream, slot, executable = self._lanes.stages[stage.name], job.slot, self._executables[stage.name]
        reads = [self._present(job, stage.name, source) for source in stage.reads] if job.owners else stage.reads
        bindings = {name: slot.buffers[tensor] for name, tensor in stage.outputs}
        for entry, tensor in zip(stage.entry.inputs, reads, strict=True):
            buffer = job.buffer(tensor)
            bindings[entry.name] = buffer.prefix(n or 0) if entry.prefix else buffer
        for event in slot.before_writing(stage.writes, stream):
            stream.wait(event)
        begin = stream.begin([*job.ready, *slot.before_reading(reads, stream)])
        try:
            executable.enqueue(bindings, stream)
        finally:  # what was queued before it failed runs, and the frame is not finished before
            end = stream.record()
            slot.reading(reads, stream, end)
            slot.writing(stage.writes, stream, end)
            try:
                for name in self._plan.decision_tensors.intersection(stage.writes):
                    self._device.copy(slot.buffers[name], job.staging.results[name], stream)
            finally:
                self._await(job, Piece(stage.name, stream.name, begin, end, n), stream, stage)

    def _present(self, job: Job, name: str, source: str) -> str:
        owner = job.owner(source)
        if owner is None:
            found = f"reads {source}, which was skipped and which nothing stands for"
            raise ExecutionError(self._subject(name), found, "give that output a when_skipped, and export anew")
        return owner

    def _download(self, job: Job) -> None:
        """Bring home the labels and what else is to be kept."""
        assert job.slot is not None
        labels = self._present(job, "download", self._plan.labels)
        ran = {piece.name for piece in job.pieces}
        kept = [name for name in self._kept if name.split(".", 1)[0] in ran and name != self._plan.labels]
        stream, slot, results = self._lanes.download, job.slot, job.staging.results
        begin = stream.begin(slot.before_reading([labels, *kept], stream))
        try:
            self._device.copy(slot.buffers[labels], results[self._plan.labels], stream)
            for name in kept:
                self._device.copy(slot.buffers[name], results[name], stream)
            if self._on_device:
                source = slot.buffers[labels]
                job.device_labels = self._device.allocate(source.shape, source.dtype)
                self._device.copy(source, job.device_labels, stream)
        finally:
            end = stream.record()
            slot.reading([labels, *kept], stream, end)
            self._await(job, Piece("download", stream.name, begin, end), stream)

    # What streams report

    def _await(self, job: Job, piece: Piece, stream: Stream, stage: StagePlan | None = None) -> None:
        job.pieces.append(piece)
        job.outstanding += 1
        self._waited_s = 0.0
        mailbox, heard = self._mailbox, partial(self._heard, job, piece, stage)
        stream.notify(lambda error: mailbox.put(partial(heard, error)))

    def _heard(self, job: Job, piece: Piece, stage: StagePlan | None, error: BaseException | None) -> None:
        """A piece of work has ended: of a stage, or a copy."""
        self._waited_s = 0.0
        job.outstanding -= 1
        if error is not None and job.error is None:
            job.error = self._as_failure(_origin(job, piece, error).name, error)
        if stage is not None and error is None:
            arrived = [name for name in stage.writes if name in self._plan.decision_tensors]
            job.arrived.update(arrived)
            self._guarded(job, stage.name, _refuse_nan, arrived)
        self._advance(job)

    def _spans(self, job: Job) -> tuple[Span, ...]:
        spans = []
        for piece in job.pieces:
            start_ms = self.clock.on_device(piece.begin)
            spans.append(Span(piece.name, piece.stream, start_ms, start_ms + job.times[piece.name], piece.n))
        return (*spans, *job.host_spans)

    # What goes wrong

    def _look_for_hung_stages(self) -> None:
        now = time.perf_counter()
        self._waited_s += min(now - self._looked_s, self._patience_s)  # a process that was stopped has not waited
        self._looked_s = now
        if self._timeout_s is None or not self._running or self.broken is not None or self._waited_s < self._timeout_s:
            return
        job, piece = next(
            ((job, piece) for job in self._running.values() for piece in job.pieces if piece.is_running),
            (next(iter(self._running.values())), None),
        )
        name = "the device" if piece is None else self._subject(piece.name)
        found = f"has not finished frame {job.ticket.number} after {self._waited_s:.3g} s"
        remedy = "find out why it hangs, or raise timeout_s if it is only slow"
        job.error = StageTimeout(name, found, remedy)
        self._break(PipelineBroken("pipeline", f"is broken: {name} {found}", "open a new one"), None)

    def _break(self, error: CascadertError, cause: BaseException | None) -> None:
        """Fail every frame, and take no more."""
        error.__cause__ = cause
        self.broken = self.broken or error
        for job in list(self._running.values()):
            if job.slot is not None:
                job.slot.retired = True
            job.error = job.error or error.again()
            job.remaining.clear()
            self._finish(job)
        self._refuse_waiting(error)

    def _refuse_waiting(self, error: CascadertError) -> None:
        while (waiting := self._take(True)) is not None:
            waiting.error = error.again()
            self._finished(waiting)

    def _cancel_running(self, before: int) -> None:
        for job in [job for job in self._running.values() if job.ticket.number < before]:
            number = job.ticket.number
            job.error = job.error or FrameCancelled(
                f"frame {number}", "was given up before it was finished", "submit it again"
            )
            self._advance(job)

    def _subject(self, name: str) -> str:
        return f"stage '{name}'" if name in self._executables else f"the {name}"

    def _as_failure(self, name: str, error: BaseException) -> CascadertError:
        """Return an error of ours; what else a backend raises is named with its stage or copy, and is the cause."""
        if isinstance(error, CascadertError):
            return error
        failure = ExecutionError(self._subject(name), f"failed with {error!r}", "see its cause")
        failure.__cause__ = error
        return failure


def _nothing() -> None:
    """Say nothing: no message came."""


def _origin(job: Job, piece: Piece, error: BaseException) -> Piece:
    """Return the piece of work that failed with an error: those that waited for it carry the same, and may be first."""
    return next((other for other in job.pieces if other.end.error is error), piece)


def _refuse_nan(job: Job, arrived: list[str]) -> None:
    """Where scores hold NaN their order means nothing."""
    for name in arrived:
        array: Any = job.host(name)
        if array.dtype.kind == "f" and np.isnan(array.max()):
            raise ExecutionError(name, "holds NaN", "check the weights, and the frame")
