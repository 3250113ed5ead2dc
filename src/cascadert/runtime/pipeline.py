"""`Pipeline`: frames go in, labels come out in order, and stages of several frames run side by side.

Ownership: `submit` copies a frame of the host before it returns, so the caller may use that memory again at once; a
frame in device memory is borrowed until its result is out. Stages that a deadline gave up may read it for longer: the
pipeline keeps its reference until they have ended, and since what they make is dropped, the caller may write to the
memory, but not free it behind the reference's back. Results are the caller's. Threads: `submit`, `next`, `set_policy`,
`counts` and `close` may be called from any thread, also at the same time; results come in the order of tickets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from cascadert.bundle import BundleManifest
from cascadert.device import Device
from cascadert.errors import CascadertError, InvalidRequest, NoResultYet
from cascadert.executable import Executable
from cascadert.runtime.deadlines import Now
from cascadert.runtime.decisions import Decisions
from cascadert.runtime.dispatch import rows_of
from cascadert.runtime.feed import feed
from cascadert.runtime.job import Job
from cascadert.runtime.lanes import make_lanes
from cascadert.runtime.ledger import Deadline, Ledger, closed_error
from cascadert.runtime.options import RuntimeOptions, check_deadline, kept_tensors
from cascadert.runtime.plan import make_plan, producer
from cascadert.runtime.planes import sort_planes
from cascadert.runtime.results import NO_POLICIES, Array, Counts, Planes, Policies, Result, Submission, Ticket
from cascadert.runtime.scheduler import Scheduler
from cascadert.runtime.slots import Staging, allocate_slots, allocate_staging
from cascadert.spec import FrameRatePolicy, LatencyPolicy, SelectPolicy, ThresholdPolicy, TopKPolicy

_CLOSE_S = 10.0
_LEAST_S = 0.2  # for each thread that close waits for, even when its time is over
_READMITTED = 1  # frames queued behind those that have the slots: their turn comes without the host


class Pipeline:
    """A loaded cascade. A context manager.

    Args:
        manifest: what the stages are and how they are wired.
        executables: each stage, loaded; the pipeline closes them.
        device: where they run; the pipeline closes it.
        options: see `RuntimeOptions`.
        cpus: the cores of each stage's stream, where they are to be held apart.
        now: the clock in seconds that deadlines and latencies are read from.

    Raises:
        InvalidRequest: options that do not fit the manifest.
    """

    def __init__(
        self, manifest: BundleManifest, executables: Mapping[str, Executable], device: Device,
        options: RuntimeOptions = RuntimeOptions(), cpus: Mapping[str, frozenset[int]] = MappingProxyType({}), *,
        now: Now = time.perf_counter,
    ) -> None:  # fmt: skip
        self.manifest, self.device, self.options, self.plan = manifest, device, options, make_plan(manifest)
        self._executables, self._now = executables, now
        self._decisions = Decisions(self.plan, executables, self.blocks, options.costs)
        self._kept = kept_tensors(self.plan, options)
        self._policies: dict[str, SelectPolicy] = {
            stage.name: stage.select.policy for stage in manifest.stages if stage.select is not None
        }
        self.slots = 1 if options.mode == "serial" else options.slots or self.plan.depth + 1
        room = self.slots + _READMITTED
        stagings = allocate_staging(self.plan, device, room + options.queue, self._kept)
        self._ledger = Ledger(stagings, room, options.queue, options.overflow, now)
        self._submitting, self._submitted = threading.Lock(), 0
        self.stream_in_use = threading.Lock()
        self._closing = threading.Lock()
        self._ended: bool | None = None
        self._lanes = make_lanes(self.plan, device, options.mode, cpus)
        self._scheduler = Scheduler(
            self.plan, executables, device, self._lanes, allocate_slots(self.plan, device, self.slots),
            self._decisions, self._ledger, kept=self._kept, on_device=options.device_labels,
            timeout_s=options.timeout_s, now=now,
        )  # fmt: skip

    @property
    def blocks(self) -> int:
        """Blocks of a frame, of all cameras: N * G."""
        return self.manifest.spec.blocks

    def refined(self, stage: str, n: int) -> int:
        """Return how many blocks a stage refines where its decision says n (1 and up); see `Decisions.rounded`."""
        return self._decisions.rounded(stage, n)

    @property
    def counts(self) -> Counts:
        """What became of the frames so far."""
        return self._ledger.counts

    @property
    def broken(self) -> CascadertError | None:
        """Why the pipeline takes no more frames, if a stage hangs."""
        return self._scheduler.broken

    def set_policy(self, stage: str, policy: SelectPolicy) -> None:
        """Change the decision before `stage`, for frames that are submitted from now on.

        Raises:
            InvalidRequest: `stage` makes no decision.
        """
        self._with_policies({stage: policy})  # refuses stages that there are not
        self._policies[stage] = policy

    def submit(
        self, frame: Planes, timestamp_s: float | None = None, *, policies: Policies = NO_POLICIES,
        context: Any = None, deadline_ms: float | None = None, timeout_s: float | None = None,
    ) -> Ticket:  # fmt: skip
        """Hand over a frame. Waits while there is no room, or drops the oldest frame that waits, as the options say.

        Args:
            frame: uint8 `[N, H, W, C]` (`[H, W, C]` for one camera) in the manifest's pixel format; for NV12 a mapping
                of the planes `frame.y` and `frame.uv`. Numpy arrays, or arrays of the device (DLPack).
            timestamp_s: the caller's; comes back in the ticket.
            policies: decisions for this frame alone, by stage.
            context: anything; comes back in the ticket.
            deadline_ms: when the result is wanted, from now on; none: as the options say.
            timeout_s: how long to wait for room; none: for as long as it takes.

        Raises:
            InvalidRequest: a frame of another size or type, a policy for a stage that makes no decision, or a pipeline
                that is closed; a deadline that is none.
            NoResultYet: no room within the time.
            PipelineBroken: a stage hangs.
        """
        host, foreign = sort_planes(frame, self.plan, self.device)
        chosen = self._with_policies(policies)
        check_deadline(deadline_ms)
        submitted_s, deadline = self._now(), Deadline(timeout_s)
        deadline_ms = self.options.deadline_ms if deadline_ms is None else deadline_ms
        due_s = None if deadline_ms is None else submitted_s + deadline_ms / 1e3
        if not self._submitting.acquire(timeout=-1 if deadline.left_s is None else deadline.left_s):
            found = f"others have waited for room for {timeout_s:g} s"
            raise NoResultYet("submit", found, "take results with next, or allow more time")
        try:  # tickets are numbered in the order in which frames enter
            staging = self._reserve(host, deadline)
            ticket = Ticket(self._submitted, timestamp_s, context)
            self._submitted += 1
            self._ledger.enter(Job(ticket, staging, chosen, foreign, list(self.plan.stages), submitted_s, due_s))
        finally:
            self._submitting.release()
        self._scheduler.nudge()
        return ticket

    def _reserve(self, planes: Mapping[str, Array], deadline: Deadline) -> Staging:
        """Return a staging that holds the planes of the host."""
        staging = self._ledger.reserve(deadline)
        try:
            for name, plane in planes.items():
                np.copyto(staging.plane(name), plane, casting="no")
        except BaseException:  # an interrupt, too
            self._ledger.give_back(staging)
            raise
        return staging

    def next(self, timeout_s: float | None = None) -> Result:
        """Return the result of the next frame in order, waiting for it, also where none was submitted yet.

        Raises:
            NoResultYet: no result within the time.
            InvalidRequest: the pipeline is closed and every result was taken.
            CascadertError: the frame failed; this is why. The frames after it are not concerned.
        """
        return self.deliver(self._ledger.pop(Deadline(timeout_s)))

    def infer(self, frame: Planes, policies: Policies = NO_POLICIES) -> Result:
        """Run one frame through every stage and wait for it; see `submit`.

        Raises:
            InvalidRequest: also where frames are in flight.
            CascadertError: the frame failed.
        """
        self._refuse_in_flight("infer")
        self.submit(frame, policies=policies)
        return self.next()

    def stream(
        self, frames: Iterable[Planes | Submission], policies: Policies = NO_POLICIES,
        failed: Callable[[CascadertError], None] | None = None,
    ) -> Iterator[Result]:  # fmt: skip
        """Run frames as they come and yield their results in order.

        A thread of its own reads the frames, as far ahead as there is room. What reading them raises is raised here,
        after the results of all frames before. A frame that fails is raised in its turn and ends the stream, and so
        does closing the iterator: frames in flight are then given up. Where `failed` is given it is called with the
        failure (its `ticket` names the frame) in place of a result, and the stream goes on.

        Raises:
            InvalidRequest: frames are in flight.
            CascadertError: a frame failed.
        """
        self._refuse_in_flight("stream")
        return feed(self, self._ledger, frames, policies, failed)

    def give_up(self, timeout_s: float | None = None) -> bool:
        """Forget every frame that waits or is in flight, and every result that was not taken.

        Returns:
            Whether the device was done with all of them within the time.
        """
        before = self._ledger.cancel_waiting()
        self._scheduler.cancel(before)
        try:
            return self._ledger.clear(before, Deadline(timeout_s))
        finally:
            self._scheduler.nudge()  # for who came in meanwhile there is room now

    def close(self, *, drain: bool = False, timeout_s: float = _CLOSE_S) -> bool:
        """End the pipeline and release every stage and the device, within about `timeout_s`.

        Args:
            drain: finish the frames that were submitted; their results can still be taken. Otherwise they are given up.
            timeout_s: for how long to wait for work that is queued. What still runs then (a hung stage) is abandoned
                with the memory it uses.

        Returns:
            Whether everything came to its end.
        """
        self._ledger.close(closed_error())
        with self._submitting:  # no frame enters any more
            pass
        with self._closing:  # a second caller waits for the first
            if self._ended is None:
                self._ended = self._end(drain, Deadline(timeout_s))
            return self._ended

    def _end(self, drain: bool, deadline: Deadline) -> bool:
        self._scheduler.nudge()  # now that the ledger is closed there is room for all that wait
        if not (drain and self._ledger.drain(deadline)):
            self._scheduler.cancel(self._ledger.cancel_waiting())
            self._ledger.drain(deadline)
        ended = [self._scheduler.stop(max(_LEAST_S, deadline.left_s or 0.0))]
        ended += [stream.close(max(_LEAST_S, deadline.left_s or 0.0)) for stream in self._lanes.all()]
        self._ledger.abandon()
        for job in self._ledger.untaken():
            if job.error is None:
                job.result = self._result(job)
        ended.append(self._ledger.settle(Deadline(_LEAST_S)))
        if not all(ended):
            return False
        with ExitStack() as releases:
            releases.callback(self.device.close)
            releases.enter_context(self.device.current())
            for executable in self._executables.values():
                releases.callback(executable.close)
        return True

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def deliver(self, job: Job) -> Result:
        """Make a frame's result, or raise its failure; either way it leaves."""
        try:
            if job.error is not None:
                job.error.ticket = job.ticket
                raise job.error
            if job.result is not None:
                return replace(job.result, dropped=job.dropped)
            return self._result(job)
        finally:
            if self._ledger.leave(job):
                self._scheduler.nudge()

    def _result(self, job: Job) -> Result:
        assert job.finished_s is not None
        ran = {run.stage for run in job.runs if run.outcome == "ran"}
        kept = [name for name in self._kept if producer(name) in ran]
        return Result(
            labels=job.host(self.plan.labels).copy(),
            runs=job.runs,
            tensors=MappingProxyType({name: _rows(job.host(name), rows_of(self.plan, job, name)) for name in kept}),
            latency_ms=(job.finished_s - job.submitted_s) * 1e3,
            ticket=job.ticket,
            spans=job.spans,
            dropped=job.dropped,
            device_labels=job.device_labels,
            labels_from=producer(job.labels),
            expired=job.is_expired,
        )

    def _with_policies(self, policies: Policies) -> dict[str, SelectPolicy]:
        unknown = sorted(set(policies) - set(self._policies))
        if unknown:
            known = ", ".join(self._policies) or "none"
            raise InvalidRequest(f"policy for stage '{unknown[0]}'", "makes no decision", f"stages that do: {known}")
        for stage, policy in policies.items():
            if not isinstance(policy, ThresholdPolicy | TopKPolicy | LatencyPolicy | FrameRatePolicy):
                found = f"is a {type(policy).__name__}"
                raise InvalidRequest(
                    f"policy for stage '{stage}'", found, "give one of cascadert.spec, as ThresholdPolicy"
                )
        return {**self._policies, **policies}

    def _refuse_in_flight(self, verb: str) -> None:
        if self.stream_in_use.locked():
            raise InvalidRequest(verb, "a stream is being read", "read it to its end, or close its iterator")
        if self.counts.in_flight:
            found = f"{self.counts.in_flight} frames are in flight"
            raise InvalidRequest(verb, found, "take their results with next, or give_up")


def _rows(array: Array, n: int | None) -> Array:
    copy: Array = (array if n is None else array[:n]).copy()
    return copy
