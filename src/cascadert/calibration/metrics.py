"""Segmentation metrics, and the oracles of paper 000: the best that choosing between two networks could do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import IGNORE_LABEL
from cascadert.errors import InvalidRequest
from cascadert.geometry import Grid

Labels = NDArray[np.uint8]


@dataclass
class ConfusionMatrix:
    """Counts of (truth, prediction) over any number of frames; pixels labelled 255 do not count."""

    num_classes: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, prediction: Labels, truth: Labels) -> None:
        """Add one or more frames, both uint8 of the same shape.

        Raises:
            InvalidRequest: shapes that differ, or labels that are neither a class nor 255.
        """
        if prediction.shape != truth.shape:
            found = f"{list(prediction.shape)} against {list(truth.shape)}"
            raise InvalidRequest("prediction and truth", f"have different shapes, {found}", "fit one to the other")
        valid = truth != IGNORE_LABEL
        for name, labels in (("truth", truth[valid]), ("prediction", prediction[valid])):
            if labels.size and int(labels.max()) >= self.num_classes:
                found = f"holds label {int(labels.max())} where there are {self.num_classes} classes"
                raise InvalidRequest(name, found, "check the class set (trainIds, not ids)")
        pairs = truth[valid].astype(np.int64) * self.num_classes + prediction[valid]
        self.counts += np.bincount(pairs, minlength=self.num_classes**2).reshape(self.counts.shape)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, float64 `[K]`; NaN for a class that neither side ever names."""
        hit = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        ratio: NDArray[np.float64] = np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
        return ratio

    def mean_iou(self) -> float:
        """Mean IoU over the classes that occur in the truth."""
        occurs = self.counts.sum(1) > 0
        return float(self.iou()[occurs].mean()) if occurs.any() else float("nan")

    def accuracy(self) -> float:
        """Share of pixels that are right."""
        total = int(self.counts.sum())
        return float(np.trace(self.counts) / total) if total else float("nan")


def error_map(prediction: Labels, truth: Labels) -> NDArray[np.bool_]:
    """Where a prediction is wrong; unlabelled pixels are not (paper 000, section 4.1)."""
    wrong: NDArray[np.bool_] = (prediction != truth) & (truth != IGNORE_LABEL)
    return wrong


def pixel_oracle(fast: Labels, accurate: Labels, truth: Labels) -> Labels:
    """The fast label where it is right, else the accurate one: the upper bound of any choice. All uint8 `[H, W]`."""
    chosen: Labels = np.where(error_map(fast, truth), accurate, fast)
    return chosen


def block_oracle(fast: Labels, accurate: Labels, truth: Labels, grid: Grid) -> Labels:
    """Each block from the network with more right pixels in it, the fast one on a tie. All uint8 `[H, W]`.

    Where blocks overlap, each decides about the pixels it owns, from the pixels it owns.
    """
    best: Labels = fast.copy()
    for index in range(grid.size):
        top, left, bottom, right = grid.owned_box(index)
        window = np.s_[top:bottom, left:right]
        wrong_fast = np.count_nonzero(error_map(fast[window], truth[window]))
        wrong_accurate = np.count_nonzero(error_map(accurate[window], truth[window]))
        if wrong_accurate < wrong_fast:
            best[window] = accurate[window]
    return best
