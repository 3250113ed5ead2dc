"""Every frame that was submitted and whose result was not taken: the one place that threads share.

A frame waits, then begins (the scheduler takes it), is finished, and leaves when its result is taken. Frames that wait
may be dropped for newer ones. Each holds a staging from its submission until it has left and nothing of it runs any
more: work that was dropped may end after the result was taken.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from cascadert.errors import CascadertError, FrameCancelled, InvalidRequest, NoResultYet
from cascadert.runtime.job import Job
from cascadert.runtime.options import Overflow
from cascadert.runtime.results import Counts
from cascadert.runtime.slots import Staging

Fate = Literal["delivered", "failed", "cancelled"]


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
        room: frames that may have begun and not left, or of which something still runs.
        queue: frames that may wait.
        overflow: what becomes of a new frame where as many wait.
        now: the clock that says when frames were finished.
    """

    def __init__(
        self, stagings: Iterable[Staging], room: int, queue: int, overflow: Overflow,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._lock = threading.Lock()
        self._has_room, self._has_result = threading.Condition(self._lock), threading.Condition(self._lock)
        self._free = deque(stagings)
        self._room, self._queue, self._overflow, self._now = room, queue, overflow, now
        self._order: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._begun, self._leaving = 0, 0
        self._dropped_last, self._untold = 0, 0  # frames dropped, that the next to enter or to be delivered tells of
        self._counts = {"submitted": 0, "delivered": 0, "failed": 0, "dropped": 0, "cancelled": 0}
        self._closed: CascadertError | None = None

    @property
    def counts(self) -> Counts:
        """What became of all frames so far."""
        with self._lock:
            return Counts(**self._counts)

    def reserve(self, deadline: Deadline) -> Staging:
        """Wait for room for one more frame, or make it.

        Raises:
            NoResultYet: none within the time.
            CascadertError: why no frame is taken any more.
        """
        with self._lock:
            while True:
                self._refuse_if_closed()
                if len(self._waiting) < self._queue and self._free:
                    return self._free.popleft()
                if self._overflow == "drop-oldest" and self._waiting:
                    self._drop_oldest()
                elif deadline.is_over or not self._has_room.wait(deadline.left_s):
                    found = f"{len(self._order)} frames are in flight after {deadline.timeout_s:g} s"
                    raise NoResultYet("submit", found, "take results with next, or allow more time")

    def give_back(self, staging: Staging) -> None:
        """Return a staging that was reserved for a frame which did not come."""
        with self._lock:
            self._free.append(staging)
            self._tell_of_room()

    def enter(self, job: Job) -> None:
        """Let a frame wait. Frames enter in the order of their tickets."""
        with self._lock:
            self._counts["submitted"] += 1
            job.dropped, self._dropped_last = self._dropped_last, 0
            self._order.append(job)
            self._waiting.append(job)

    def take(self, regardless: bool) -> Job | None:
        """Return the next frame to begin, if there is one and room for it; once closed, there is room for all."""
        with self._lock:
            if not self._waiting or (self._begun >= self._room and not regardless and self._closed is None):
                return None
            job = self._waiting.popleft()
            job.has_begun = True
            self._begun += 1
            self._tell_of_room()
            return job

    def finished(self, job: Job) -> None:
        """Note that the result of a frame is there, or why there is none."""
        with self._lock:
            self._finish(job)
            self._has_result.notify_all()

    def ended(self, job: Job) -> None:
        """Note that nothing of a frame runs any more."""
        with self._lock:
            job.has_ended = True
            self._make_room(job)
            self._has_result.notify_all()

    def pop(self, deadline: Deadline, hopeless: Callable[[], bool] = lambda: False) -> Job:
        """Wait for the next frame in order; whoever gets it calls `leave`.

        Raises:
            NoResultYet: it is not finished within the time, or there is none and it is `hopeless` to wait for one.
            CascadertError: there is none, nor will there be: this is why.
        """
        with self._lock:
            while True:
                if self._order and self._order[0].finished_s is not None:
                    return self._pop_finished()
                if not self._order:
                    self._refuse_if_closed()
                    if hopeless():
                        raise NoResultYet("next", "no frame is in flight", "submit one")
                if deadline.is_over or not self._has_result.wait(deadline.left_s):
                    found = f"{len(self._order)} frames are in flight, and none is done after {deadline.timeout_s:g} s"
                    raise NoResultYet("next", found, "ask again, or submit a frame")

    def wake(self) -> None:
        """Have those who wait for a result look again."""
        with self._lock:
            self._has_result.notify_all()

    def leave(self, job: Job) -> bool:
        """Count what became of a frame that was popped, free what it held, and say whether another waits for that."""
        with self._lock:
            self._leaving -= 1
            self._leave(job, _fate(job))
            if not self._leaving and self._closed is not None:
                self._has_result.notify_all()
            return bool(self._waiting)

    def cancel_waiting(self) -> int:
        """Finish every frame that has not begun: it never will. Return the number after the last ticket there is."""
        with self._lock:
            while self._waiting:
                job = self._waiting.popleft()
                job.has_ended = True
                found = "was given up before it began"
                job.error = FrameCancelled(f"frame {job.ticket.number}", found, "submit it again")
                self._finish(job)
            self._tell_of_room()
            self._has_result.notify_all()
            return self._order[-1].ticket.number + 1 if self._order else 0

    def clear(self, before: int, deadline: Deadline) -> bool:
        """Wait until nothing runs of frames with lower numbers; they leave as cancelled. False where time runs out."""
        with self._lock:
            while self._order and self._order[0].ticket.number < before:
                if _is_over(self._order[0]):
                    job = self._order.popleft()
                    self._untold += job.dropped
                    self._leave(job, "cancelled")
                elif deadline.is_over or not self._has_result.wait(deadline.left_s):
                    return False
        return True

    def drain(self, deadline: Deadline) -> bool:
        """Wait until every frame is finished; false where time runs out."""
        with self._lock:
            while any(job.finished_s is None for job in self._order):
                if deadline.is_over or not self._has_result.wait(deadline.left_s):
                    return False
        return True

    def abandon(self) -> None:
        """Finish every frame whatever runs of it: nobody will hear of its end."""
        with self._lock:
            for job in self._order:
                if job.finished_s is None:
                    found = "was still running when the pipeline was closed"
                    job.error = job.error or FrameCancelled(f"frame {job.ticket.number}", found, "submit it again")
                    self._finish(job)
            self._has_result.notify_all()

    def settle(self, deadline: Deadline) -> bool:
        """Wait until those who popped a frame have taken its result; false where time runs out."""
        with self._lock:
            while self._leaving:
                if deadline.is_over or not self._has_result.wait(deadline.left_s):
                    return False
        return True

    def close(self, why: CascadertError) -> None:
        """Take no more frames. The first reason stays."""
        with self._lock:
            self._closed = self._closed or why
            self._has_room.notify_all()
            self._has_result.notify_all()

    def untaken(self) -> list[Job]:
        """Return the frames that are finished and whose results were not taken."""
        with self._lock:
            return [job for job in self._order if job.finished_s is not None]

    # With the lock held

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise self._closed.again()

    def _finish(self, job: Job) -> None:
        if job.finished_s is None:
            job.finished_s = self._now()

    def _pop_finished(self) -> Job:
        job = self._order.popleft()
        self._leaving += 1
        job.dropped, self._untold = job.dropped + self._untold, 0
        if job.error is not None:  # what it cannot tell, the next result does
            self._untold = job.dropped
        return job

    def _drop_oldest(self) -> None:
        """Forget a frame entirely; the one after it remembers that it was dropped."""
        job = self._waiting.popleft()
        self._order.remove(job)
        if self._waiting:
            self._waiting[0].dropped += job.dropped + 1
        else:
            self._dropped_last += job.dropped + 1
        self._free.append(job.staging)
        self._counts["dropped"] += 1

    def _leave(self, job: Job, fate: Fate) -> None:
        self._counts[fate] += 1
        job.has_left = True
        self._make_room(job)

    def _make_room(self, job: Job) -> None:
        if job.has_left and job.has_ended:
            self._begun -= job.has_begun
            self._free.append(job.staging)
            self._tell_of_room()

    def _tell_of_room(self) -> None:
        if self._free and len(self._waiting) < self._queue:
            self._has_room.notify_all()


def _is_over(job: Job) -> bool:
    """Whether a frame is finished and nothing of it runs, as far as anybody will hear."""
    return job.finished_s is not None and (job.has_ended or (job.slot is not None and job.slot.retired))


def _fate(job: Job) -> Fate:
    if job.error is None:
        return "delivered"
    return "cancelled" if isinstance(job.error, FrameCancelled) else "failed"


def closed_error() -> CascadertError:
    """Why a closed pipeline takes nothing and gives nothing."""
    return InvalidRequest("pipeline", "is closed", "open it again")
