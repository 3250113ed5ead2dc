"""A cascade's quality from maps of its two networks: for every choice of blocks at the price of a sum.

Each block owns some pixels of its frame, and these rectangles partition it (`Grid.owned_box`). So the confusion matrix
of any composition is a sum of matrices, one for each block, either the fast network's or the accurate one's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.oracles import pixel_oracle
from cascadert.geometry import Grid

Labels = NDArray[np.uint8]
Chosen = NDArray[np.bool_]
"""Which blocks are refined: bool `[F, G]`."""


def confusion_of(counts: NDArray[np.int64]) -> ConfusionMatrix:
    """Add up counts `[..., K, K]`."""
    matrix = ConfusionMatrix(counts.shape[-1])
    matrix.counts += counts.reshape(-1, *counts.shape[-2:]).sum(0)
    return matrix


def miou_of(labels: Labels, truths: Labels, classes: int) -> float:
    """Return the mIoU of whole maps `[F, H, W]` in per cent."""
    matrix = ConfusionMatrix(classes)
    for found, truth in zip(labels, truths, strict=True):
        matrix.add(found, truth)
    return 100 * matrix.mean_iou()


def pixel_oracle_miou(fast: Labels, accurate: Labels, truths: Labels, classes: int) -> float:
    """Return the mIoU of paper 000's pixel oracle, in per cent."""
    return miou_of(pixel_oracle(fast, accurate, truths), truths, classes)


@dataclass(frozen=True)
class BlockCounts:
    """Confusion matrices of both networks in every block, int64 `[F, G, K, K]`, and the blocks' scores `[F, G]`."""

    fast: NDArray[np.int64]
    accurate: NDArray[np.int64]
    scores: NDArray[np.float32]

    def miou(self, chosen: Chosen) -> float:
        """Return the mIoU in per cent with some blocks refined."""
        return 100 * confusion_of(self.frames(chosen)).mean_iou()

    def frames(self, chosen: Chosen) -> NDArray[np.int64]:
        """Return the confusion matrix of each frame, `[F, K, K]`."""
        counts: NDArray[np.int64] = np.where(chosen[..., None, None], self.accurate, self.fast).sum(1)
        return counts

    def only(self, start: int, every: int) -> BlockCounts:
        """Return those of some of the frames."""
        return BlockCounts(self.fast[start::every], self.accurate[start::every], self.scores[start::every])

    def above(self, theta: float) -> Chosen:
        """Return the blocks whose score is strictly above theta, compared in float32 as the runtime does."""
        return np.asarray(self.scores > np.float32(theta))

    def best(self, k: int) -> Chosen:
        """Return the k blocks of each frame with the highest scores; of equal ones the first, as the graph sorts."""
        ranks = np.argsort(np.argsort(-self.scores, axis=1, kind="stable"), axis=1)
        return np.asarray(ranks < k)

    def better(self) -> Chosen:
        """Return the blocks in which the accurate network has more right pixels; a tie is the fast one's."""
        right = [np.trace(counts, axis1=2, axis2=3) for counts in (self.fast, self.accurate)]
        return np.asarray(right[1] > right[0])

    def fraction_theta(self, blocks: int) -> float:
        """Return the theta at which `blocks` blocks are refined in all frames together."""
        ordered = np.sort(self.scores, axis=None)[::-1]
        return float(ordered[blocks]) if blocks < ordered.size else -1.0


def count_blocks(
    fast: Labels, accurate: Labels, truths: Labels, grid: Grid, scores: NDArray[np.float32], classes: int
) -> BlockCounts:
    """Count both networks' labels `[F, H, W]` block by block."""
    both = [_counts(labels, truths, grid, classes) for labels in (fast, accurate)]
    return BlockCounts(both[0], both[1], scores)


def _counts(labels: Labels, truths: Labels, grid: Grid, classes: int) -> NDArray[np.int64]:
    owner = np.zeros(truths.shape[1:], np.int64)
    for index, (top, left, bottom, right) in enumerate(map(grid.owned_box, range(grid.size))):
        owner[top:bottom, left:right] = index
    return np.stack(
        [_frame(found, truth, owner, grid.size, classes) for found, truth in zip(labels, truths, strict=True)]
    )


def _frame(found: Labels, truth: Labels, owner: NDArray[np.int64], blocks: int, classes: int) -> NDArray[np.int64]:
    known = truth < classes
    cells = (owner[known] * classes + truth[known]) * classes + found[known]
    return np.bincount(cells, minlength=blocks * classes**2).reshape(blocks, classes, classes)


def mean_blocks(chosen: Chosen) -> float:
    """Return how many blocks are refined in a frame, on average."""
    return float(chosen.sum(1).mean())


def thetas(start: float, stop: float, step: float) -> tuple[float, ...]:
    """Return evenly spaced thresholds, the last included."""
    return tuple(round(start + index * step, 6) for index in range(round((stop - start) / step) + 1))


def linear_fit(x: Iterable[float], y: Iterable[float]) -> tuple[float, float, float]:
    """Return slope, intercept and R^2 of a least-squares line."""
    xs, ys = np.array(list(x), float), np.array(list(y), float)
    slope, intercept = np.polyfit(xs, ys, 1)
    spread = float(np.square(ys - ys.mean()).sum())
    rest = float(np.square(ys - (slope * xs + intercept)).sum())
    return float(slope), float(intercept), 1 - rest / spread if spread else 1.0
