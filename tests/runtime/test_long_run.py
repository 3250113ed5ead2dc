"""Nothing piles up over a long run: threads, memory, objects."""

import gc
import os
import threading
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from cascadert.errors import CascadertError
from tests.runtime.faults import Faults, Raise, faulty_pipeline, numbered

FRAMES, WARM_UP = 5000, 500


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def state(pipeline: Any) -> tuple[int, int, int]:
    gc.collect()
    return threading.active_count(), pipeline.device.allocated_bytes, len(gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("overflow", ["wait", "drop-oldest"])
@pytest.mark.parametrize("mode", ["overlapped", "serial"])
def test_nothing_grows_over_many_frames(mode: str, overflow: str) -> None:
    with faulty_pipeline((mode, False), overflow=overflow) as pipeline:
        results = pipeline.stream(repeat(numbered(0)))
        for _ in range(WARM_UP):
            next(results)
        before, resident = state(pipeline), resident_bytes()
        for _ in range(FRAMES if overflow == "wait" else FRAMES // 10):  # of which many more are dropped
            next(results)
        threads, allocated, objects = state(pipeline)
        assert (threads, allocated) == before[:2]
        assert objects - before[2] < 1000  # frames in flight have hundreds; 5000 frames would leave thousands
        assert resident_bytes() - resident < 4 * 2**20
        results.close()


@pytest.mark.slow
def test_nothing_grows_where_every_frame_fails() -> None:
    with faulty_pipeline(faults=Faults({"accurate": Raise()})) as pipeline:
        for number in range(WARM_UP + FRAMES):
            pipeline.submit(numbered(number % 200))
            with pytest.raises(CascadertError):
                pipeline.next()
            if number == WARM_UP:
                before, resident = state(pipeline), resident_bytes()
        threads, allocated, objects = state(pipeline)
        assert (threads, allocated) == before[:2]
        assert objects - before[2] < 200
        assert resident_bytes() - resident < 4 * 2**20
