"""Frames of a file at the rate at which they were taken, as a camera would give them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from cascadert.errors import InvalidRequest
from cascadert.jetson.sources import Frame

Frames = tuple[Frame, ...]


def paced(
    source: Iterable[Frames], fps: float | None, clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frames]:  # fmt: skip
    """Yield frames when they are due by their timestamps, or by the source's rate where they have none.

    A frame that is late (it took long to decode) is given at once; the clock does not wait for it.

    Raises:
        InvalidRequest: a source without timestamps and without a rate.
    """
    first_s: float | None = None
    started_s = 0.0
    for index, frames in enumerate(source):
        taken_s = _taken_s(frames[0], index, fps)
        if first_s is None:
            first_s, started_s = taken_s, clock()
        wait_s = started_s + taken_s - first_s - clock()
        if wait_s > 0:
            sleep(wait_s)
        yield frames


def _taken_s(frame: Frame, index: int, fps: float | None) -> float:
    if frame.timestamp_s is not None:
        return frame.timestamp_s
    if fps is None:
        raise InvalidRequest(f"frame {frame.name}", "has no time and its source no rate", "give a video, or no --live")
    return index / fps
