"""The search over exits: which candidates, with which heads, at which thresholds (paper 004).

Exhaustive over all ordered subsets of candidates, one head at most at each point, and over the thresholds of each; the
result is the optimum of that space. With V heads at each of P points before the last and T thresholds there are
(1 + V T)^P plans: 3e8 for 4 heads, 5 points and 12 thresholds, which take seconds. With many more heads, start from
`undominated_heads`.

Plans are grown exit by exit. A partial plan is left alone when no completion can be better than what was found already:
images that have left are settled, and the rest can at best leave at the soonest head that follows, and be labelled in
each class as well as by the best head that follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.exits import (
    Candidate,
    ExitCosts,
    ExitPlan,
    ExitRecords,
    Floats,
    PlannedExit,
    even_thresholds,
    run_plan,
)
from cascadert.errors import InvalidRequest

_SLACK = 1e-12  # of a bound on quality or time, for what rounding does to sums
_BATCH = 256  # partial plans that are extended at once

Bools = NDArray[np.bool_]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class Fastest:
    """Minimise latency; quality may be `max_drop` below that of the (best) final exit."""

    max_drop: float = 0.01

    def __str__(self) -> str:
        return f"a loss of {100 * self.max_drop:g} points of mIoU"


@dataclass(frozen=True)
class Best:
    """Maximise quality; mean latency is `max_latency_ms` at most."""

    max_latency_ms: float

    def __str__(self) -> str:
        return f"a budget of {self.max_latency_ms:g} ms"


@dataclass(frozen=True)
class SearchSpace:
    """What is searched.

    Attributes:
        thresholds: of each candidate, `[C, T]`, or the same `[T]` for all. None: 12 by `even_thresholds`.
        max_exits: exits before the final one, at most.
    """

    thresholds: Floats | None = None
    max_exits: int = 4


def search_exits(
    records: ExitRecords, costs: ExitCosts, objective: Fastest | Best, space: SearchSpace | None = None
) -> ExitPlan:
    """Find the best plan.

    Args:
        records: what every candidate made of every image. Judge the plan on others, with `run_plan`.
        costs: measured times.
        objective: what to optimise, and within which bound.
        space: what to search.

    Raises:
        InvalidRequest: no plan is within the bound, or costs and records do not fit together.
    """
    if isinstance(objective, Fastest):
        front = _Front(min_quality=final_quality(records) - objective.max_drop)
    else:
        front = _Front(max_ms=objective.max_latency_ms)
    plans = _search(records, costs, space, front)
    if not plans:
        soonest = min(float(costs.latency_ms(costs.after_head(np.zeros(()), c), c.point)) for c in records.candidates)
        remedy = f"the soonest exit takes {soonest:.3g} ms: raise the bound, or record cheaper or better exits"
        raise InvalidRequest(str(objective), "no plan is within it", remedy)
    return plans[0] if isinstance(objective, Fastest) else plans[-1]


def pareto(records: ExitRecords, costs: ExitCosts, space: SearchSpace | None = None) -> tuple[ExitPlan, ...]:
    """Find all plans that no other beats in latency and quality, the fastest first.

    Raises:
        InvalidRequest: costs and records do not fit together.
    """
    return _search(records, costs, space, _Front())


def final_quality(records: ExitRecords) -> float:
    """Return the quality of the final exit alone, of the best head if it has several."""
    finals = [candidate.point == records.last_point for candidate in records.candidates]
    return float(records.alone()[finals].max())


def _search(records: ExitRecords, costs: ExitCosts, space: SearchSpace | None, front: _Front) -> tuple[ExitPlan, ...]:
    if len(costs.segment_ms) != records.last_point:
        found = f"are {len(costs.segment_ms)} where the final exit lies at point {records.last_point}"
        raise InvalidRequest("segment times", found, "give one for each point")
    search = _Search(records, costs, space or SearchSpace(), front)
    search.run()
    found_plans = [search.exits(choices) for choices in front.choices]
    return tuple(ExitPlan(exits, run_plan(exits, records, costs)) for exits in found_plans)


@dataclass(frozen=True)
class _Partial:
    """S partial plans with the same last exit.

    Attributes:
        last: that exit; none of plans without any.
        remaining: images that have not left, `[S, I]`.
        clock: see `ExitCosts.after_head`, `[S]`.
        total_ms: of the images that have left, `[S]`.
        counts: hits and false alarms on these, `[S, 2K]`.
        choices: candidate and number of the threshold of every exit, `[S, exits, 2]`.
    """

    last: Candidate | None
    remaining: Bools
    clock: Floats
    total_ms: Floats
    counts: Floats
    choices: Integers

    def __len__(self) -> int:
        return len(self.clock)

    @property
    def point(self) -> int:
        """Where the last exit lies; 0 is the image."""
        return 0 if self.last is None else self.last.point

    @cached_property
    def weights(self) -> Floats:
        """`remaining` as numbers."""
        return self.remaining.astype(np.float64)

    def at(self, rows: Bools | slice) -> _Partial:
        """Return some of them."""
        return _Partial(
            last=self.last,
            remaining=self.remaining[rows],
            clock=self.clock[rows],
            total_ms=self.total_ms[rows],
            counts=self.counts[rows],
            choices=self.choices[rows],
        )

    def batches(self) -> Iterator[_Partial]:
        """Split them into what is extended at once."""
        for start in range(0, len(self), _BATCH):
            yield self.at(slice(start, start + _BATCH))


class _Front:
    """Complete plans that no other beats, within bounds of quality and time; the fastest first."""

    def __init__(self, min_quality: float = -np.inf, max_ms: float = np.inf) -> None:
        self.min_quality, self.max_ms = min_quality - _SLACK, max_ms * (1 + _SLACK)
        self.latency_ms, self.quality = np.empty(0), np.empty(0)
        self.choices: list[Integers] = []

    def _outside(self, latency_ms: Floats, quality: Floats) -> Bools:
        return np.asarray((latency_ms > self.max_ms) | (quality < self.min_quality))

    def hopeless(self, latency_ms: Floats, quality: Floats) -> Bools:
        """Tell of bounds, the lowest latency and the highest quality, whether no plan within them is wanted.

        What is bounded is not rewarded beyond its bound: then only the other counts.
        """
        if not self.choices:
            return self._outside(latency_ms, quality)
        slowest = latency_ms if np.isinf(self.max_ms) else np.full_like(latency_ms, np.inf)
        rivals = np.searchsorted(self.latency_ms, slowest, side="right")
        beaten = rivals > 0
        if np.isinf(self.min_quality):
            beaten &= self.quality[rivals - 1] >= quality
        return np.asarray(beaten | self._outside(latency_ms, quality))

    def offer(self, latency_ms: Floats, quality: Floats, choices: Integers) -> None:
        """Take what is within the bounds and not beaten; of equals, what came first."""
        new = np.flatnonzero(~self._outside(latency_ms, quality))
        if not len(new):
            return
        latency_ms = np.concatenate([self.latency_ms, latency_ms[new]])
        quality = np.concatenate([self.quality, quality[new]])
        order = np.lexsort((np.arange(len(quality)), -quality, latency_ms))
        best_before = np.maximum.accumulate(np.concatenate([[-np.inf], quality[order][:-1]]))
        kept = order[quality[order] > best_before]
        known = len(self.choices)
        self.choices = [self.choices[i] if i < known else choices[new[i - known]] for i in kept]
        self.latency_ms, self.quality = latency_ms[kept], quality[kept]


class _Search:
    def __init__(self, records: ExitRecords, costs: ExitCosts, space: SearchSpace, front: _Front) -> None:
        self.records, self.costs, self.front, self.max_exits = records, costs, front, space.max_exits
        given = even_thresholds(records, 12) if space.thresholds is None else np.asarray(space.thresholds, np.float64)
        self.thresholds = np.sort(np.broadcast_to(given, (len(records.candidates), given.shape[-1])), axis=1)
        self.leaves = [
            np.stack([PlannedExit(candidate, float(threshold)).takes(confidence) for threshold in thresholds])
            for candidate, thresholds, confidence in zip(
                records.candidates, self.thresholds, records.confidence, strict=True
            )
        ]
        self.worth = np.concatenate([records.hits, records.false_alarms], axis=2)
        self.ideal = {point: self._ideal(point) for point in range(records.last_point)}

    def run(self) -> None:
        """Grow plans from none, deepest first, so that few wait."""
        images, counts = self.records.images, self.worth.shape[2]
        root = _Partial(
            last=None,
            remaining=np.ones((1, images), bool),
            clock=np.zeros(1),
            total_ms=np.zeros(1),
            counts=np.zeros((1, counts)),
            choices=np.empty((1, 0, 2), np.intp),
        )
        self._finish(root)
        waiting = [root]
        while waiting:
            plans = self._promising(waiting.pop())
            if not len(plans) or plans.choices.shape[1] == self.max_exits:
                continue
            for index, candidate in enumerate(self.records.candidates):
                if plans.point < candidate.point < self.records.last_point:
                    longer = self._extend(plans, index)
                    self._finish(longer)
                    waiting.extend(self._promising(longer).batches())

    def exits(self, choices: Integers) -> tuple[PlannedExit, ...]:
        """Spell a complete plan out, up to the first exit that takes every image."""
        *early, (final, _) = choices.tolist()
        named = [PlannedExit(self._candidate(index), float(self.thresholds[index, step])) for index, step in early]
        named.append(PlannedExit(self._candidate(final), 0.0))
        always = next(number for number, planned in enumerate(named, start=1) if planned.threshold <= 0)
        return tuple(named[:always])

    def _candidate(self, index: int) -> Candidate:
        return self.records.candidates[index]

    def _later(self, point: int) -> list[int]:
        return [index for index, candidate in enumerate(self.records.candidates) if candidate.point > point]

    def _ideal(self, point: int) -> Floats:
        """Most hits and fewest false alarms of any head behind `point`, for each image and class: `[I, 2K]`."""
        later = self._later(point)
        hits, false_alarms = self.records.hits[later].max(axis=0), self.records.false_alarms[later].min(axis=0)
        return np.concatenate([hits, false_alarms], axis=1)

    def _quality(self, counts: Floats) -> Floats:
        hits, false_alarms = np.split(counts, 2, axis=-1)
        return self.records.quality(hits, false_alarms)

    def _extend(self, plans: _Partial, index: int) -> _Partial:
        """Add one candidate at every threshold that lets images leave; of those that let the same, the highest."""
        candidate, leaves = self._candidate(index), self.leaves[index]
        numbers = plans.weights @ leaves.T.astype(np.float64)
        wanted = numbers > 0
        wanted[:, :-1] &= numbers[:, :-1] != numbers[:, 1:]
        rows, steps = np.nonzero(wanted)
        gone = plans.remaining[rows] & leaves[steps]
        clock = self.costs.after_head(plans.clock[rows], candidate, plans.last)
        chosen = np.stack([np.full_like(steps, index), steps], axis=1)[:, None]
        return _Partial(
            last=candidate,
            remaining=plans.remaining[rows] & ~gone,
            clock=clock,
            total_ms=plans.total_ms[rows] + numbers[rows, steps] * self.costs.latency_ms(clock, candidate.point),
            counts=plans.counts[rows] + gone.astype(np.float64) @ self.worth[index],
            choices=np.concatenate([plans.choices[rows], chosen], axis=1),
        )

    def _finish(self, plans: _Partial) -> None:
        """Offer the plans that end with a final exit behind these."""
        last = self.records.last_point
        for index in self._later(last - 1):
            clock = self.costs.after_head(plans.clock, self._candidate(index), plans.last)
            total_ms = plans.total_ms + plans.weights.sum(axis=1) * self.costs.latency_ms(clock, last)
            quality = self._quality(plans.counts + plans.weights @ self.worth[index])
            final = np.broadcast_to([index, 0], (len(plans), 1, 2))
            self.front.offer(total_ms / self.records.images, quality, np.concatenate([plans.choices, final], axis=1))

    def _promising(self, plans: _Partial) -> _Partial:
        """Return those whose best conceivable completion is still wanted."""
        later = [self._candidate(index) for index in self._later(plans.point)]
        clocks = [(self.costs.after_head(plans.clock, c, plans.last), c.point) for c in later]
        soonest = np.min([self.costs.latency_ms(clock, point) for clock, point in clocks], axis=0)
        total_ms = plans.total_ms + plans.weights.sum(axis=1) * soonest
        quality = self._quality(plans.counts + plans.weights @ self.ideal[plans.point])
        return plans.at(~self.front.hopeless(total_ms / self.records.images, quality))
