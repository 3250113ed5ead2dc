"""Every frame that was submitted and whose result was not taken: the one place that threads share.

A frame waits, then begins (the scheduler takes it), is finished, and leaves when its result is taken. Frames that wait
may be dropped for newer ones. Each holds a staging from its submission until it leaves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from cascadert.errors import CascadertError, FrameCancelled, InvalidRequest, NoResultYet
from cascadert.runtime.job import Job
from cascadert.runtime.options import Overflow
from cascadert.runtime.results import Counts
from cascadert.runtime.slots import Staging


class Deadline:
    """A point in time until which to wait; none: for ever."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, not below 0."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.left_s == 0.0


class Ledger:
    """Frames in the order of their tickets. Safe to use from any thread.

    Args:
        stagings: `room + queue` of them.
        room: frames that may have begun and not left.
        queue: frames that may wait.
        overflow: what becomes of a new frame where as many wait.
    """

    def __init__(self, stagings: Iterable[Staging], room: int, queue: int, overflow: Overflow) -> None:
        self._changed = threading.Condition()
        self._free = deque(stagings)
        self._room, self._queue, self._overflow = room, queue, overflow
        self._order: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._begun = 0
        self._counts = Counts()
        self._closed: CascadertError | None = None

    @property
    def counts(self) -> Counts:
        """What became of all frames so far."""
        with self._changed:
            return self._counts

    def reserve(self, deadline: Deadline) -> Staging:
        """Wait for room for one more frame, or make it.

        Raises:
            NoResultYet: none within the time.
            CascadertError: why no frame is taken any more.
        """
        with self._changed:
            while True:
                if self._closed is not None:
                    raise self._closed
                if len(self._waiting) < self._queue and self._free:
                    return self._free.popleft()
                if self._overflow == "drop-oldest" and self._waiting:
                    self._drop(self._waiting.popleft())
                elif deadline.is_over or not self._changed.wait(deadline.left_s):
                    found = f"{len(self._order)} frames are in flight after {deadline.timeout_s:g} s"
                    raise NoResultYet("submit", found, "take results with next, or allow more time")

    def give_back(self, staging: Staging) -> None:
        """Return a staging that was reserved for a frame which did not come."""
        with self._changed:
            self._free.append(staging)
            self._changed.notify_all()

    def enter(self, job: Job) -> None:
        """Let a frame wait. Frames enter in the order of their tickets."""
        with self._changed:
            self._count(submitted=1)
            self._order.append(job)
            self._waiting.append(job)

    def take(self, regardless: bool) -> Job | None:
        """Return the next frame to begin, if there is one and room for it."""
        with self._changed:
            if not self._waiting or (self._begun >= self._room and not regardless):
                return None
            job = self._waiting.popleft()
            job.has_begun = True
            self._begun += 1
            self._changed.notify_all()
            return job

    def finished(self, job: Job) -> None:
        """Note that nothing of a frame runs any more."""
        with self._changed:
            job.finished_s = time.perf_counter()
            self._changed.notify_all()

    def pop(self, deadline: Deadline, hopeless: Callable[[], bool] = lambda: False) -> tuple[Job, int]:
        """Wait for the next frame in order; return it with the number of frames dropped before it.

        Raises:
            NoResultYet: it is not finished within the time, or there is none and it is `hopeless` to wait for one.
            CascadertError: there is none, nor will there be: this is why.
        """
        dropped = 0
        with self._changed:
            while True:
                while self._order and self._order[0].is_dropped:
                    self._order.popleft()
                    dropped += 1
                if self._order and self._order[0].finished_s is not None:
                    return self._order.popleft(), dropped
                if self._closed is not None and not self._order:
                    raise self._closed
                if not self._order and hopeless():
                    raise NoResultYet("next", "no frame is in flight", "submit one")
                if deadline.is_over or not self._changed.wait(deadline.left_s):
                    found = f"{len(self._order)} frames are in flight, and none is done after {deadline.timeout_s:g} s"
                    raise NoResultYet("next", found, "ask again, or submit a frame")

    def wake(self) -> None:
        """Have those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def leave(self, job: Job, **fate: int) -> None:
        """Count what became of a frame that was popped, and free what it held."""
        with self._changed:
            self._leave(job, **fate)

    def cancel_waiting(self) -> None:
        """Finish every frame that has not begun: it never will."""
        with self._changed:
            while self._waiting:
                job = self._waiting.popleft()
                found = "was given up before it began"
                job.error = FrameCancelled(f"frame {job.ticket.number}", found, "submit it again")
                job.finished_s = time.perf_counter()
            self._changed.notify_all()

    def clear(self, deadline: Deadline) -> bool:
        """Wait until every frame is finished, and let them all leave as cancelled; false where time runs out."""
        with self._changed:
            while self._order:
                if self._order[0].finished_s is None:
                    if deadline.is_over or not self._changed.wait(deadline.left_s):
                        return False
                else:
                    job = self._order.popleft()
                    if not job.is_dropped:
                        self._leave(job, cancelled=1)
        return True

    def drain(self, deadline: Deadline) -> bool:
        """Wait until every frame is finished; false where time runs out."""
        with self._changed:
            while any(job.finished_s is None for job in self._order):
                if deadline.is_over or not self._changed.wait(deadline.left_s):
                    return False
        return True

    def close(self, why: CascadertError) -> None:
        """Take no more frames."""
        with self._changed:
            self._closed = why
            self._changed.notify_all()

    def untaken(self) -> list[Job]:
        """Return the frames that are finished and whose results were not taken."""
        with self._changed:
            return [job for job in self._order if job.finished_s is not None]

    def _drop(self, job: Job) -> None:
        job.is_dropped, job.finished_s = True, time.perf_counter()
        self._free.append(job.staging)
        self._count(dropped=1)

    def _leave(self, job: Job, **fate: int) -> None:
        if job.has_begun:
            self._begun -= 1
        if job.slot is None or not job.slot.retired:
            self._free.append(job.staging)
        self._count(**fate)
        self._changed.notify_all()

    def _count(self, **fate: int) -> None:
        now = self._counts
        self._counts = replace(now, **{name: getattr(now, name) + count for name, count in fate.items()})


def closed_error() -> CascadertError:
    """Why a closed pipeline takes nothing and gives nothing."""
    return InvalidRequest("pipeline", "is closed", "open it again")
