"""The same cascade three ways, in one run: a PyTorch loop, ONNX Runtime with numpy between, and cascadert.

    python bench/three_loops.py demo/bundle --frames 12 -o bench/results/three_loops_scenes.json

(a) is the loop of paper 000 as one would write it first: fast network, entropy, crop, accurate network one block at a
time, paste. (b) is the same with both networks in ONNX Runtime and numpy for everything between. (c) is cascadert's
serial pipeline on the graphs lowered for ONNX Runtime. Same weights, frames, blocks and threads; frames take turns, so
that a noisy machine slows all three. Labels are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from cascadert.bundle import Bundle, read_bundle
from cascadert.export.compile import reference_stages
from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.export.stages import FirstStage, RefineStage
from cascadert.geometry import Grid
from cascadert.runtime.open import open_graphs
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.scenes import SceneOptions, clip
from cascadert.spec import ThresholdPolicy

Labels = NDArray[np.uint8]
Loop = Callable[[NDArray[np.uint8], float], tuple[Labels, int]]


def scene_frames(bundle: Bundle, count: int) -> list[NDArray[np.uint8]]:
    frame = bundle.spec.frame
    return [scene.image for scene in clip(7, count, SceneOptions(frame.height, frame.width))]


def image_frames(folder: Path, count: int) -> list[NDArray[np.uint8]]:
    paths = sorted(folder.glob("*.jpg"))
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths[:: max(1, len(paths) // count)][:count]]


class TorchLoop:
    """(a) Paper 000 in PyTorch."""

    def __init__(self, fast: FirstStage, accurate: RefineStage) -> None:
        self.fast, self.accurate = fast, accurate
        self.grid = fast.context.grid

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], theta: float) -> tuple[Labels, int]:
        grid, halo = self.grid, self.accurate.stage.halo
        pixels = normalise_torch(image, self.fast)
        if self.fast.input_size != tuple(pixels.shape[2:]):
            small = F.interpolate(pixels, self.fast.input_size, mode="bilinear", align_corners=False)
        else:
            small = pixels
        logits = F.interpolate(self.fast.network(small), image.shape[:2], mode="bilinear", align_corners=False)
        probabilities = logits.softmax(1)
        entropy = -(probabilities * probabilities.clamp_min(1e-30).log2()).sum(1)[0]
        labels = logits.argmax(1)[0].to(torch.uint8)
        padded = F.pad(pixels, (halo, halo, halo, halo), mode="replicate")
        count = 0
        for index in range(grid.size):
            top, left, bottom, right = grid.box(index)
            if float(entropy[top:bottom, left:right].mean()) <= theta:
                continue
            count += 1
            patch = padded[:, :, top : bottom + 2 * halo, left : right + 2 * halo]
            block = F.interpolate(self.accurate.network(patch), patch.shape[2:], mode="bilinear", align_corners=False)
            refined = block[0, :, halo : halo + bottom - top, halo : halo + right - left].argmax(0).to(torch.uint8)
            paste(labels, refined, grid, index)
        return labels.numpy(), count


class NumpyLoop:
    """(b) Networks in ONNX Runtime, numpy between them."""

    def __init__(self, fast: FirstStage, accurate: RefineStage, threads: int) -> None:
        self.fast, self.accurate = fast, accurate
        self.grid = fast.context.grid
        self.fast_session = network_session(UpsampledNetwork(fast.network, fast.input_size), fast.input_size, threads)
        size = accurate.patch_size
        self.accurate_session = network_session(UpsampledNetwork(accurate.network, size), size, threads)

    def __call__(self, image: NDArray[np.uint8], theta: float) -> tuple[Labels, int]:
        grid, halo, (height, width) = self.grid, self.accurate.stage.halo, image.shape[:2]
        pixels = normalise_numpy(image, self.fast)
        logits = self.fast_session.run(None, {"pixels": resized(pixels, self.fast.input_size)})[0]
        logits = resized(logits, (height, width))[0]
        shifted = np.exp(logits - logits.max(0))
        probabilities = shifted / shifted.sum(0)
        entropy = -(probabilities * np.log2(np.maximum(probabilities, 1e-30))).sum(0)
        labels = logits.argmax(0).astype(np.uint8)
        padded = np.pad(pixels, ((0, 0), (0, 0), (halo, halo), (halo, halo)), mode="edge")
        count = 0
        for index in range(grid.size):
            top, left, bottom, right = grid.box(index)
            if entropy[top:bottom, left:right].mean() <= theta:
                continue
            count += 1
            patch = np.ascontiguousarray(padded[:, :, top : bottom + 2 * halo, left : right + 2 * halo])
            block = self.accurate_session.run(None, {"pixels": patch})[0][0]
            refined = block[:, halo : halo + bottom - top, halo : halo + right - left].argmax(0).astype(np.uint8)
            paste(labels, refined, grid, index)
        return labels, count


class UpsampledNetwork(torch.nn.Module):
    """A network whose logits come at the size of its input, as one would export it by hand."""

    def __init__(self, network: torch.nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.inner, self.size = network, size

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.inner(pixels), self.size, mode="bilinear", align_corners=False)


def network_session(module: torch.nn.Module, size: tuple[int, int], threads: int) -> Any:
    graph = lower(export_graph(module.eval(), {"pixels": torch.zeros(1, 3, *size)}, ["logits"]), "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return ort.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])


def paste(labels: Any, refined: Any, grid: Grid, index: int) -> None:
    top, left, _, _ = grid.box(index)
    y0, x0, y1, x1 = grid.owned_box(index)
    labels[y0:y1, x0:x1] = refined[y0 - top : y1 - top, x0 - left : x1 - left]


def normalise_torch(image: NDArray[np.uint8], stage: FirstStage) -> torch.Tensor:
    mean, std = (
        torch.tensor(value).view(3, 1, 1) for value in (stage.stage.preprocessing.mean, stage.stage.preprocessing.std)
    )
    return ((torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 - mean) / std)[None]


def normalise_numpy(image: NDArray[np.uint8], stage: FirstStage) -> NDArray[np.float32]:
    mean, std = (np.float32(value) for value in (stage.stage.preprocessing.mean, stage.stage.preprocessing.std))
    return np.ascontiguousarray(((image.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None])


def resized(array: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear as the networks were trained on; torch's is the fastest at hand and counts for (b)."""
    if array.shape[2:] == size:
        return array
    return F.interpolate(torch.from_numpy(array), size, mode="bilinear", align_corners=False).numpy()


