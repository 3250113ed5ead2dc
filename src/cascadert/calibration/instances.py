"""Instance uncertainty (paper 002, eq. 7): every pixel as uncertain as the region it lies in.

One uncertain pixel is noise, a region that is uncertain as a whole is an object the network does not know.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def connected_regions(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Number the connected regions of equal labels, 8-adjacent: `[h, w]` to `[h, w]`, from 0 on without gaps.

    Runs of a row are the nodes of a graph; each round hooks the roots of neighbours onto the lower one.
    """
    begins = np.ones(labels.shape, np.bool_)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(begins).reshape(labels.shape) - 1
    upper, lower = _touching(labels, runs)
    root = np.arange(runs.max() + 1)
    while True:
        a, b = root[upper], root[lower]
        if np.array_equal(a, b):
            break
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, root[root]):
            root = root[root]
    regions: NDArray[np.intp] = np.unique(root, return_inverse=True)[1][runs]
    return regions


def _touching(labels: NDArray[Any], runs: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of runs that touch from row to row: straight below, or at a corner to either side."""
    sides = (np.s_[:], np.s_[:]), (np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])
    pairs = []
    for above, below in sides:
        same = labels[:-1, above] == labels[1:, below]
        pairs.append((runs[:-1, above][same], runs[1:, below][same]))
    upper, lower = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return upper, lower


def instance_uncertainty(labels: NDArray[Any], uncertainty: Floats) -> NDArray[np.float64]:
    """Give each pixel the mean uncertainty of its connected region: both `[h, w]`."""
    regions = connected_regions(labels)
    sums = np.bincount(regions.ravel(), weights=uncertainty.ravel())
    means: NDArray[np.float64] = sums / np.bincount(regions.ravel())
    return means[regions]
