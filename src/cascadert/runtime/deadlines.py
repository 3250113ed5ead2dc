"""Frames that must be out in time: whose turn it is, and what is taken of them then."""

from __future__ import annotations

import math
from collections.abc import Callable

from cascadert.runtime.job import Job
from cascadert.runtime.plan import Plan

Now = Callable[[], float]
"""Seconds of the clock that deadlines are read from."""


class Deadlines:
    """The deadlines of frames in flight. Not thread-safe."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._frames: list[Job] = []

    def watch(self, job: Job) -> None:
        """Watch a frame, if it has a deadline."""
        if job.deadline_s is not None:
            self._frames.append(job)

    @property
    def left_s(self) -> float:
        """Seconds until the nearest."""
        return min((_deadline(job) for job in self._frames), default=math.inf) - self._now()

    def passed(self) -> list[Job]:
        """Return the frames whose deadlines have passed, and watch them no longer; forget those that are out."""
        now = self._now()
        overdue = [job for job in self._frames if not job.is_queued and _deadline(job) <= now]
        self._frames = [job for job in self._frames if not job.is_queued and _deadline(job) > now]
        return overdue


def _deadline(job: Job) -> float:
    assert job.deadline_s is not None
    return job.deadline_s


def cut_short(job: Job, plan: Plan) -> None:
    """Give up what an overdue frame has not finished, as soon as it has labels.

    What has ended and was not heard of yet counts; a stage that is not certain to run does not.
    """
    if not job.remaining and all(piece.end.is_done or piece.is_dropped for piece in job.pieces):
        return  # nothing is to be given up
    job.is_expired = True
    unfinished = {piece.name for piece in job.pieces if not piece.end.is_done}
    if job.last_labels(plan, job.counting - unfinished) is not None:
        job.remaining.clear()
        job.drop(unfinished | job.guesses.keys())
        job.guesses.clear()
