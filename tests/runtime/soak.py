"""A long run in a process of its own, whose memory nothing else moves: `python -m tests.runtime.soak MODE OVERFLOW`.

Or `failing` instead of the two. Prints what grew between the end of the warm-up and the end of the run, as JSON.
"""

import gc
import json
import os
import sys
import threading
from itertools import repeat
from pathlib import Path
from typing import Any

from cascadert.errors import CascadertError
from tests.runtime.faults import Faults, Raise, faulty_pipeline, numbered

FRAMES, WARM_UP = 5000, 500


def state(pipeline: Any) -> dict[str, int]:
    gc.collect()
    return {
        "threads": threading.active_count(),
        "device_bytes": pipeline.device.allocated_bytes,
        "objects": len(gc.get_objects()),
        "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }


def growth(pipeline: Any, before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in state(pipeline).items()}


def succeeding(mode: str, overflow: str) -> dict[str, int]:
    with faulty_pipeline((mode, False), overflow=overflow) as pipeline:
        results = pipeline.stream(repeat(numbered(0)))
        for _ in range(WARM_UP):
            next(results)
        before = state(pipeline)
        for _ in range(FRAMES if overflow == "wait" else FRAMES // 10):  # of which many more are dropped
            next(results)
        grown = growth(pipeline, before)
        results.close()
        return grown


def failing() -> dict[str, int]:
    with faulty_pipeline(faults=Faults({"accurate": Raise()})) as pipeline:
        for number in range(WARM_UP + FRAMES):
            pipeline.submit(numbered(number % 200))
            try:
                pipeline.next()
            except CascadertError:
                pass
            else:
                raise AssertionError(f"frame {number} did not fail")
            if number == WARM_UP:
                before = state(pipeline)
        return growth(pipeline, before)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(failing() if sys.argv[1:] == ["failing"] else succeeding(*sys.argv[1:])))
