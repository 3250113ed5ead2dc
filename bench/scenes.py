"""How fast streets are rendered: frames/s by light and rain, in this process and by worker processes.

    python bench/scenes.py --frames 24 --processes 1 2 -o bench/results/scenes.json

One process renders each frame of the clip on its own clock: the median of wall-clock time and of processor time, which
a busy machine disturbs less. More than one render a stream ahead (`cascadert.scenes.stream`): frames/s is the median
over rounds, each after the workers have started. The load is the machine's mean number of running processes before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cascadert.scenes import SceneOptions, render, stream

LOOKS: dict[str, dict[str, Any]] = {
    "as seeded": {},
    "instances": {"instances": True},
    "dusk": {"light": "dusk"},
    "night": {"light": "night"},
    "rain": {"rain": 0.7},
    "night and rain": {"light": "night", "rain": 0.7},
}
WARM_UP = 2


def one_process(seed: int, frames: int, options: SceneOptions) -> dict[str, float]:
    """Median time of a frame."""
    wall_ms, processor_ms = [], []
    for index in range(-WARM_UP, frames):
        begun, used = time.perf_counter(), time.process_time()
        render(seed, max(index, 0), options)
        if index >= 0:
            wall_ms.append((time.perf_counter() - begun) * 1000)
            processor_ms.append((time.process_time() - used) * 1000)
    wall, processor = statistics.median(wall_ms), statistics.median(processor_ms)
    return {
        "frames_per_s": round(1000 / wall, 2),
        "wall_ms": round(wall, 1),
        "processor_ms": round(processor, 1),
        "frames_per_processor_s": round(1000 / processor, 2),
    }


def several_processes(
    seed: int, frames: int, options: SceneOptions, processes: int, rounds: int
) -> dict[str, float | list[float]]:
    """Frames/s of a stream that is rendered ahead."""
    ahead = 2
    rates = []
    for _ in range(rounds):
        source = stream(seed, frames + processes * ahead, options, workers=processes, ahead=ahead)
        for _ in islice(source, processes * ahead):
            pass
        begun = time.perf_counter()
        for _ in source:
            pass
        rates.append(round(frames / (time.perf_counter() - begun), 2))
    return {"frames_per_s": statistics.median(rates), "rounds": rates}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24, help="of each measurement")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="of each stream")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    table = Table("look", "processes", "frames/s", "processor ms/frame")
    found: dict[str, dict[str, Any]] = {}
    for look, chosen in LOOKS.items():
        options = SceneOptions(*arguments.size, **chosen)
        found[look] = {}
        for processes in arguments.processes:
            if processes == 1:
                row: dict[str, Any] = one_process(arguments.seed, arguments.frames, options)
            else:
                row = several_processes(arguments.seed, arguments.frames, options, processes, arguments.rounds)
            found[look][str(processes)] = row
            table.add_row(look, str(processes), f"{row['frames_per_s']:.1f}", str(row.get("processor_ms", "")))
    command = "python bench/scenes.py " + " ".join(sys.argv[1:])
    machine = {"cpus": len(os.sched_getaffinity(0)), "load_before": round(load, 2)}
    size = {"height": arguments.size[0], "width": arguments.size[1]}
    report = {"command": command, "machine": machine, "size": size, "seed": arguments.seed, "processes": found}
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
