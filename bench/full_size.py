"""Full-size check of ENet + PSPNet-R50: export, parity, repeatability, cameras, at the paper's frame and block sizes.

    python bench/full_size.py -o bench/results/full_size.json --work /tmp/full_size

Weights are random (prepared so that the mean entropy is one bit), so the figures are about exactness, not quality. For
each frame and grid it exports the cascade, compares the form that TensorRT gets with PyTorch on a generated street (in
ONNX Runtime), then runs ONNX Runtime's own form: the same frame twice, and two cameras against two single frames.
Bundles stay in the work folder for `bench/build_table.py`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from cascadert.bundle import Bundle
from cascadert.calibration.parity import ParityOptions, check_parity
from cascadert.export.compile import ExportOptions, export_bundle, reference_stages
from cascadert.export.lowering import lower
from cascadert.runtime.open import open_graphs
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.scenes import SceneOptions, render
from cascadert.spec import ThresholdPolicy, TopKPolicy, load_spec

SPEC = """
name = "{name}"
classes = "cityscapes"
[frame]
height = {height}
width = {width}
cameras = {cameras}
[grid]
block = {block}
stride = {stride}
[[stages]]
name = "fast"
model = "enet"
args = {{ classes = 19 }}
{fast_weights}
[[stages]]
name = "accurate"
model = "pspnet-r50"
args = {{ classes = 19 }}
{accurate_weights}
merge = "{merge}"
select = {{ policy = "top-k", k = 2 }}
"""


@dataclass(frozen=True)
class Case:
    """One frame size and grid; `pair` asks for two cameras as well."""

    height: int
    width: int
    block: int
    stride: int
    merge: str = "owner"
    pair: bool = False

    @property
    def name(self) -> str:
        """Short name, also of the bundle's folder."""
        return f"{self.height}x{self.width}-{self.block}-{self.stride}" + ("-average" * (self.merge == "average"))

    def export(self, work: Path, cameras: int) -> tuple[Bundle, float]:
        """Export the case and return the bundle and the seconds it took."""
        name = self.name + (f"-n{cameras}" if cameras > 1 else "")
        spec = self.write_spec(work, name, cameras, weights=True)
        started = time.perf_counter()
        bundle = export_bundle(spec, work / name, ExportOptions(replace=True))
        return bundle, time.perf_counter() - started

    def write_spec(self, work: Path, name: str, cameras: int, *, weights: bool) -> Path:
        """Write the TOML, with or without the weights that `prepare_weights` left in the work folder."""
        lines = {f"{stage}_weights": f'weights = "{stage}.safetensors"' * weights for stage in ("fast", "accurate")}
        path = work / f"{name}.toml"
        path.write_text(SPEC.format(**{**vars(self), "name": name, "cameras": cameras, **lines}))
        return path


CASES = [
    Case(1024, 2048, 256, 256, pair=True),
    Case(1024, 2048, 512, 512),
    Case(1024, 2048, 480, 320),
    Case(1024, 2048, 480, 320, "average", pair=True),
    Case(1080, 1920, 256, 256, pair=True),
    Case(1080, 1920, 512, 512),
    Case(1080, 1920, 480, 320),
]


def prepare_weights(work: Path) -> None:
    """Write random weights of both networks once, so that every case and number of cameras has the same."""
    work.mkdir(parents=True, exist_ok=True)
    spec = CASES[0].write_spec(work, "random", cameras=1, weights=False)
    for stage in reference_stages(load_spec(spec), work, random_weights=0):
        save_file(stage.network.state_dict(), work / f"{stage.stage.name}.safetensors")


def check(case: Case, work: Path, threads: int) -> dict[str, Any]:
    """Run every check of one case."""
    bundle, export_s = case.export(work, cameras=1)
    report = check_parity(bundle, options=ParityOptions(frames=1, threads=threads, dialect="tensorrt"))
    rows = {f"{row.stage}.{row.port}": row for row in report.rows}
    scores, labels = rows["fast.scores"], [row for row in report.rows if row.port == "labels"]
    options = SceneOptions(case.height, case.width)
    frames = np.stack([render(1000 + camera, 0, options).image for camera in range(2)])
    with lowered(bundle, threads) as pipeline:
        first, again = (pipeline.infer(frames[:1]) for _ in range(2))
        # Between the best and second score of the easier frame: few enough blocks for a CPU, and some of either frame.
        none = {"accurate": TopKPolicy(policy="top-k", k=0)}
        ranked = [pipeline.infer(frame[np.newaxis], none).tensors["fast.scores"] for frame in frames]
        easier = min(ranked, key=lambda scores: float(scores[0]))
        policy = {"accurate": ThresholdPolicy(theta=float(easier[0] + easier[1]) / 2)}
        singles = [pipeline.infer(frame[np.newaxis], policy) for frame in frames]
    pair = None
    if case.pair:
        with lowered(case.export(work, cameras=2)[0], threads) as pipeline:
            pair = pipeline.infer(frames, policy)
    return {
        "case": case.name,
        "blocks": bundle.spec.make_grid().size,
        "export_s": round(export_s, 1),
        "score_difference_bits": scores.largest,
        "labels_compared": sum(row.elements for row in labels),
        "labels_different": sum(row.different for row in labels),
        "labels_tied": sum(row.tied for row in labels),
        "classes": report.classes,
        "parity": report.passed,
        "same_frame_twice": np.array_equal(first.labels, again.labels),
        "two_cameras": None if pair is None else _same(pair, singles),
        "refined": [single.runs[1].n for single in singles],
    }


def lowered(bundle: Bundle, threads: int) -> Pipeline:
    """Load what a deployment for the CPU holds: the graphs lowered for ONNX Runtime."""
    graphs = {name: lower(graph, "onnxruntime") for name, graph in bundle.graphs.items()}
    options = RuntimeOptions(mode="serial", threads=threads, tensors="all")
    return open_graphs(bundle.manifest, graphs, options)


def _same(pair: Any, singles: list[Any]) -> bool:
    labels = np.concatenate([single.labels for single in singles])
    scores = np.sort(np.concatenate([single.tensors["fast.scores"] for single in singles]))[::-1]
    return np.array_equal(pair.labels, labels) and np.array_equal(pair.tensors["fast.scores"], scores)


def run(work: Path, threads: int, only: str | None) -> Iterator[dict[str, Any]]:
    prepare_weights(work)
    for case in CASES:
        if only is None or only in case.name:
            yield check(case, work, threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for bundles")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="part of a case's name")
    arguments = parser.parse_args()
    console, rows = Console(width=160), []
    for row in run(arguments.work, arguments.threads, arguments.only):
        rows.append(row)
        console.print(row)
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    table = Table(*rows[0])
    for row in rows:
        table.add_row(
            *(f"{value:.2e}" if isinstance(value, float) and value < 1e-2 else str(value) for value in row.values())
        )
    console.print(table)


if __name__ == "__main__":
    main()