def compiled(bundle: Bundle, threads: int) -> tuple[Pipeline, Loop]:
    graphs = {name: lower(graph, "onnxruntime") for name, graph in bundle.graphs.items()}
    pipeline = open_graphs(bundle.manifest, graphs, RuntimeOptions(mode="serial", threads=threads))
    stage = bundle.manifest.stages[1].name

    def loop(image: NDArray[np.uint8], theta: float) -> tuple[Labels, int]:
        result = pipeline.infer(image, {stage: ThresholdPolicy(theta=theta)})
        return result.labels[0], result.runs[1].n or 0

    return pipeline, loop


def measure(loops: dict[str, Loop], frames: list[NDArray[np.uint8]], theta: float) -> dict[str, Any]:
    """Run every frame through every loop in turn; agreement first, then medians and paired ratios."""
    labels = {name: [loop(frame, theta) for frame in frames] for name, loop in loops.items()}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for frame in frames:
        for name, loop in loops.items():
            started = time.perf_counter()
            loop(frame, theta)
            times[name].append((time.perf_counter() - started) * 1e3)
    ours = labels["cascadert"]
    return {
        "theta": theta,
        "mean_n": statistics.mean(n for _, n in ours),
        "median_ms": {name: round(statistics.median(values), 2) for name, values in times.items()},
        "ratio_to_cascadert": {
            name: round(statistics.median(a / b for a, b in zip(values, times["cascadert"], strict=True)), 3)
            for name, values in times.items()
        },
        "label_agreement": {
            name: float(np.mean([np.mean(a == b) for (a, _), (b, _) in zip(found, ours, strict=True)]))
            for name, found in labels.items()
        },
        "same_n": {name: [n for _, n in found] == [n for _, n in ours] for name, found in labels.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, help="folder of JPEG frames of the bundle's size (default: scenes)")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--theta", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bundle = read_bundle(arguments.bundle)
    fast, accurate = reference_stages(bundle.spec, Path(bundle.manifest.spec_folder))
    assert isinstance(fast, FirstStage)
    assert isinstance(accurate, RefineStage)
    frames = (
        image_frames(arguments.images, arguments.frames) if arguments.images else scene_frames(bundle, arguments.frames)
    )
    pipeline, ours = compiled(bundle, arguments.threads)
    loops: dict[str, Loop] = {
        "pytorch loop": TorchLoop(fast, accurate),
        "onnxruntime + numpy": NumpyLoop(fast, accurate, arguments.threads),
        "cascadert": ours,
    }
    rows = [measure(loops, frames, theta) for theta in arguments.theta]
    pipeline.close()
    table = Table(
        "θ", "mean n", *(f"{name}\nms" for name in loops), *(f"{name}\n÷ cascadert" for name in list(loops)[:2])
    )
    for row in rows:
        ratios = list(row["ratio_to_cascadert"].values())[:2]
        table.add_row(
            f"{row['theta']:g}", f"{row['mean_n']:.1f}", *map(str, row["median_ms"].values()), *map(str, ratios)
        )
    Console().print(table)
    for row in rows:
        print(f"θ = {row['theta']:g}: labels agree {row['label_agreement']}, same n {row['same_n']}")
    if arguments.output:
        settings = {
            "threads": arguments.threads,
            "frames": len(frames),
            "cpus": os.cpu_count(),
            "torch": torch.__version__,
        }
        settings |= {"onnxruntime": ort.__version__, "bundle": bundle.spec.name}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
