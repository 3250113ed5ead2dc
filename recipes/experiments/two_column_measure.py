"""What two-column networks make of validation frames, whichever regions are computed and whoever chooses them.

Both columns run once on everything; each choice of regions then costs a mask and the fusion, which is the same as
computing those regions alone (`tests/recipes/test_two_column.py` holds that).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from measure import intersection_over_union, resize
from street_data import Data, normalise
from torch import Tensor
from torch.nn import functional
from two_column_inference import output_of, top_regions

from cascadert.export.macs import count_macs
from cascadert.export.models.two_column import TwoColumn
from cascadert.export.models.two_column.decoder import rescale
from cascadert.export.models.two_column.sparse import cut, uncrop

Levels = Literal["crops", "frame"]
"""Where the full-resolution column's levels come from: regions on their own, or whole frames (SCTF as trained)."""

_FRAMES_AT_ONCE = 4


@dataclass(frozen=True)
class View:
    """What regions can be chosen by, for a few frames; scores are `[N, 1, rows, columns]`.

    Attributes:
        learned: s of the network.
        entropy: mean entropy of the half column's own result, in bits.
        first: number of the first frame.
    """

    learned: Tensor
    entropy: Tensor
    first: int


Choice = Callable[[View], Tensor]
"""Scores to take the highest k of."""


def learned(view: View) -> Tensor:
    """The network's own choice."""
    return view.learned


def lowest(view: View) -> Tensor:
    """What the network would choose last."""
    return -view.learned


def entropy(view: View) -> Tensor:
    """Where the half column is unsure: what a cascade goes by that has learned nothing for it (paper 000)."""
    return view.entropy


def at_random(draw: int) -> Choice:
    """Any regions, others for each draw and frame, and the same for every network."""

    def choice(view: View) -> Tensor:
        scores = np.random.default_rng([draw, view.first]).random(tuple(view.learned.shape), dtype=np.float32)
        return torch.from_numpy(scores)

    return choice


@dataclass(frozen=True)
class Way:
    """One way to segment a frame: k regions by some choice, and where the levels come from."""

    choice: Choice
    k: int
    levels: Levels = "crops"


@torch.no_grad()
def segmented(network: TwoColumn, data: Data, ways: Mapping[str, Way]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Labels of a few frames at a time: the true ones uint8 `[N, H, W]`, and those found in each way, int64."""
    kinds = {way.levels for way in ways.values()}
    for first in range(0, len(data.images), _FRAMES_AT_ONCE):
        image = normalise(data.images[first : first + _FRAMES_AT_ONCE])
        with output_of(network.half_column.column.classifier) as own:
            half = network.half_column(rescale(image, 0.5))
        rows, columns = half["score"].shape[-2:]
        view = View(half["score"], _entropy(own[0], (rows, columns)), first)
        levels = {kind: _levels(network, image, kind) for kind in kinds}
        found = {}
        for name, way in ways.items():
            mask = top_regions(way.choice(view), way.k)
            logits = _fused(network, half, levels[way.levels], mask, masked=way.levels == "crops")
            found[name] = resize(logits, (image.shape[2], image.shape[3])).argmax(1)
        yield data.labels[first : first + _FRAMES_AT_ONCE], found


def _levels(network: TwoColumn, image: Tensor, kind: Levels) -> dict[str, Tensor]:
    if kind == "frame":
        return dict(network.crops(image))
    grid = (image.shape[2] // network.region, image.shape[3] // network.region)
    return {name: uncrop(level, grid) for name, level in network.crops(cut(image, network.region)).items()}


def _fused(
    network: TwoColumn, half: Mapping[str, Tensor], levels: Mapping[str, Tensor], mask: Tensor, *, masked: bool
) -> Tensor:
    if masked:
        levels = {name: level * functional.interpolate(mask, size=level.shape[-2:]) for name, level in levels.items()}
    given = {**half, **levels}
    logits: Tensor = network.fuse(*(given[name] for name in network.fuse.reads), mask)
    return logits


def _entropy(logits: Tensor, grid: tuple[int, int]) -> Tensor:
    shares = logits.log_softmax(1)
    return functional.adaptive_avg_pool2d(-(shares.exp() * shares).sum(1, keepdim=True) / math.log(2), grid)


def quality(network: TwoColumn, data: Data, ways: Mapping[str, Way], classes: int) -> dict[str, float]:
    """Measure mIoU in points of a hundred, for each way."""
    confusion = {name: torch.zeros(classes * classes, dtype=torch.int64) for name in ways}
    for labels, found in segmented(network, data, ways):
        known = labels < classes
        row = labels[known].long() * classes
        for name, one in found.items():
            confusion[name] += torch.bincount(row + one[known], minlength=classes * classes)
    return {name: miou_of(counts.view(classes, classes)) for name, counts in confusion.items()}


def miou_of(confusion: Tensor) -> float:
    """MIoU of `[K, K]` counts, in points of a hundred."""
    present = [value for value in intersection_over_union(confusion) if value is not None]
    return round(100 * sum(present) / len(present), 2)


def macs_by_regions(network: TwoColumn, size: tuple[int, int]) -> list[int]:
    """Multiply-adds of a frame of `size` (height, width) with 0, 1, ... all of its regions computed, as exported."""
    height, width = size
    region = network.region
    with torch.no_grad():
        half = network.half_column(torch.zeros(1, 3, height // 2, width // 2))
        levels = _levels(network, torch.zeros(1, 3, height, width), "crops")
    given = {**half, **levels}
    mask = (1, 1, height // region, width // region)
    column = count_macs(network.half_column, (1, 3, height // 2, width // 2))
    fusion = count_macs(network.fuse, *(tuple(given[name].shape) for name in network.fuse.reads), mask)
    each = count_macs(network.crops, (1, 3, region, region))
    return [column + fusion + k * each for k in range(mask[2] * mask[3] + 1)]
