"""The patches of paper 001: how uncertain each one is, how it is cut, and which one of each image is trained on.

A grid of `side * side` patches lies over the image, row by row; the same grid lies over the first network's maps.
Sampling (section 3.2): "random" takes any patch, "weighted" one with a probability in proportion to its uncertainty,
"highest" the most uncertain.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cascadert.export.glue import as_class_logits
from cascadert.export.uncertainty import uncertainty

Sampling = Literal["random", "weighted", "highest"]


def patch_scores(logits: Tensor, side: int) -> Tensor:
    """Return the mean of 1 - 2 |0.5 - p| over each patch, float32 `[N, G]`, of logits `[N, 1, h, w]`."""
    each = uncertainty(as_class_logits(logits.float()), "triangular")
    height, width = each.shape[1:]
    return functional.avg_pool2d(each[:, None], (height // side, width // side)).flatten(1)


def to_patches(planes: Tensor, side: int) -> Tensor:
    """Cut `[N, C, H, W]` into `[N, G, C, H / side, W / side]`."""
    n, channels, height, width = planes.shape
    rows = planes.view(n, channels, side, height // side, side, width // side)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def from_patches(patches: Tensor, side: int) -> Tensor:
    """Put together what `to_patches` cut."""
    n, _, channels, height, width = patches.shape
    rows = patches.view(n, side, side, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(n, channels, side * height, side * width)


def take_patch(planes: Tensor, chosen: Tensor, side: int) -> Tensor:
    """Cut one patch of each image: `[N, C, H, W]` and int64 `[N]` to `[N, C, H / side, W / side]`."""
    return to_patches(planes, side)[torch.arange(len(planes), device=planes.device), chosen]


def probabilities(uncertainty: Tensor, sampling: Sampling) -> Tensor:
    """Return the chance of each patch, float32 `[N, G]` whose rows sum to 1, of uncertainties `[N, G]` from 0 up.

    Where no patch is uncertain, all are as likely as each other.
    """
    if sampling == "highest":
        return torch.zeros_like(uncertainty).scatter(1, uncertainty.argmax(dim=1, keepdim=True), 1.0)
    if sampling == "random":
        uncertainty = torch.ones_like(uncertainty)
    total = uncertainty.sum(dim=1, keepdim=True)
    return torch.where(total > 0, uncertainty / total.clamp(min=1e-30), 1 / uncertainty.shape[1])


def sample_patches(uncertainty: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Draw one patch for each image: int64 `[N]`, of uncertainties float32 `[N, G]`."""
    return torch.multinomial(probabilities(uncertainty, sampling), 1, generator=generator)[:, 0]
