"""What was measured of each ensemble, and what that says about a claim, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ensemble import BACKBONES

from experiments.ensemble_runs import RARE
from experiments.experiment import Verdict

Measure = Literal["miou", "rare", "pavpu"]


@dataclass(frozen=True)
class Row:
    """Measures of the networks of one run: place ("val", "dusk"), then network, then `measure_networks`' names."""

    seed: int
    weighting: str
    places: dict[str, dict[str, dict[str, Any]]]

    def value(self, measure: Measure, place: str, network: str) -> float:
        """One measure of a network, or the mean of the three members where ``network`` is "members"."""
        if network == "members":
            return statistics.fmean(self.value(measure, place, member) for member in BACKBONES)
        found = self.places[place][network]
        if measure == "rare":
            return statistics.fmean(found["iou"][name] or 0.0 for name in RARE)
        value: float = found[measure]
        return value


def values(rows: Sequence[Row], weighting: str, measure: Measure, place: str, network: str) -> list[float]:
    """One measure of all seeds of a weighting."""
    return [row.value(measure, place, network) for row in rows if row.weighting == weighting]


def differences(rows: Sequence[Row], pair: tuple[str, str], measure: Measure, place: str, network: str) -> list[float]:
    """First weighting minus second, for each seed."""
    first, second = (values(rows, weighting, measure, place, network) for weighting in pair)
    return [a - b for a, b in zip(first, second, strict=True)]


def spread(found: Sequence[float]) -> float:
    """Standard deviation; 0 of one value."""
    return statistics.stdev(found) if len(found) > 1 else 0.0


def shown(found: Sequence[float]) -> str:
    """Mean and standard deviation in percent, as in "41.2 ± 0.6"."""
    return f"{100 * statistics.fmean(found):.1f} ± {100 * spread(found):.1f}"


def shown_difference(found: Sequence[float]) -> str:
    """Mean and standard deviation of differences in points, signed, as in "+0.7 ± 0.3"."""
    return f"{100 * statistics.fmean(found):+.1f} ± {100 * spread(found):.1f}"


def flat(found: Sequence[float], limit: float) -> Verdict:
    """Judge a claim that says "no change" from one paired difference for each seed.

    It holds where the mean, two standard errors either way, lies within ``limit`` of 0, does not hold where it lies
    outside as a whole, and is not significant in between.
    """
    mean, margin = abs(statistics.fmean(found)), 2 * spread(found) / math.sqrt(len(found))
    if mean + margin <= limit:
        return "holds"
    return "does not hold" if mean - margin > limit else "not significant"
