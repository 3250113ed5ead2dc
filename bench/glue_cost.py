"""What the glue costs on the CPU: a stage against its bare network, in one run, and which operators dominate it.

    python bench/glue_cost.py --work /tmp/full_size -o bench/results/glue_cost.json

Reads the bundle of `bench/full_size.py` (ENet + PSPNet-R50, 1024 x 2048, blocks of 256). Stage and network take turns;
the share is the median over pairs of (stage - network) / network.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table

from cascadert.bundle import Bundle, read_bundle
from cascadert.export.compile import reference_stages
from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.export.stages import Stage
from cascadert.graph import Graph

Feeds = dict[str, np.ndarray[Any, Any]]


def session(graph: Graph, threads: int, profile: str | None = None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return ort.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])


def feeds_of(stage: Stage, n: int) -> tuple[Feeds, Feeds]:
    """Inputs of the stage, and of its bare network."""
    context = stage.context
    size = (context.frame.cameras, context.frame.height, context.frame.width)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    given = {"frame": frame}
    if stage.sees_blocks:
        given |= {"indices": np.arange(n, dtype=np.int32), "prior_labels": np.zeros(size, np.uint8)}
    return given, {"pixels": np.zeros((n if stage.sees_blocks else 1, 3, *seen(stage, given)), np.float32)}


def seen(stage: Stage, given: Feeds) -> tuple[int, int]:
    """Height and width of what its network sees."""
    (pixels,) = stage.network_inputs(*map(torch.from_numpy, given.values()))
    return pixels.shape[2], pixels.shape[3]


def bare_network(stage: Stage, n: int) -> Graph:
    _, feeds = feeds_of(stage, n)
    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return lower(export_graph(stage.network, given, ["logits"]), "onnxruntime")


def clock(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def dominant(graph: Graph, feeds: Feeds, threads: int, runs: int) -> list[tuple[str, float]]:
    """Milliseconds per run of the operators outside the network, largest first."""
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(graph, threads, f"{folder}/profile")
        for _ in range(runs):
            profiled.run(None, feeds)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    total: Counter[str] = Counter()
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and "network" not in name:
            total[f"{event['args']['op_name']} {name}"] += event["dur"]
    return [(name, duration / runs / 1e3) for name, duration in total.most_common(6)]


def measure(bundle: Bundle, stage: Stage, n: int, threads: int, pairs: int) -> dict[str, Any]:
    stage_feeds, network_feeds = feeds_of(stage, n)
    graph = lower(bundle.graphs[stage.stage.name], "onnxruntime")
    whole, bare = session(graph, threads), session(bare_network(stage, n), threads)
    whole.run(None, stage_feeds)
    bare.run(None, network_feeds)
    times = [
        (clock(lambda: whole.run(None, stage_feeds)), clock(lambda: bare.run(None, network_feeds)))
        for _ in range(pairs)
    ]
    return {
        "stage": stage.stage.name,
        "n": n,
        "stage_ms": statistics.median(a for a, _ in times),
        "network_ms": statistics.median(b for _, b in times),
        "glue_share": statistics.median((a - b) / b for a, b in times),
        "dominant_ms": dominant(graph, stage_feeds, threads, runs=3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--case", default="1024x2048-256-256")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.work / arguments.case)
    fast, accurate = reference_stages(bundle.spec, Path(bundle.manifest.spec_folder))
    rows = [measure(bundle, stage, n, arguments.threads, arguments.pairs) for stage, n in ((fast, 1), (accurate, 2))]
    table = Table("stage", "n", "stage ms", "network ms", "glue share", "dominant operators of the glue (ms)")
    for row in rows:
        operators = "\n".join(f"{ms:8.2f}  {name}" for name, ms in row["dominant_ms"])
        times = (f"{row['stage_ms']:.1f}", f"{row['network_ms']:.1f}", f"{row['glue_share']:.1%}")
        table.add_row(row["stage"], str(row["n"]), *times, operators)
    Console(width=150).print(table)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        settings = {"threads": arguments.threads, "pairs": arguments.pairs, "onnxruntime": ort.__version__}
        arguments.output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
