"""How many blocks to refine: policies for the one number n.

A selector sees the scores of all N * G blocks, sorted descending, and returns n; the blocks are the first n of `order`.
Selectors are pure and cheap, so a policy may change with every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cascadert.spec import SelectPolicy, ThresholdPolicy

Scores = NDArray[np.float32]


class Selector(Protocol):
    """Map sorted scores, float32 `[N * G]`, to n in 0..N * G. Blocks with a score of minus infinity never count."""

    def __call__(self, scores: Scores) -> int:
        """Return n."""
        ...


@dataclass(frozen=True)
class Threshold:
    """Every block whose score is strictly above `theta` (paper 000, section 3: u > theta). Unit: that of the scores."""

    theta: float

    def __call__(self, scores: Scores) -> int:
        """Return how many of the sorted scores are above theta; minus infinity is above nothing."""
        with np.errstate(over="ignore"):  # a theta beyond float32 is infinite, and above every score
            theta = np.float32(self.theta)
        return int(np.count_nonzero(scores > theta))


@dataclass(frozen=True)
class TopK:
    """The `k` blocks of the highest score, fewer where fewer have a score."""

    k: int

    def __call__(self, scores: Scores) -> int:
        """Return k, or the number of blocks that have a score."""
        return min(self.k, int(np.count_nonzero(scores > -np.inf)))


def make_selector(policy: SelectPolicy) -> Selector:
    """Return the selector that a policy of the specification describes."""
    return Threshold(policy.theta) if isinstance(policy, ThresholdPolicy) else TopK(policy.k)
