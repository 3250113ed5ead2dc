"""Instance uncertainty (systems.md, section 3, eq. 7): every pixel as uncertain as the region it lies in.

One uncertain pixel is noise, a region that is uncertain as a whole is an object the network does not know.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def entropy_bits(logits: Floats) -> NDArray[np.float64]:
    """Entropy of the softmax over classes, in bits: `[N, K, h, w]` to `[N, h, w]`; one channel is a binary task."""
    values = logits.astype(np.float64)
    if values.shape[1] == 1:
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    shifted = values - values.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    bits: NDArray[np.float64] = (np.log(total) - (weights * shifted).sum(axis=1) / total) / np.log(2)
    return bits


def connected_regions(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Number the connected regions of equal labels, 4-adjacent: `[h, w]` to `[h, w]`, from 0 on without gaps.

    Runs of a row are the nodes of a graph; each round hooks the roots of neighbours onto the lower one.
    """
    begins = np.ones(labels.shape, np.bool_)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(begins).reshape(labels.shape) - 1
    touching = labels[1:] == labels[:-1]
    upper, lower = runs[:-1][touching], runs[1:][touching]
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


def instance_uncertainty(labels: NDArray[Any], uncertainty: Floats) -> NDArray[np.float64]:
    """Give each pixel the mean uncertainty of its connected region: both `[h, w]`."""
    regions = connected_regions(labels)
    sums = np.bincount(regions.ravel(), weights=uncertainty.ravel())
    means: NDArray[np.float64] = sums / np.bincount(regions.ravel())
    return means[regions]
