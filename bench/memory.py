"""Memory of serial and overlapped on a real bundle: measured, predicted by the manifest, and over a long run.

    cascadert export src/cascadert/jetson/specs/scenes.toml -o /tmp/scenes.bundle
    python bench/memory.py /tmp/scenes.bundle -o bench/results/memory.json

Each mode runs in a process of its own, three times: what is resident before the pipeline is opened, the peak while
every block of some frames is refined, and what is resident at each tenth of a long run with few blocks. Predicted are
weights and activations of every stage (the manifest's `memory` entries; each stage keeps its own activations) and the
buffers of slots and staging; what the backend takes besides, as for its code and for weights in another layout, is not.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from cascadert.bundle import read_bundle
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.profiling.footprint import predict_footprint
from cascadert.spec import TopKPolicy

MIB = 2**20
FULL_FRAMES, RUNS, TENTHS, FEW = 6, 3, 10, 2


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process: resident now (VmRSS), or the most so far (VmHWM)."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def frames_of(pipeline: Pipeline) -> dict[str, np.ndarray]:
    """A frame of noise; what is in it takes no more or less memory."""
    noise = np.random.default_rng(0)
    return {name: noise.integers(0, 256, plane.shape, np.uint8) for name, plane in pipeline.plan.planes.items()}


def run(pipeline: Pipeline, frames: int, k: int) -> None:
    """Stream frames with k blocks refined in every stage that refines."""
    policies = {stage.name: TopKPolicy(k=k) for stage in pipeline.manifest.stages if stage.select is not None}
    for _ in pipeline.stream(repeat(frames_of(pipeline), frames), policies):
        pass


def measure(path: Path, mode: str, threads: int, frames: int) -> dict[str, Any]:
    """Measure one mode in this process."""
    before, bundle = resident(), read_bundle(path)  # the backend's code is resident already: it was imported
    with open_pipeline(bundle, RuntimeOptions(mode, threads=threads)) as pipeline:
        opened = resident()
        run(pipeline, FULL_FRAMES, pipeline.blocks)
        peak = resident("VmHWM")
        tenths = []
        for _ in range(TENTHS):
            run(pipeline, frames // TENTHS, FEW)
            tenths.append(resident())
        predicted = predict_footprint(bundle.manifest, pipeline.plan, pipeline.slots)
        return {
            "mode": mode,
            "slots": pipeline.slots,
            "measured_mib": round((peak - before) / MIB, 1),
            "opened_mib": round((opened - before) / MIB, 1),
            "buffers_mib": round(pipeline.device.allocated_bytes / MIB, 2),
            "predicted_weights_mib": round(predicted.weight_bytes / MIB, 1),
            "predicted_activations_mib": round(predicted.activation_bytes / MIB, 1),
            "predicted_slots_mib": round(predicted.slot_bytes / MIB, 2),
            "interpreter_mib": round(before / MIB, 1),
            "tenths_mib": [round(value / MIB, 1) for value in tenths],
        }


def measure_apart(path: Path, mode: str, threads: int, frames: int) -> dict[str, Any]:
    """Measure one mode in processes of its own; the medians, and every peak."""
    command = [sys.executable, __file__, str(path), "--mode", mode, "--threads", str(threads), "--frames", str(frames)]
    found = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(RUNS)]
    peaks = [row["measured_mib"] for row in found]
    middle = next(row for row in found if row["measured_mib"] == statistics.median_low(peaks))
    predicted = sum(middle[f"predicted_{part}_mib"] for part in ("weights", "activations")) + middle["buffers_mib"]
    ratio = round(middle["measured_mib"] / predicted, 3)
    return {**middle, "peaks_mib": peaks, "predicted_mib": round(predicted, 1), "measured_to_predicted": ratio}


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One line for each mode."""
    table = Table(
        "mode", "slots", "measured", "predicted", "weights", "activations", "buffers", "long run, MiB resident"
    )
    for row in rows:
        parts = (row["predicted_weights_mib"], row["predicted_activations_mib"], row["buffers_mib"])
        table.add_row(
            row["mode"], str(row["slots"]), f"{row['measured_mib']} MiB", f"{row['predicted_mib']} MiB",
            *map(str, parts), " ".join(f"{value:.0f}" for value in row["tenths_mib"]),
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--mode", choices=["serial", "overlapped"], help="measure one mode in this process, print JSON")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    given = (arguments.threads, arguments.frames)
    if arguments.mode:
        print(json.dumps(measure(arguments.bundle, arguments.mode, *given)))
        return
    rows = [measure_apart(arguments.bundle, mode, *given) for mode in ("serial", "overlapped")]
    Console(width=160).print(table_of(rows))
    if arguments.output:
        settings = {"threads": given[0], "frames": given[1], "full_frames": FULL_FRAMES, "k_long_run": FEW}
        settings |= {"cpus": os.cpu_count(), "onnxruntime": ort.__version__, "bundle": arguments.bundle.name}
        arguments.output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
