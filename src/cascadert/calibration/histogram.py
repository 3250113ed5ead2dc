"""Where to clip a tensor for 8 bits: thresholds from the histogram of its values, by each calibrator.

The histogram has an even number of equal bins between minus and plus the largest absolute value, as ONNX Runtime's
collector makes it. Percentile and entropy are ONNX Runtime's own; it has no mean squared error, so that is ours.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.errors import import_extra
from cascadert.precision import Calibrator, Int8Dialect, Range

PERCENTILE = 99.99
"""Of all values, inside the range: the usual choice for activations of convolutional networks (Wu et al. 2020)."""

ENTROPY_BINS, ENTROPY_LEVELS = 512, 256
"""Bins that entropy searches, and levels it fills: as many as 8 bits have; thresholds from half the largest value up.

ONNX Runtime's search is a loop of Python over the square of bins, some 0.05 s a tensor with 512 and four times that
with 1024, and there are hundreds of tensors. Measured on the CamVid cascade's ENet, signal to noise of int8 logits for
"cpu": 512 bins and 256 levels 17.0 dB, 512 and 128 14.7, 1024 and 256 14.8, 1024 and 128 14.2. With its own default,
128 bins and 128 levels, one threshold is left to choose from: the largest.
"""

_STEPS = 255  # between the smallest and the largest of 256 levels; symmetric ranges give one level up
_MSE_WIDTHS = 128  # ranges tried: steps of less than a percent of the largest, and the error is flat at its minimum
_EMPTY_WIDTH = 256 * float(np.finfo(np.float32).tiny)  # a narrower range has a scale that float32 cannot hold


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values.

    `counts` int64 `[bins]` between -`limit` and `limit`; `zeros` of them are exactly 0, which every scale holds;
    `low` and `high` are the extreme values.
    """

    counts: NDArray[np.int64]
    limit: float
    zeros: int
    low: float
    high: float

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins, `[bins + 1]`."""
        return np.linspace(-self.limit, self.limit, len(self.counts) + 1)

    @cached_property
    def entropy_range(self) -> Range:
        """What entropy says, for both dialects: the search is slow."""
        return _entropy(self)

    def merged(self, bins: int) -> Histogram:
        """Return the same with fewer bins, a divisor of their number."""
        return Histogram(self.counts.reshape(bins, -1).sum(axis=1), self.limit, self.zeros, self.low, self.high)


def clipped_range(histogram: Histogram, calibrator: Calibrator, dialect: Int8Dialect) -> Range:
    """Return the range that 8 bits shall tell apart; zero is in it.

    For "tensorrt" it is symmetric. A constant keeps its value. Where a calibrator leaves nothing but zero of a tensor
    that is not (all but one in ten thousand values are zero), the range is that of min-max. A tensor of zeros gets a
    range that ends at 1: any scale holds it.
    """
    symmetric = dialect == "tensorrt"
    widest = _with_zero((histogram.low, histogram.high), symmetric)
    if widest[1] - widest[0] < _EMPTY_WIDTH:
        return (-1.0, 1.0) if symmetric else (0.0, 1.0)
    if calibrator == "min-max" or histogram.low == histogram.high:
        return widest
    if calibrator == "percentile":
        found = _percentile(histogram, symmetric)
    elif calibrator == "entropy":
        found = histogram.entropy_range
    else:
        found = _least_squared_error(histogram, symmetric)
    low, high = _with_zero(found, symmetric)
    low, high = max(low, widest[0]), min(high, widest[1])
    return (low, high) if high - low >= _EMPTY_WIDTH else widest


def _with_zero(found: Range, symmetric: bool) -> Range:
    low, high = min(float(found[0]), 0.0), max(float(found[1]), 0.0)
    largest = max(-low, high)
    return (-largest, largest) if symmetric else (low, high)


def _collector(symmetric: bool, bins: int) -> Any:
    calibrate = import_extra("onnxruntime.quantization.calibrate", "cpu", "to calibrate")
    return calibrate.HistogramCollector("percentile", symmetric, bins, ENTROPY_LEVELS, PERCENTILE, "same")


def _percentile(histogram: Histogram, symmetric: bool) -> Range:
    """Leave out one in ten thousand: of absolute values, or half as many at either end."""
    counts, edges = histogram.counts, histogram.edges.astype(np.float32)
    low, high = np.float32(histogram.low), np.float32(histogram.high)
    if symmetric:  # ONNX Runtime wants absolute values then
        half = len(counts) // 2
        counts, edges = counts[half:] + counts[:half][::-1], edges[half:]
    collector = _collector(symmetric, len(counts))
    collector.histogram_dict = {"": (counts, edges, low, high)}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it is about to do
        found = collector.compute_percentile()[""]
    return float(found[0]), float(found[1])


def _entropy(histogram: Histogram) -> Range:
    """Keep the distribution over levels as near that over bins as can be, by Kullback-Leibler divergence."""
    coarse = histogram.merged(min(ENTROPY_BINS, len(histogram.counts)))
    low, high = np.float32(histogram.low), np.float32(histogram.high)
    collector = _collector(False, len(coarse.counts))
    found = collector.get_entropy_threshold((coarse.counts, coarse.edges.astype(np.float32), low, high), ENTROPY_LEVELS)
    return float(found[0]), float(found[1])


def _least_squared_error(histogram: Histogram, symmetric: bool) -> Range:
    """Minimise the expected squared error of rounding inside the range and clipping outside of it.

    Levels are multiples of the step, zero among them, so that rounding depends on the range by its width alone: for
    each width one running sum over bins gives the error of every position.
    """
    edges, bins = histogram.edges / histogram.limit, len(histogram.counts)
    below, above = _clipping_errors(histogram, edges)
    density = _without_zeros(histogram) / (edges[1] - edges[0])
    stride = max(2, bins // _MSE_WIDTHS // 2 * 2)
    best: tuple[float, float, float] = (np.inf, -1.0, 1.0)
    for width in range(stride, bins + 1, stride):
        step = (edges[width] - edges[0]) / (_STEPS - 1 if symmetric else _STEPS)
        rounding = np.concatenate([[0.0], np.cumsum(density * np.diff(_rounding_integral(edges, step)))])
        starts = _starts(bins, width, symmetric)
        errors = rounding[starts + width] - rounding[starts] + below[starts] + above[starts + width]
        least = int(np.argmin(errors))
        if errors[least] < best[0]:
            best = (float(errors[least]), float(edges[starts[least]]), float(edges[starts[least] + width]))
    return best[1] * histogram.limit, best[2] * histogram.limit


def _starts(bins: int, width: int, symmetric: bool) -> NDArray[np.intp]:
    """First edges of ranges of a width that hold zero."""
    if symmetric:
        return np.array([(bins - width) // 2])
    return np.arange(max(0, bins // 2 - width), min(bins // 2, bins - width) + 1)


def _without_zeros(histogram: Histogram) -> NDArray[np.float64]:
    """Counts without the values that are exactly zero, which fall into the bin that begins there."""
    counts = histogram.counts.astype(np.float64)
    counts[len(counts) // 2] -= histogram.zeros
    return counts


def _rounding_integral(x: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """Integral from 0 to x of the squared distance to the nearest multiple of the step."""
    nearest = np.round(x / step)
    integral: NDArray[np.float64] = nearest * step**3 / 12 + (x - nearest * step) ** 3 / 3
    return integral


def _clipping_errors(
    histogram: Histogram, edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared error of moving everything below (above) an edge onto it, `[bins + 1]` each; even within bins."""
    counts = histogram.counts.astype(np.float64)
    centres, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    moments = [counts, counts * centres, counts * (centres**2 + width**2 / 12)]
    sums = [np.concatenate([[0.0], np.cumsum(moment)]) for moment in moments]
    below = sums[2] - 2 * edges * sums[1] + edges**2 * sums[0]
    rest = [total[-1] - total for total in sums]
    above = rest[2] - 2 * edges * rest[1] + edges**2 * rest[0]
    return below, above
