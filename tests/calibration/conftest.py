"""One small cascade of each kind, of networks wide enough to be quantized; each is exported once, when asked for."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle, BundleManifest, write_bundle
from cascadert.calibration.stage_runs import GraphRunner, run_cascade
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.pixels import planes_from_rgb
from cascadert.scenes import SceneOptions, render
from cascadert.spec import TopKPolicy

SIZE = (64, 96)
NETWORKS = '''
import torch
from torch import nn


def layer(read, made, stride=1):
    return nn.Sequential(nn.Conv2d(read, made, 3, stride=stride, padding=1), nn.BatchNorm2d(made), nn.ReLU())


def plain(classes=4, width=16, stride=4):
    return nn.Sequential(layer(3, width, stride), layer(width, width), nn.Conv2d(width, classes, 1))


class Exits(nn.Module):
    """Two segments, and an exit behind each."""

    def __init__(self, classes, width):
        super().__init__()
        first, second = layer(3, width, 4), layer(width, width)
        self.segments = nn.ModuleList(nn.Sequential(each, layer(width, width)) for each in (first, second))
        self.exits = nn.ModuleList(nn.Sequential(layer(width, width), nn.Conv2d(width, classes, 1)) for _ in range(2))


def exits(classes=4, width=16):
    return Exits(classes, width)


class Context(nn.Module):
    """Logits of the frame, and the features that they were made of; the features are made first."""

    def __init__(self, classes, width):
        super().__init__()
        self.body, self.head = layer(3, width, 2), nn.Sequential(layer(width, width), nn.Conv2d(width, classes, 1))

    def forward(self, pixels):
        features = self.body(pixels)
        return {"features": features, "logits": self.head(features)}


def context(classes=4, width=16):
    return Context(classes, width)


class Patches(nn.Module):
    """Patches, and the context under each, which is as large as their features."""

    def __init__(self, classes, width):
        super().__init__()
        self.stem, self.around = layer(3, width, 4), layer(width, width)
        self.head = nn.Sequential(layer(2 * width, width), nn.Conv2d(width, classes, 1))

    def forward(self, pixels, features):
        return self.head(torch.cat([self.stem(pixels), self.around(features)], dim=1))


def patches(classes=4, width=16):
    return Patches(classes, width)


class Half(nn.Module):
    """Logits, a score of each block, and a map for the fusion."""

    def __init__(self, classes, width):
        super().__init__()
        self.body, self.head = nn.Sequential(layer(3, width, 8), layer(width, width)), nn.Conv2d(width, classes, 1)
        self.judge = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(width, 1, 1))

    def forward(self, pixels):
        z2 = self.body(pixels)
        return {"z2": z2, "score": self.judge(z2), "logits": self.head(z2)}


def half(classes=4, width=16):
    return Half(classes, width)


def crops(width=16):
    return nn.Sequential(layer(3, width, 4), layer(width, width))


class Fuse(nn.Module):
    """Features of the blocks where there are any, the map of the half column elsewhere."""

    def __init__(self, classes, width):
        super().__init__()
        self.mix, self.head = layer(2 * width, width), nn.Conv2d(width, classes, 1)

    def forward(self, crops, z2, mask):
        z2 = nn.functional.interpolate(z2, scale_factor=2.0, mode="nearest")
        inside = nn.functional.interpolate(mask, scale_factor=8.0, mode="nearest")
        return self.head(self.mix(torch.cat([crops * inside, z2], dim=1)))


def fuse(classes=4, width=16):
    return Fuse(classes, width)


class Mean(nn.Module):
    """Log of the mean probability of several members, and the mean of their entropies in bits. No weights."""

    def forward(self, *logits):
        shares = torch.stack([each.softmax(dim=1) for each in logits])
        entropies = -(shares * shares.clamp(min=1e-12).log2()).sum(dim=2)
        return {"logits": shares.mean(dim=0).clamp(min=1e-12).log(), "aleatoric": entropies.mean(dim=0)[:, None]}


def mean():
    return Mean()
'''

_CONFIDENCE = {"measure": "confidence", "pixel": 0.6}
_SPLITS = {"policy": "threshold", "theta": 0.0}  # theta is put where some blocks or frames are above it, and some below
SYSTEMS: dict[str, dict[str, Any]] = {
    "exits": {
        "networks": [{"name": "both", "model": "networks.py:exits"}],
        "stages": [
            {"name": "segment1", "input": "frame", "network": "both", "part": "segments.0", "emit": ["features"]},
            {
                "name": "exit1",
                "input": "carried",
                "network": "both",
                "part": "exits.0",
                "reads": ["segment1.features"],
                "emit": ["labels", "scores", "order"],
                "score": _CONFIDENCE,
            },
            {
                "name": "segment2",
                "input": "carried",
                "network": "both",
                "part": "segments.1",
                "reads": ["segment1.features"],
                "emit": ["features"],
                "after": "exit1",
                "select": _SPLITS,
            },
            {"name": "exit2", "input": "carried", "network": "both", "part": "exits.1", "reads": ["segment2.features"]},
        ],
    },
    "context": {
        "grid": {"block": 32},
        "stages": [
            {
                "name": "low",
                "model": "networks.py:context",
                "scale": 0.5,
                "emit": ["features", "labels", "scores", "order"],
                "score": "normalised-entropy",
            },
            {
                "name": "patches",
                "model": "networks.py:patches",
                "reads": ["low.features"],
                "select": _SPLITS,
            },
        ],
    },
    "columns": {
        "grid": {"block": 32},
        "stages": [
            {
                "name": "half",
                "model": "networks.py:half",
                "emit": ["z2", "labels", "scores", "order"],
                "score": "learned",
            },
            {
                "name": "crops",
                "input": "blocks",
                "model": "networks.py:crops",
                "emit": ["features"],
                "select": {"policy": "top-k", "k": 2},
            },
            {"name": "fuse", "input": "carried", "model": "networks.py:fuse", "reads": ["crops.features", "half.z2"]},
        ],
    },
    "ensemble": {
        "grid": {"block": 32},
        "stages": [
            {"name": "wide", "input": "frame", "model": "networks.py:plain", "args": {"width": 24}, "emit": ["logits"]},
            {"name": "narrow", "input": "frame", "model": "networks.py:plain", "emit": ["logits"]},
            {
                "name": "reduce",
                "input": "carried",
                "model": "networks.py:mean",
                "reads": ["wide.logits", "narrow.logits"],
                "emit": ["labels", "scores", "order", "entropy", "aleatoric"],
            },
            {
                "name": "accurate",
                "model": "networks.py:plain",
                "args": {"stride": 2},
                "select": _SPLITS,
            },
        ],
    },
}

System = Callable[[str], Bundle]
Frames = list[dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def system(
    tmp_path_factory: pytest.TempPathFactory, save_spec: Callable[[Path, dict[str, Any]], Path], system_frames: Frames
) -> System:
    """`system(kind)` is a bundle of one of `SYSTEMS`. Do not write into its folder."""
    folder = tmp_path_factory.mktemp("systems")
    (folder / "networks.py").write_text(NETWORKS)

    @cache
    def exported(kind: str) -> Bundle:
        palette = [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90]]
        data = {
            "name": kind,
            "classes": {"names": ["a", "b", "c", "d"], "palette": palette},
            "frame": {"height": SIZE[0], "width": SIZE[1]},
            **SYSTEMS[kind],
        }
        bundle = export_bundle(save_spec(folder, data), folder / kind, ExportOptions(random_weights=3))
        if kind == "columns":
            return bundle
        return with_theta(bundle, folder / f"{kind}-split", _splitting_theta(bundle, system_frames[3::4]))

    return exported


@pytest.fixture(scope="session")
def system_frames() -> Frames:
    """Twelve streets of the systems' size, as planes; thetas part the scores of every fourth, those held out."""
    options = SceneOptions(height=SIZE[0], width=SIZE[1])
    return [planes_from_rgb(render(20 + i % 5, 7 * i, options).image[None], "rgb8") for i in range(12)]


def with_theta(bundle: Bundle, path: Path, theta: float) -> Bundle:
    """Write a bundle that decides by a threshold."""
    data = json.loads(bundle.manifest.to_json())
    for stage in data["stages"]:
        if stage["select"] is not None:
            stage["select"]["policy"] = {"policy": "threshold", "theta": theta}
    return write_bundle(path, BundleManifest.model_validate(data), bundle.graphs)


def _splitting_theta(bundle: Bundle, frames: Frames) -> float:
    """Return a theta in the widest gap of the middle half of all scores."""
    (decided,) = (stage for stage in bundle.manifest.stages if stage.select is not None)
    runners = {name: GraphRunner(name, graph, 1) for name, graph in bundle.graphs.items()}
    none = {decided.name: TopKPolicy(k=0)}
    traces = [run_cascade(bundle.manifest, runners, planes, none, {}) for planes in frames]
    assert decided.select is not None
    scores = np.sort(np.concatenate([trace.stages[decided.select.producer].outputs["scores"] for trace in traces]))
    middle = scores[len(scores) // 4 : -(len(scores) // 4) or None]
    widest = int(np.argmax(np.diff(middle)))
    return float(middle[widest] + middle[widest + 1]) / 2
