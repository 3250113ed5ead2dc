"""Classic against fast inference: which labels differ, and what accuracy has to do with the borders of regions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from measure import resize
from street_data import Data, normalise
from torch import Tensor
from two_column_inference import segment, top_regions

from cascadert.export.models.two_column import TwoColumn
from experiments.two_column_measure import Way, miou_of, segmented
from experiments.two_column_nets import CLASSES

BANDS = (0, 8, 16, 24)
"""Distances in pixels at which a band begins; the last is open."""


@torch.no_grad()
def differing_labels(network: TwoColumn, data: Data, k: int, classes: int) -> tuple[int, float]:
    """Compare k regions computed alone with all regions computed and masked: the network's own `forward`.

    Returns:
        How many labels differ, and the mIoU of the second in points of a hundred.
    """
    different, confusion = 0, torch.zeros(classes * classes, dtype=torch.int64)
    for frame, labels in zip(data.images, data.labels, strict=True):
        image = normalise(frame[None])
        fast = segment(network, image, lambda score: top_regions(score, k))
        size = (image.shape[2], image.shape[3])
        found, wanted = (resize(x, size).argmax(1)[0] for x in (fast.fused, network(image, fast.mask)))
        different += int((found != wanted).sum())
        known = labels < classes
        pairs = labels[known].long() * classes + wanted[known]
        confusion += torch.bincount(pairs, minlength=classes * classes)
    return different, miou_of(confusion.view(classes, classes))


def distance_to_border(size: tuple[int, int], region: int) -> Tensor:
    """Pixels from each pixel's centre to the nearest border between two regions, `[H, W]`; the frame's own are none."""
    rows, columns = (_to_lines(side, region) for side in size)
    return torch.minimum(rows[:, None], columns[None])


def _to_lines(side: int, region: int) -> Tensor:
    lines = torch.arange(region, side, region)
    return (torch.arange(side)[:, None] + 0.5 - lines).abs().amin(1) if len(lines) else torch.full((side,), torch.inf)


def accuracy_by_band(network: TwoColumn, data: Data, ways: Mapping[str, Way]) -> dict[str, list[float]]:
    """Share of right pixels in each of `BANDS`, in points of a hundred, of each way."""
    height, width = data.labels.shape[1:]
    distance = distance_to_border((height, width), network.region)
    band = torch.bucketize(distance, torch.tensor(BANDS[1:]), right=True)
    right, total = {name: torch.zeros(len(BANDS)) for name in ways}, torch.zeros(len(BANDS))
    for labels, found in segmented(network, data, ways):
        bands, known = band.expand_as(labels), labels < CLASSES
        total += torch.bincount(bands[known], minlength=len(BANDS))
        for name, one in found.items():
            right[name] += torch.bincount(bands[known & (one == labels)], minlength=len(BANDS))
    return {name: [round(100 * float(share), 2) for share in hits / total] for name, hits in right.items()}
