"""The accurate network fine-tuned on crops of one size, as paper 000 does for each of its blocks (section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from files import load_weights, save_weights
from measure import resize
from street_data import IGNORE, RECIPES, Data, class_weights, draw
from torch import nn
from torch.nn import functional
from trainer import Batch, Schedule, TrainOptions, train

from cascadert.export.models import NETWORKS

PIXELS = 8_640_000
"""Pixels that each network sees in training, whatever the size of its crops: 75 steps of 8 crops of 120 x 120."""

LEARNING_RATE = 1e-3
_BATCH_PIXELS = 120_000


@dataclass(frozen=True)
class Crop:
    """A network's input while it is fine-tuned: a block of `size` (height, width) and `halo` pixels around it."""

    size: tuple[int, int]
    halo: int = 0

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        return self.size[0] + 2 * self.halo, self.size[1] + 2 * self.halo

    @property
    def pixels(self) -> int:
        """Pixels of that."""
        return self.patch[0] * self.patch[1]

    @property
    def batch(self) -> int:
        """Crops in a step: about as many pixels for every size, and at least 2."""
        return max(2, round(_BATCH_PIXELS / self.pixels))

    @property
    def steps(self) -> int:
        """Steps until `PIXELS` were seen."""
        return round(PIXELS / (self.pixels * self.batch))


def fine_tuned(data: Data, classes: int, start: Path, crop: Crop, seed: int, folder: Path, device: str) -> Path:
    """Return the weights of a small PSPNet, fine-tuned from `start`; they are trained only if the folder lacks them."""
    height, width = crop.patch
    path = folder / f"pspnet_small-{height}x{width}-seed{seed}.safetensors"
    if path.exists():
        return path
    network: nn.Module = NETWORKS["pspnet-small"](classes)
    load_weights(network, start)
    recipe = replace(RECIPES["camvid", "pspnet-small"], crop=crop.patch, overhang=crop.halo, batch=crop.batch)
    weights = class_weights(data.labels, classes, recipe.balance).to(device)

    def loss(batch: Batch, step: int) -> torch.Tensor:
        pixels, labels = batch
        return functional.cross_entropy(resize(network(pixels), crop.patch), labels, weights, ignore_index=IGNORE)

    def batch(rng: np.random.Generator) -> Batch:
        return draw(data, recipe, rng)

    schedule = Schedule(crop.steps, LEARNING_RATE, recipe.weight_decay, warm_up=max(1, crop.steps // 5))
    checkpoint = path.with_suffix(".checkpoint")
    train(network, batch, loss, TrainOptions(schedule, seed, device, checkpoint=checkpoint, name=path.stem))
    save_weights(network, path)
    return path
