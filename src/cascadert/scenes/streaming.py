"""Frames of a street rendered ahead by worker processes, in order."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count

from cascadert.errors import ExecutionError, SceneError
from cascadert.scenes.frame import render
from cascadert.scenes.options import Scene, SceneOptions

_USUAL = SceneOptions()


def stream(
    seed: int, frames: int | None = None, options: SceneOptions = _USUAL, workers: int = 1, ahead: int = 2
) -> Iterator[Scene]:
    """Yield the frames of the street `seed` in order, rendered ahead of their use.

    Close the iterator (or use it up) to stop the workers; it does so too when it is collected. Workers are started
    afresh ("spawn"), so a script needs the usual `if __name__ == "__main__":`.

    Args:
        seed: As for `render`.
        frames: How many; None: without end.
        options: As for `render`.
        workers: Processes that render; 0: this one, as each frame is asked for.
        ahead: How many frames each worker may be ahead of the last one that was taken; bounds the memory.

    Raises:
        SceneError: A negative number of frames or workers, or `ahead` below 1 (at once, not at the first frame).
        ExecutionError: A worker died (at the frame that it owes).
    """
    for name, value, least in (("frames", frames, 0), ("workers", workers, 0), ("ahead", ahead, 1)):
        if value is not None and value < least:
            raise SceneError(f"scene stream with {name}={value}", "too few", f"give {least} or more")
    numbers = count() if frames is None else iter(range(frames))
    if workers == 0:
        return (render(seed, index, options) for index in numbers)
    return _parallel(seed, numbers, options, workers, ahead)


def _parallel(seed: int, numbers: Iterator[int], options: SceneOptions, workers: int, ahead: int) -> Iterator[Scene]:
    waiting: deque[Future[Scene]] = deque()
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for index in numbers:
            waiting.append(pool.submit(render, seed, index, options))
            if len(waiting) > workers * ahead:  # what the caller works on is no longer ahead
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ExecutionError(
            f"scene stream of street {seed}",
            "a worker process died",
            "look for its message above; use fewer workers, and `if __name__ == '__main__':` in a script",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
