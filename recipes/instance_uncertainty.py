"""Loss weights by instance uncertainty (paper 002, eq. 7 and 8): what an ensemble doubts as a whole counts for more.

An instance is a connected region of one class in the ground truth. The regions of all frames are numbered once, and
crops are cut out of the numbers as out of labels, so an instance that a crop cuts in two stays one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from street_data import IGNORE
from torch import Tensor
from torch.nn import functional

from cascadert.calibration.instances import connected_regions

FIRST_REGION = 256  # numbers below are no regions: 255 is void, and what a crop holds outside of its frame


@dataclass(frozen=True)
class Regions:
    """The instances of a data set.

    Attributes:
        numbers: int32 ``[M, H, W]``: `IGNORE` on void pixels, else `FIRST_REGION` and up; no number is in two frames.
        classes: int64 ``[FIRST_REGION + R]``: the class of each number.
    """

    numbers: Tensor
    classes: Tensor


def number_regions(labels: Tensor) -> Regions:
    """Find the 8-connected regions of labels uint8 ``[M, H, W]`` (255 = void)."""
    numbers = np.empty(labels.shape, np.int32)
    classes, start = [np.full(FIRST_REGION, IGNORE)], FIRST_REGION
    for index, frame in enumerate(labels.numpy()):
        regions = connected_regions(frame)
        found = np.empty(int(regions.max()) + 1, np.int64)
        found[regions] = frame
        numbers[index] = np.where(frame == IGNORE, IGNORE, regions + start)
        classes.append(found)
        start += len(found)
    return Regions(torch.from_numpy(numbers), torch.from_numpy(np.concatenate(classes).astype(np.int64)))


def region_means(regions: Regions, uncertainty: Iterable[Tensor]) -> Tensor:
    """Mean uncertainty of every region, float32 ``[FIRST_REGION + R]``; 0 for void.

    Args:
        regions: of all frames.
        uncertainty: of each frame in their order, ``[H, W]``.
    """
    sums = torch.zeros(len(regions.classes), dtype=torch.float64)
    for numbers, frame in zip(regions.numbers, uncertainty, strict=True):
        sums.index_add_(0, numbers.flatten(), frame.flatten().double().cpu())
    counts = torch.bincount(regions.numbers.flatten(), minlength=len(sums)).clamp_min(1)
    means = (sums / counts).float()
    means[:FIRST_REGION] = 0.0
    return means


def instance_uncertainty(numbers: Tensor, uncertainty: Tensor) -> Tensor:
    """Give each pixel the mean uncertainty of its region in its crop (eq. 7), void pixels 0; all ``[N, h, w]``."""
    crop = torch.arange(len(numbers), device=numbers.device).view(-1, 1, 1)
    pairs = numbers.long() + crop * (int(numbers.max()) + 1)  # two crops of one frame are averaged apart
    _, inverse, counts = torch.unique(pairs, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), device=numbers.device).index_add_(0, inverse.flatten(), uncertainty.flatten())
    means: Tensor = (sums / counts)[inverse]
    return means.masked_fill(numbers < FIRST_REGION, 0.0)


def uncertainty_weights(uncertainty: Tensor, power: float = 1.0) -> Tensor:
    """Weights (1 + IU)^power of eq. 8, whose print leaves open whether there is a power."""
    return (1 + uncertainty) ** power


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over all labelled pixels of weight times cross entropy (eq. 8).

    Args:
        logits: ``[N, K, h, w]``.
        labels: int64 ``[N, h, w]``, 255 = void.
        weights: ``[N, h, w]``; they are not normalised.
    """
    each = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    return (each * weights).sum() / (labels != IGNORE).sum().clamp_min(1)
