"""Quality of the CamVid cascade over θ and halo, on the validation clip: mIoU, blocks and time.

    python bench/camvid.py --root ../shared/data/camvid --halo 0 68 -o bench/results/camvid.json

CamVid is for non-commercial research and not part of this project; give its folder (images/val, labels/val). Rows: the
fast network alone (θ above log2 K), the cascade at each θ, the accurate network on all blocks (θ < 0), and the pixel
and block oracles of paper 000.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cascadert.bundle import Bundle
from cascadert.calibration.metrics import ConfusionMatrix, block_oracle, pixel_oracle
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.lowering import lower
from cascadert.runtime.open import open_graphs
from cascadert.runtime.options import RuntimeOptions
from cascadert.spec import ThresholdPolicy

SPEC = Path(__file__).parents[1] / "examples" / "camvid" / "camvid.toml"
THETAS = (0.0, 0.25, 0.5, 1.0)


def export_with_halo(halo: int, work: Path) -> Bundle:
    """Export the example with another halo; weights count from the example's folder."""
    text = "\n".join(
        f"halo = {halo}" if line.startswith("halo") else line for line in SPEC.read_text().splitlines()
    ).replace('weights = "', f'weights = "{SPEC.parent.resolve()}/')
    path = work / f"halo{halo}.toml"
    path.write_text(text)
    return export_bundle(path, work / f"halo{halo}", ExportOptions(replace=True))


def evaluate(bundle: Bundle, root: Path, threads: int, limit: int | None) -> list[dict[str, Any]]:
    """Every row on every frame, the frame's rows in turn, so that a noisy machine slows all of them."""
    spec, stage, grid = bundle.spec, bundle.manifest.stages[1].name, bundle.spec.make_grid()
    settings = {
        "fast": math.log2(spec.num_classes) + 1,
        **{f"θ = {theta:g}": theta for theta in THETAS},
        "all blocks": -1.0,
    }
    matrices = {name: ConfusionMatrix(spec.num_classes) for name in (*settings, "block oracle", "pixel oracle")}
    counts: dict[str, list[int]] = {name: [] for name in settings}
    times: dict[str, list[float]] = {name: [] for name in settings}
    graphs = {name: lower(graph, "onnxruntime") for name, graph in bundle.graphs.items()}
    images = sorted((root / "images" / "val").glob("*.jpg"))[:limit]
    with open_graphs(bundle.manifest, graphs, RuntimeOptions(mode="serial", threads=threads)) as pipeline:
        for path in track(images, "frames"):
            image = np.asarray(Image.open(path).convert("RGB"))
            truth = np.asarray(Image.open(root / "labels" / "val" / f"{path.stem}.png"))
            labels = {}
            for name, theta in settings.items():
                result = pipeline.infer(image, {stage: ThresholdPolicy(theta=theta)})
                labels[name] = result.labels[0]
                counts[name].append(result.runs[1].n or 0)
                times[name].append(result.latency_ms)
            labels["block oracle"] = block_oracle(labels["fast"], labels["all blocks"], truth, grid)
            labels["pixel oracle"] = pixel_oracle(labels["fast"], labels["all blocks"], truth)
            for name, found in labels.items():
                matrices[name].add(found, truth)
    return [
        {
            "setting": name,
            "miou": round(100 * matrix.mean_iou(), 2),
            "accuracy": round(100 * matrix.accuracy(), 2),
            "mean_n": round(statistics.mean(counts[name]), 2) if name in counts else None,
            "median_ms": round(statistics.median(times[name]), 2) if name in times else None,
        }
        for name, matrix in matrices.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--halo", type=int, nargs="+", default=[0, 68])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="frames, for a quick look")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    found: dict[str, Any] = {"threads": arguments.threads, "frames": arguments.limit or 101}
    for halo in arguments.halo:
        with tempfile.TemporaryDirectory() as work:
            bundle = export_with_halo(halo, Path(work))
            rows = evaluate(bundle, arguments.root, arguments.threads, arguments.limit)
        found[f"halo {halo}"] = rows
        table = Table("setting", "mIoU %", "accuracy %", "mean n", "median ms", title=f"CamVid val, halo {halo}")
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        Console().print(table)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
