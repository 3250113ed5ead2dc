"""Patch accuracy versus patch uncertainty (paper 002, eq. 10): is a network sure where it is right?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import IGNORE_LABEL
from cascadert.errors import InvalidRequest

Labels = NDArray[np.uint8]
Uncertainty = NDArray[np.floating[Any]]


@dataclass
class MeanUncertainty:
    """Mean uncertainty of a pixel over any number of frames: of the training set, the threshold of `PAvPU`."""

    total: float = field(init=False, default=0.0)
    pixels: int = field(init=False, default=0)

    def add(self, uncertainty: Uncertainty) -> None:
        """Add one or more frames, `[..., H, W]` in any unit."""
        self.total += float(uncertainty.sum(dtype=np.float64))
        self.pixels += uncertainty.size

    def value(self) -> float:
        """Return the mean in that unit; NaN without any pixel."""
        return self.total / self.pixels if self.pixels else math.nan


@dataclass
class PAvPU:
    """The share of windows in which a network is right and certain, or wrong and uncertain (paper 002, eq. 10).

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
