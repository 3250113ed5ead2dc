"""What the scheduler costs: a chain of two stages that do nothing, over many frames.

    python -m bench.scheduler_cost -o bench/results/scheduler_cost.json

Run from the root of the checkout; a run is added to those in the file. Two ways to use a pipeline: `stream`, as fast as
frames come (microseconds per frame are the reciprocal of the throughput), and `infer`, one frame at a time (the
latency). The streams run over all frames, and are reported by tenths: time per frame, resident memory, threads, bytes
of the device. `cpu_us` is the time of all threads per frame, the kernel's included.

Every thread here wants the interpreter's lock, and none does work without it: on several idle cores each wake-up goes
through another core, which costs more than the work. So each run is made on all cores and on one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cascadert.bundle import StageEntry
from cascadert.device import Buffer, Stream, runs_host_code
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy
from tests.runtime.plant import TWO, frame

POLICIES: dict[str, SelectPolicy] = {"threshold": ThresholdPolicy(theta=0.5), "top-k": TopKPolicy(k=4)}
CASES = (("overlapped", "threshold"), ("overlapped", "top-k"), ("serial", "threshold"))
WARM_UP, TENTHS, BATCH = 500, 10, 100


class NothingToDo:
    """An executable that is queued like any other and does nothing; its scores are there from the start."""

    def __init__(self, entry: StageEntry) -> None:
        self.inputs = tuple(item.spec() for item in entry.inputs)
        self.outputs = tuple(item.spec() for item in entry.outputs)
        self._prepared: dict[int, Buffer] = {}

    def blocks(self, n: int) -> int:
        return n

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        scores = bindings.get("scores")
        if scores is not None and scores.address not in self._prepared:
            self._prepared[scores.address] = scores
            scores.host[...] = np.linspace(1, 0, scores.shape[0])
        assert runs_host_code(stream)
        stream.submit(_nothing)

    def close(self) -> None:
        self._prepared.clear()


def _nothing() -> None:
    return


def resident_bytes() -> int:
    """Memory of this process that is resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_empty(mode: str, policy: SelectPolicy) -> Pipeline:
    """Open the chain."""
    stages = {entry.name: NothingToDo(entry) for entry in TWO.stages}
    pipeline = Pipeline(TWO, stages, HostDevice(), RuntimeOptions(mode))
    pipeline.set_policy("accurate", policy)
    return pipeline


def measure_stream(pipeline: Pipeline, frames: int) -> Iterator[dict[str, Any]]:
    """Stream frames; report each tenth."""
    results = pipeline.stream(repeat(frame(0)))
    for _ in range(WARM_UP):
        next(results)
    for tenth in range(TENTHS):
        started, cpu, batches = time.perf_counter(), time.process_time(), []
        for _ in range(frames // TENTHS // BATCH):
            batch = time.perf_counter()
            for _ in range(BATCH):
                next(results)
            batches.append((time.perf_counter() - batch) / BATCH * 1e6)
        count = len(batches) * BATCH
        yield {
            "tenth": tenth + 1,
            "us": round((time.perf_counter() - started) / count * 1e6, 1),
            "median_us": round(statistics.median(batches), 1),
            "best_us": round(min(batches), 1),
            "cpu_us": round((time.process_time() - cpu) / count * 1e6, 1),
            "resident_mib": round(resident_bytes() / 2**20, 2),
            "threads": threading.active_count(),
            "device_bytes": pipeline.device.allocated_bytes,
        }
    results.close()


def measure_latency(pipeline: Pipeline, frames: int) -> dict[str, float]:
    """Run frames one at a time."""
    image, times = frame(0), []
    for _ in range(frames):
        started = time.perf_counter()
        pipeline.infer(image)
        times.append((time.perf_counter() - started) * 1e6)
    low, middle, high = np.quantile(times[len(times) // 10 :], [0.1, 0.5, 0.9])
    return {"median_us": round(middle, 1), "q10_us": round(low, 1), "q90_us": round(high, 1)}


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Let this thread, and those that it starts, run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(mode: str, name: str, frames: int, cores: set[int]) -> dict[str, Any]:
    """Measure one mode with one policy."""
    with on_cores(cores), open_empty(mode, POLICIES[name]) as pipeline:
        tenths = list(measure_stream(pipeline, frames))
        latency = measure_latency(pipeline, max(frames // 50, 200))
    keys = ("us", "median_us", "best_us", "cpu_us")
    return {
        "mode": mode,
        "policy": name,
        "cores": len(cores),
        "frames": frames,
        **{key: round(statistics.median(tenth[key] for tenth in tenths), 1) for key in keys},
        "latency": latency,
        "tenths": tenths,
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One line for each run; growth is the last tenth against the second."""
    heads = ("mode", "policy", "cores", "frames", "µs/frame", "best 100", "CPU µs", "infer µs", "MiB", "threads")
    table = Table(*heads, "µs by tenth")
    for row in rows:
        second, last = row["tenths"][1], row["tenths"][-1]
        table.add_row(
            row["mode"], row["policy"], str(row["cores"]), str(row["frames"]),
            *(f"{row[key]:.0f}" for key in ("median_us", "best_us", "cpu_us")), f"{row['latency']['median_us']:.0f}",
            f"{second['resident_mib']:.1f} → {last['resident_mib']:.1f}", f"{second['threads']} → {last['threads']}",
            " ".join(f"{tenth['median_us']:.0f}" for tenth in row["tenths"]),
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    usable = os.sched_getaffinity(0)
    few = max(arguments.frames // 5, 1000)
    rows = [
        measure(mode, name, arguments.frames if (mode, name) == CASES[0] else few, cores)
        for cores in ({min(usable)}, usable)
        for mode, name in CASES
    ]
    Console(width=160).print(table_of(rows))
    if arguments.output:
        settings = {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "load_average": [round(before, 2), round(os.getloadavg()[0], 2)],
            "stages": [stage.name for stage in TWO.stages],
        }
        made = json.loads(arguments.output.read_text())["runs"] if arguments.output.exists() else []
        runs = [*made, {"settings": settings, "rows": rows}]
        arguments.output.write_text(json.dumps({"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
