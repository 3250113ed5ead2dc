"""Repeated measurements of one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Times:
    """At least one measurement of the same thing, in milliseconds; ratios have no unit."""

    samples: tuple[float, ...]

    @staticmethod
    def of(samples: Iterable[float]) -> Times:
        """Return the measurements."""
        return Times(tuple(samples))

    @property
    def median(self) -> float:
        """The middle one."""
        return self._quantiles[1]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.samples))

    @property
    def spread(self) -> tuple[float, float]:
        """Quantiles of 10 and 90 %."""
        return self._quantiles[0], self._quantiles[2]

    @property
    def relative_spread(self) -> float:
        """Half of (q90 - q10) / median; 0 where the median is."""
        low, high = self.spread
        return (high - low) / 2 / self.median if self.median else 0.0

    @cached_property
    def _quantiles(self) -> tuple[float, float, float]:
        low, middle, high = np.quantile(self.samples, (0.1, 0.5, 0.9)).tolist()
        return low, middle, high
