r"""Quality beside time, in one run: the fast network, the cascade, every block refined, and the accurate network alone.

    python bench/quality_time.py examples/camvid/camvid.toml --images CAMVID/images/val --labels CAMVID/labels/val \
        --theta 0.5 1 --halo 34 -o bench/results/quality_time_camvid.json

Each frame is labelled in all ways in turns, with the stages one after the other, so that a machine that changes its
speed changes it for all; of the repeats of a frame the median counts, and over frames the mean, as in paper 000. Then
the same frames run as an overlapped stream. The accurate network also sees the whole frame at once: on frames this
small that takes less than all blocks with their halo.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cascadert.bundle import Bundle
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.tuning_variants import VariantOptions, variant_specs
from cascadert.cli.frames import LabelledFrames
from cascadert.export.compile import export_spec
from cascadert.jetson.machine import machine, versions
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.spec import CascadeSpec, ThresholdPolicy, load_spec

FAST, EVERY, WHOLE = "fast network alone", "every block refined", "accurate network, whole frame"

Frames = list[tuple[dict[str, Any], np.ndarray]]


@dataclass(frozen=True)
class Row:
    """One way. `latency_ms`: mean over frames, stages in turn; `period_ms`: of the overlapped stream."""

    way: str
    miou: float
    accuracy: float
    mean_n: float | None
    gmacs: float
    latency_ms: float
    of_every_block: float
    of_whole_frame: float
    period_ms: float


def cut(spec: CascadeSpec, block: int | None, halo: int | None) -> CascadeSpec:
    """The cascade with other blocks or another halo."""
    blocks, halos = ((side,) if side is not None else () for side in (block, halo))
    return variant_specs(spec, VariantOptions(blocks, halos))[0]


def whole_frame(spec: CascadeSpec) -> CascadeSpec:
    """The accurate network as a cascade of one stage, which sees the frame as it is."""
    stage = spec.stages[-1].model_copy(update={"select": None, "halo": 0, "input": "frame", "emit": None})
    return spec.with_stages((stage,)).model_copy(update={"name": f"{spec.name}-whole"})


class Ways:
    """Every way to label a frame, and what came of it."""

    def __init__(self, cascade: Pipeline, whole: Pipeline, thetas: list[float]) -> None:
        manifest = cascade.manifest
        self.refining = next(stage.name for stage in manifest.stages if stage.select is not None)
        nothing = math.log2(manifest.spec.num_classes) + 1  # more bits than there are
        settings = {FAST: nothing, **{f"cascade, theta = {t:g}": t for t in thetas}, EVERY: -1.0}
        self.ways: dict[str, tuple[Pipeline, dict[str, Any]]] = {
            name: (cascade, {self.refining: ThresholdPolicy(theta=theta)}) for name, theta in settings.items()
        }
        self.ways[WHOLE] = (whole, {})
        classes = manifest.spec.num_classes
        self.matrices = {name: ConfusionMatrix(classes) for name in self.ways}
        self.latencies: dict[str, list[float]] = {name: [] for name in self.ways}
        self.counts: dict[str, list[int]] = {name: [] for name in self.ways}
        self.periods: dict[str, list[float]] = {name: [] for name in self.ways}

    def label(self, planes: dict[str, Any], truth: np.ndarray, repeats: int) -> None:
        """Label a frame in all ways, in turns."""
        times: dict[str, list[float]] = {name: [] for name in self.ways}
        for turn in range(repeats):
            for name, (pipeline, policies) in self.ways.items():
                result = pipeline.infer(planes, policies)
                times[name].append(result.latency_ms)
                if not turn:
                    self.matrices[name].add(result.labels, truth)
                    self.counts[name].append(sum(run.n or 0 for run in result.runs))
        for name, found in times.items():
            self.latencies[name].append(statistics.median(found))

    def stream(self, streams: tuple[Pipeline, Pipeline], frames: Frames, rounds: int) -> None:
        """Run all frames as an overlapped stream in all ways, in turns."""
        for _ in range(rounds):
            for name, (pipeline, policies) in self.ways.items():
                overlapped = streams[name == WHOLE]
                assert overlapped.manifest == pipeline.manifest
                start = time.perf_counter()
                for _result in overlapped.stream((planes for planes, _ in frames), policies):
                    pass
                self.periods[name].append(1000 * (time.perf_counter() - start) / len(frames))

    def rows(self) -> list[Row]:
        """Everything, the two references of time included."""
        latency = {name: statistics.fmean(found) for name, found in self.latencies.items()}
        return [
            Row(
                way=name,
                miou=round(100 * self.matrices[name].mean_iou(), 2),
                accuracy=round(100 * self.matrices[name].accuracy(), 2),
                mean_n=None if name == WHOLE else round(statistics.fmean(self.counts[name]), 2),
                gmacs=round(self._macs(name) / 1e9, 3),
                latency_ms=round(latency[name], 2),
                of_every_block=round(latency[name] / latency[EVERY], 3),
                of_whole_frame=round(latency[name] / latency[WHOLE], 3),
                period_ms=round(statistics.median(self.periods[name]), 2),
            )
            for name in self.ways
        ]

    def _macs(self, name: str) -> float:
        pipeline, _ = self.ways[name]
        by_stage = {stage.name: stage.network.macs for stage in pipeline.manifest.stages}
        if name == WHOLE:
            return sum(by_stage.values())
        refining = by_stage.pop(self.refining)
        return sum(by_stage.values()) + refining * statistics.fmean(self.counts[name])


def measure(bundles: tuple[Bundle, Bundle], frames: Frames, options: argparse.Namespace) -> list[Row]:
    """Label all frames in all ways."""
    with ExitStack() as stack:
        serial = RuntimeOptions(mode="serial", threads=options.threads)
        cascade, whole = (stack.enter_context(open_pipeline(bundle, serial)) for bundle in bundles)
        ways = Ways(cascade, whole, options.theta)
        for planes, truth in track(frames, "frames", disable=not sys.stdout.isatty()):
            ways.label(planes, truth, options.repeats)
        beside = RuntimeOptions(mode="overlapped", threads=1)
        streams = tuple(stack.enter_context(open_pipeline(bundle, beside)) for bundle in bundles)
        ways.stream((streams[0], streams[1]), frames, options.rounds)
        return ways.rows()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, help="cascade of a fast network and an accurate one on blocks")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--theta", type=float, nargs="+", required=True)
    parser.add_argument("--block", type=int, help="side of the blocks, if not the specification's")
    parser.add_argument("--halo", type=int, help="pixels of context, if not the specification's")
    parser.add_argument("--count", type=int, help="frames, evenly spread; all if not given")
    parser.add_argument("--repeats", type=int, default=3, help="of each frame, in turns")
    parser.add_argument("--rounds", type=int, default=3, help="of the stream, in turns")
    parser.add_argument("--threads", type=int, default=2, help="of stages in turn; 1 each where they overlap")
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    spec, folder = cut(load_spec(options.spec), options.block, options.halo), options.spec.parent.resolve()
    with tempfile.TemporaryDirectory() as work:
        bundles = (
            export_spec(spec, folder, Path(work) / "cascade"),
            export_spec(whole_frame(spec), folder, Path(work) / "whole"),
        )
        with LabelledFrames(spec, [options.images], [options.labels], None) as source:
            frames = [(planes, truth) for planes, truth in source.spread(options.count) if truth is not None]
        rows = measure(bundles, frames, options)
    table = Table(*(name.replace("_", " ") for name in asdict(rows[0])), title=f"{spec.name}, {len(frames)} frames")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in asdict(row).values()))
    Console(width=max(120, Console().width)).print(table)
    if options.output:
        content = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": machine(),
            "versions": versions(("onnxruntime", "numpy")),
            "frames": len(frames),
            "block": list(spec.make_grid().block),
            "halo": spec.stages[-1].halo,
            "rows": [asdict(row) for row in rows],
        }
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
