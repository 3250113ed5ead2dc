"""The two stages in which a network with exits is trained (paper 004); `exits.py` is the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from distillation import ExitLoss, LossKind, round_robin, takes_part
from measure import resize
from street_data import IGNORE, Data, Recipe, class_weights, draw
from torch import Tensor, nn
from torch.nn import functional
from trainer import Batch, Trained, TrainOptions, train

from cascadert.export.models.multi_exit import MultiExit
from cascadert.export.networks import build_network
from cascadert.spec import CascadeSpec

LOSS_STRIDE = 2
"""Losses are taken at every second pixel: at all of them, four heads spend half of a step on resizing logits."""


def recipe_of(spec: CascadeSpec) -> Recipe:
    """Crops as high as what the first stage sees of a frame, and at most 4/3 as wide."""
    first = spec.stages[0]
    height, width = spec.network_input_size(first)
    return Recipe(first.scale, (height, min(width, height * 4 // 3)))


def build(spec: CascadeSpec, folder: Path) -> MultiExit:
    """The network of a specification that lies in `folder`, with fresh weights."""
    network = build_network("network", spec.networks[0], folder)
    if not isinstance(network, MultiExit):
        raise SystemExit(f"{spec.name}: its network has no exits; give a specification as examples/multi-exit-r50.toml")
    return network.requires_grad_(True)


def coarse(labels: Tensor) -> Tensor:
    """Labels ``[N, H, W]`` at the pixels where losses are taken."""
    return labels[:, LOSS_STRIDE // 2 :: LOSS_STRIDE, LOSS_STRIDE // 2 :: LOSS_STRIDE]


def batches(data: Data, recipe: Recipe) -> Callable[[np.random.Generator], Batch]:
    """Augmented batches: network inputs, and labels at the pixels where losses are taken."""

    def batch(rng: np.random.Generator) -> Batch:
        pixels, labels = draw(data, recipe, rng)
        return pixels, coarse(labels)

    return batch


def train_together(network: MultiExit, data: Data, recipe: Recipe, classes: int, options: TrainOptions) -> Trained:
    """Stage 1: all segments and heads."""
    weights = class_weights(data.labels, classes, recipe.balance).to(options.device)

    def loss(batch: Batch, step: int) -> Tensor:
        x, labels = batch
        each = []
        for number, (segment, head) in enumerate(zip(network.segments, network.exits, strict=True), start=1):
            x = segment(x)
            if number == len(network.exits) or takes_part(number, step):
                logits = resize(head(x), (labels.shape[1], labels.shape[2]))
                each.append(functional.cross_entropy(logits, labels, weights, ignore_index=IGNORE))
            else:
                each.append(x.new_zeros(()))
        return round_robin(each, step)

    return train(network, batches(data, recipe), loss, options)


def train_heads(
    network: MultiExit, heads: nn.ModuleList, loss: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    batch: Callable[[np.random.Generator], Batch], options: TrainOptions,
) -> Trained:  # fmt: skip
    """Stage 2: the backbone and the final exit frozen, statistics included.

    Args:
        network: what is frozen.
        heads: what is trained; head i reads the features of segment i modulo the number of exits before the last.
        loss: of head i, from its logits, the final exit's log-probabilities, and labels; see `ExitLoss`.
        batch: see `batches`.
        options: see `TrainOptions`.
    """
    network.to(options.device).eval()
    early = len(network.exits) - 1

    def total(drawn: Batch, step: int) -> Tensor:
        x, labels = drawn
        size = (labels.shape[1], labels.shape[2])
        features = []
        with torch.no_grad():
            for segment in network.segments:
                x = segment(x)
                features.append(x)
            final = resize(network.exits[-1](x), size).log_softmax(1)
        losses = [loss(i, resize(head(features[i % early]), size), final, labels) for i, head in enumerate(heads)]
        return torch.stack(losses).sum()

    return train(heads, batch, total, options)


def train_distilled(
    network: MultiExit, kind: LossKind, data: Data, recipe: Recipe, classes: int, options: TrainOptions
) -> Trained:
    """Stage 2 with one loss, in place."""
    exit_loss = ExitLoss(kind, class_weights(data.labels, classes, recipe.balance).to(options.device))
    heads = nn.ModuleList(network.exits[:-1])
    return train_heads(
        network, heads, lambda i, logits, final, labels: exit_loss(logits, final, labels), batches(data, recipe),
        options,
    )  # fmt: skip
