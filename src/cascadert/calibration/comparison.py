"""Compare one port of one stage, with limits that say why they are what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cascadert.stage_spec import Unit

Array = NDArray[Any]

VALUE_LIMIT = 1e-4
"""Largest difference of a value, in its unit.

Of scores in bits: a hundred times float32's rounding of a mean, a thousandth of a useful θ; of those that are a share
likewise. Of a carried tensor or logits, which have no unit, it is relative to their largest magnitude: the sums they
are made of are of that size, and float32 sums in another order differ by about a millionth of it.
"""

TIE_LOGITS = 1e-3
"""Two classes whose logits differ by less are tied: float32 sums in another order move logits by about 1e-4."""

TIED_LIMITS = {"labels": 0.01, "scores": 1.0, "order": 1.0}
"""Share of a port's elements that may be tied: a reference that doubts more of its own answer shows nothing.

One flip in a max-unpooling moves the entropy of some hundred pixels by more than the limit, and the label of few.
Scores and order are too few for a share to mean anything.
"""

TIED_LIMIT = 0.1
"""The same of every other port: maps in floating point."""

LEAST_CHANNEL = 1e-2
"""Share of a tensor's largest magnitude that each channel counts as, at least: sums over channels round by that."""

DIFFERENT_LABELS_LIMIT = 0
"""Pixels outside ties whose label may differ."""

ValueUnit = Unit | Literal["magnitude"]
_WORDS: dict[ValueUnit, str] = {"bits": " bits", "share": " as a share", "magnitude": " of the largest magnitude"}


@dataclass(frozen=True)
class Comparison:
    """One port over some frames.

    `equal` counts elements that agree, for floating point within the limit; `tied` those that do not where the
    reference would not keep its own answer (`Doubt`); `different` the rest. `largest` and `mean` are absolute
    differences in `unit` over all elements; all three are absent for integers.
    """

    stage: str
    port: str
    elements: int
    equal: int
    tied: int
    different: int
    largest: float | None = None
    mean: float | None = None
    unit: ValueUnit | None = None

    @property
    def limit(self) -> str:
        """What `passed` asks for, in words."""
        if self.unit is not None:
            return f"{VALUE_LIMIT:g}{_WORDS[self.unit]}"
        return f"{DIFFERENT_LABELS_LIMIT} different, ties aside"

    @property
    def found(self) -> str:
        """What was found, in words."""
        if self.unit is not None:
            return f"the largest difference is {self.largest:.3g}{_WORDS[self.unit]}"
        return f"{self.different} of {self.elements} differ, {self.tied} more are tied"

    @property
    def too_many_ties(self) -> bool:
        """Whether the reference doubts so much of its answer that the comparison shows nothing."""
        return self.tied > TIED_LIMITS.get(self.port, TIED_LIMIT) * self.elements

    @property
    def passed(self) -> bool:
        """Whether the port is within its limit; NaN never is."""
        return self.different <= DIFFERENT_LABELS_LIMIT

    @staticmethod
    def merged(rows: Sequence[Comparison]) -> Comparison:
        """Add up the same port over several frames."""
        first, elements = rows[0], sum(row.elements for row in rows)
        largest = [row.largest for row in rows if row.largest is not None]
        total = sum(row.mean * row.elements for row in rows if row.mean is not None)
        return Comparison(
            first.stage,
            first.port,
            elements,
            sum(row.equal for row in rows),
            sum(row.tied for row in rows),
            sum(row.different for row in rows),
            float(np.max(largest)) if largest else None,  # np.max hands NaN on, max() may lose it
            total / elements if largest else None,
            first.unit,
        )


def compare_values(
    stage: str,
    port: str,
    wanted: Array,
    found: Array,
    unit: ValueUnit,
    spread: NDArray[np.float32] | float = 0.0,
) -> Comparison:
    """Compare floating-point values; equal infinities are equal.

    Values are tied within twice `spread`, the reference's own change of each under perturbation: one perturbed run may
    fall on either side of it.
    """
    relative = unit == "magnitude"
    difference = relative_differences(wanted, found) if relative else _differences(wanted, found)
    within = difference <= VALUE_LIMIT
    equal = int(np.count_nonzero(within))
    tied = int(np.count_nonzero(~within & (difference <= 2 * np.asarray(spread) / (_scale(wanted) if relative else 1))))
    largest, mean = float(difference.max()), float(difference.mean())
    return Comparison(stage, port, wanted.size, equal, tied, wanted.size - equal - tied, largest, mean, unit)


def relative_differences(wanted: Array, found: Array) -> Array:
    """Return absolute differences over the largest magnitude of each channel (axis 1), of `wanted`."""
    return np.asarray(_differences(wanted, found) / _scale(wanted))


def _differences(wanted: Array, found: Array) -> Array:
    both_infinite = np.isinf(wanted) & (wanted == found)
    return np.asarray(np.abs(np.where(both_infinite, 0, wanted) - np.where(both_infinite, 0, found)))


def _scale(wanted: Array) -> Array:
    """Return the magnitude of each channel; a channel that is next to nothing has a share of the largest's."""
    magnitude = np.where(np.isfinite(wanted), np.abs(wanted), 0)
    axes = tuple(axis for axis in range(wanted.ndim) if axis != 1) if wanted.ndim > 1 else None
    channels = magnitude.max(axis=axes, keepdims=True, initial=0)
    least = float(channels.max(initial=0)) * LEAST_CHANNEL
    return np.asarray(np.maximum(channels, least or 1.0))


def compare_labels(stage: str, wanted: Array, found: Array, margins: NDArray[np.float32]) -> Comparison:
    """Compare labels; `margins` of the same shape tell how far the reference was from another label."""
    differ = wanted != found
    tied = int(np.count_nonzero(differ & (margins <= TIE_LOGITS)))
    unequal = int(np.count_nonzero(differ))
    return Comparison(stage, "labels", wanted.size, wanted.size - unequal, tied, unequal - tied)


def compare_order(
    stage: str, wanted: Array, found: Array, scores: Array, score_limit: float = VALUE_LIMIT
) -> Comparison:
    """Compare block orders; two blocks in each other's place are tied if their scores differ by the limit or less.

    A block that is missing, doubled or unknown is a difference that no tie excuses.
    """
    differ = wanted != found
    if not np.array_equal(np.sort(found), np.sort(wanted)):
        unequal = int(np.count_nonzero(differ))
        return Comparison(stage, "order", wanted.size, wanted.size - unequal, 0, unequal)
    score_of = np.empty_like(scores)
    score_of[wanted] = scores
    with np.errstate(invalid="ignore"):
        gap = np.abs(score_of[found] - scores)
    tied = int(np.count_nonzero(differ & ((gap <= score_limit) | (score_of[found] == scores))))
    unequal = int(np.count_nonzero(differ))
    return Comparison(stage, "order", wanted.size, wanted.size - unequal, tied, unequal - tied)
