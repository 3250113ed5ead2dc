"""What a decision costs: the measured profile t_f + t_b(n) around one stage."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cascadert.errors import InvalidRequest


@dataclass(frozen=True)
class StageCosts:
    """Measured costs around one decision.

    Attributes:
        before_ms: t_f, everything on a frame's path before the decision.
        points: t_b(n), milliseconds to refine n blocks, as pairs (n, t_b(n)) with n ascending; t_b(0) is 0 unless it
            is among them.
        spread: relative error of the profile itself, as in half of (q90 - q10) / median of what was measured.

    Raises:
        InvalidRequest: no point beyond n = 0, n that does not ascend, or times that are none.
    """

    before_ms: float
    points: tuple[tuple[int, float], ...]
    spread: float = 0.0

    def __post_init__(self) -> None:
        """Check what was measured."""
        counts = [n for n, _ in self.points]
        if not counts or counts[-1] < 1 or counts[0] < 0 or counts != sorted(set(counts)):
            raise InvalidRequest("costs: points", f"have n = {counts}", "give n that ascends, at least one above 0")
        for name, value in (("before_ms", self.before_ms), ("spread", self.spread)):
            if not (math.isfinite(value) and value >= 0):
                raise InvalidRequest(f"costs: {name}", f"is {value}", "give a finite number from 0 up")
        for n, milliseconds in self.points:
            if not (math.isfinite(milliseconds) and (milliseconds > 0 or n == 0 == milliseconds)):
                raise InvalidRequest(f"costs: t_b({n})", f"is {milliseconds} ms", "measure it again: work takes time")

    def refine_ms(self, n: int) -> float:
        """Return t_b(n): piecewise linear, monotone even where measurements are not, extrapolated by the last slope."""
        counts, times = self._knots
        if n >= counts[-1]:
            return times[-1] + (n - counts[-1]) * self._last_slope
        after = bisect_right(counts, n)
        left, right = counts[after - 1], counts[after]
        return times[after - 1] + (n - left) / (right - left) * (times[after] - times[after - 1])

    def predict_ms(self, n: int) -> float:
        """Return t_f + t_b(n)."""
        return self.before_ms + self.refine_ms(n)

    def largest(self, budget_ms: float, most: int) -> int:
        """Return the largest n up to `most` whose predicted time fits the budget; 0 where none does."""
        return max(bisect_right(range(most + 1), budget_ms, key=self.predict_ms) - 1, 0)

    @cached_property
    def _knots(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        points = self.points if self.points[0][0] == 0 else ((0, 0.0), *self.points)
        return tuple(n for n, _ in points), isotonic([milliseconds for _, milliseconds in points])

    @cached_property
    def _last_slope(self) -> float:
        """The last slope that rises: more blocks are never free because two measurements happened to agree."""
        counts, times = self._knots
        left = max((i for i, time in enumerate(times) if time < times[-1]), default=0)
        return (times[-1] - times[left]) / (counts[-1] - counts[left])


def isotonic(values: Sequence[float]) -> tuple[float, ...]:
    """Return the non-decreasing values that are nearest in the least squares (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pool = (value, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, count = pools.pop()
            pool = (mean * count + pool[0] * pool[1]) / (count + pool[1]), count + pool[1]
        pools.append(pool)
    return tuple(mean for mean, count in pools for _ in range(count))


def parse_costs(data: Any, origin: str) -> StageCosts:
    """Validate costs that come from JSON (`dataclasses.asdict` makes them); `origin` names them in errors.

    Raises:
        InvalidRequest: a wrong field, and where.
    """
    try:
        return TypeAdapter(StageCosts).validate_python(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "costs"
        raise InvalidRequest(f"{origin}: {field}", problem["msg"].lower(), "measure a profile again") from error
