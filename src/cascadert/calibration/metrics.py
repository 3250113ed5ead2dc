"""Metrics of labels and logits, added up frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import IGNORE_LABEL
from cascadert.errors import InvalidRequest

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


@dataclass
class Noise:
    """Signal to quantization noise over any number of tensors: powers add up, decibels do not."""

    signal: float = field(init=False, default=0.0)
    noise: float = field(init=False, default=0.0)
    elements: int = field(init=False, default=0)

    def add(self, reference: NDArray[np.floating[Any]], noisy: NDArray[np.floating[Any]]) -> None:
        """Add a tensor and its noisy twin.

        Raises:
            InvalidRequest: shapes that differ.
        """
        if reference.shape != noisy.shape:
            found = f"have different shapes, {list(reference.shape)} against {list(noisy.shape)}"
            raise InvalidRequest("signals", found, "compare the same tensor")
        self.signal += float(np.square(reference, dtype=np.float64).sum())
        self.noise += float(np.square(np.subtract(reference, noisy, dtype=np.float64)).sum())
        self.elements += reference.size

    @property
    def sqnr_db(self) -> float:
        """10 log10(Σ reference² / Σ error²): infinite where nothing differs, NaN where nothing was added."""
        if not self.noise:
            return math.inf if self.elements else math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


def sqnr_db(reference: NDArray[np.floating[Any]], noisy: NDArray[np.floating[Any]]) -> float:
    """Signal to quantization noise of one tensor in decibels; see `Noise`.

    Raises:
        InvalidRequest: shapes that differ.
    """
    both = Noise()
    both.add(reference, noisy)
    return both.sqnr_db
