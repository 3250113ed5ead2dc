"""Metrics of labels and logits, and the oracles of paper 000: the best that choosing between two networks could do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

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


def sqnr_db(reference: NDArray[np.floating[Any]], noisy: NDArray[np.floating[Any]]) -> float:
    """Signal to quantization noise, 10 log10(Σ reference² / Σ error²), in decibels; infinite where nothing differs.

    Raises:
        InvalidRequest: shapes that differ.
    """
    if reference.shape != noisy.shape:
        found = f"have different shapes, {list(reference.shape)} against {list(noisy.shape)}"
        raise InvalidRequest("signals", found, "compare the same tensor")
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(reference, noisy, dtype=np.float64)).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


@dataclass
class PAvPU:
    """Patch accuracy versus patch uncertainty (systems.md, section 3, eq. 10): is the network sure where it is right?

    Windows of `window` x `window` pixels, cut off at the right and lower edge of the frame. A window is accurate if
    more than half of its pixels are right, and certain if their mean uncertainty is below `threshold`. Pixels labelled
    255 are left out, windows of nothing else do not count.
    """

    threshold: float
    window: int = 4
    accurate_certain: int = field(init=False, default=0)
    accurate_uncertain: int = field(init=False, default=0)
    inaccurate_certain: int = field(init=False, default=0)
    inaccurate_uncertain: int = field(init=False, default=0)

    def add(self, prediction: Labels, truth: Labels, uncertainty: NDArray[np.floating[Any]]) -> None:
        """Add one or more frames `[..., H, W]`: two of uint8 labels, one of uncertainty in the threshold's unit.

        Raises:
            InvalidRequest: shapes that differ.
        """
        shapes = {prediction.shape, truth.shape, uncertainty.shape}
        if len(shapes) > 1:
            found = f"have different shapes, {', '.join(str(list(shape)) for shape in sorted(shapes))}"
            raise InvalidRequest("prediction, truth and uncertainty", found, "fit them to the same size")
        valid = truth != IGNORE_LABEL
        pixels = self._sums(valid)
        right = self._sums(valid & (prediction == truth))
        doubt = self._sums(np.where(valid, uncertainty, 0))
        counts, right, doubt = pixels[pixels > 0], right[pixels > 0], doubt[pixels > 0]
        accurate, certain = right / counts > 0.5, doubt / counts < self.threshold
        self.accurate_certain += int(np.count_nonzero(accurate & certain))
        self.accurate_uncertain += int(np.count_nonzero(accurate & ~certain))
        self.inaccurate_certain += int(np.count_nonzero(~accurate & certain))
        self.inaccurate_uncertain += int(np.count_nonzero(~accurate & ~certain))

    @property
    def windows(self) -> int:
        """How many windows count."""
        return self.accurate_certain + self.accurate_uncertain + self.inaccurate_certain + self.inaccurate_uncertain

    def value(self) -> float:
        """Share of windows that are accurate and certain, or inaccurate and uncertain; NaN without any window."""
        good = self.accurate_certain + self.inaccurate_uncertain
        return good / self.windows if self.windows else math.nan

    def _sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sum over each window."""
        height, width = values.shape[-2:]
        pad = [(0, 0)] * (values.ndim - 2) + [(0, -height % self.window), (0, -width % self.window)]
        padded = np.pad(values.astype(np.float64), pad)
        rows, columns = (size // self.window for size in padded.shape[-2:])
        tiled = padded.reshape(-1, rows, self.window, columns, self.window)
        sums: NDArray[np.float64] = tiled.sum(axis=(2, 4))
        return sums
