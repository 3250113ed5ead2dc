"""Which ways to run a cascade no other beats, and which a goal asks for: pure functions of times and quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cascadert.errors import InvalidRequest

Kind = Literal["max-drop", "target-ms", "target-fps"]
_SLACK = 1e-9  # of a bound, for what rounding does to sums


class Measured(Protocol):
    """What is known of one way: mIoU is a share; either time may be NaN, and is then of no use."""

    @property
    def miou(self) -> float:
        """A share."""

    @property
    def latency_ms(self) -> float:
        """Mean time of a frame, stages in turn."""

    @property
    def period_ms(self) -> float:
        """Mean time between two frames of the overlapped stream."""


@dataclass(frozen=True)
class Goal:
    """What is bounded; the other of time and quality is then as good as can be.

    "max-drop" bounds the loss in points of mIoU, "target-ms" the mean time of a frame with stages in turn, "target-fps"
    asks for frames per second of the overlapped stream.

    Raises:
        InvalidRequest: a bound that is out of range.
    """

    kind: Kind
    value: float

    def __post_init__(self) -> None:
        if self.kind == "max-drop" and not 0 <= self.value <= 100:
            raise InvalidRequest(str(self), "is no number of points", "give 0 to 100")
        if self.kind != "max-drop" and not 0 < self.value < math.inf:
            unit = "milliseconds" if self.kind == "target-ms" else "frames per second"
            raise InvalidRequest(str(self), "is no number above 0", f"give {unit}")

    def __str__(self) -> str:
        return f"--{self.kind} {self.value:g}"

    @property
    def limit_ms(self) -> float:
        """The most time that a frame may take; infinite where quality is bounded."""
        if self.kind == "max-drop":
            return math.inf
        return self.value if self.kind == "target-ms" else 1000 / self.value

    def time_ms(self, found: Measured) -> float:
        """Return the time that counts: between two frames of a stream, or of one frame."""
        return found.period_ms if self.kind == "target-fps" else found.latency_ms

    def is_met(self, found: Measured, best_miou: float) -> bool:
        """Whether a way is within the bound; a drop is from `best_miou`. Never where a number is missing."""
        if self.kind == "max-drop":
            return found.miou >= best_miou - self.value / 100 - _SLACK
        return self.time_ms(found) <= self.limit_ms * (1 + _SLACK)


def pareto(time_ms: Sequence[float], miou: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of those that no other beats in time and mIoU, the fastest first.

    Of equals the first counts; what has no time or no mIoU (NaN) never does.
    """
    known = [i for i in range(len(miou)) if math.isfinite(time_ms[i]) and math.isfinite(miou[i])]
    ordered = sorted(known, key=lambda i: (time_ms[i], -miou[i], i))
    front, best = [], -math.inf
    for i in ordered:
        if miou[i] > best:
            front.append(i)
            best = miou[i]
    return tuple(front)


def choose(goal: Goal, found: Sequence[Measured], best_miou: float) -> int | None:
    """Return the index of the best that is within the bound: the fastest, or that of the highest mIoU; else none.

    Of equals, the one that is better in the other; then the first.
    """
    return _best(goal, found, [i for i in range(len(found)) if goal.is_met(found[i], best_miou)])


def nearest(goal: Goal, found: Sequence[Measured]) -> int | None:
    """Return the index of what comes nearest to a bound that none keeps: of the highest mIoU, or the fastest."""
    values = [-one.miou if goal.kind == "max-drop" else goal.time_ms(one) for one in found]
    least = min((value for value in values if math.isfinite(value)), default=math.nan)
    return _best(goal, found, [i for i, value in enumerate(values) if value == least])


def _best(goal: Goal, found: Sequence[Measured], among: Sequence[int]) -> int | None:
    """Return the best of some by what the goal does not bound."""

    def key(i: int) -> tuple[float, float, int]:
        time, loss = goal.time_ms(found[i]), -found[i].miou
        return (time, loss, i) if goal.kind == "max-drop" else (loss, time, i)

    known = [i for i in among if math.isfinite(goal.time_ms(found[i])) and math.isfinite(found[i].miou)]
    return min(known, key=key, default=None)
