"""Which exits a multi-exit network should have, with which heads and at which confidences: what is measured, and plans.

Source: Kouris et al., arXiv:2106.03527 (paper 004). Every image leaves at the first exit that is confident enough of
it; what that costs and what it is worth follows from per-image records of every candidate, without running anything
again. `exit_search` finds the best plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cascadert.errors import InvalidRequest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One head at one candidate point of the backbone.

    Attributes:
        name: how plans call it.
        point: the point it lies at, from 1 to N; N is the end of the backbone, whose heads are final exits.
        head_ms: how long its head takes, without the segments before it.
    """

    name: str
    point: int
    head_ms: float


@dataclass(frozen=True)
class ExitCosts:
    """What was measured of time.

    Attributes:
        segment_ms: of the backbone between candidate points: the first up to point 1, the last from N - 1 to N.
        speculative: each exit runs beside the segment that follows, as far as the pipeline guesses: what lies behind
            that segment waits for the exit. Else everything runs in a row.
    """

    segment_ms: tuple[float, ...]
    speculative: bool = False

    @cached_property
    def reached_ms(self) -> Floats:
        """Time at which each point is reached, from point 0, the image: float64 `[N + 1]`."""
        return np.concatenate([[0.0], np.cumsum(np.asarray(self.segment_ms, np.float64))])

    def after_head(self, clock: Floats, candidate: Candidate, before: Candidate | None = None) -> Floats:
        """Return `clock` with one more head, behind that of the exit `before`, if there is one.

        The clock holds heads in a row, or the moment at which it is known whether an image leaves at the last of them.
        """
        if not self.speculative:
            return clock + candidate.head_ms
        alone_ms = self.reached_ms[candidate.point] + candidate.head_ms
        if before is None:
            return np.asarray(clock + alone_ms)
        beside_ms = min(self.segment_ms[before.point], before.head_ms)
        return np.asarray(clock + (alone_ms - self.reached_ms[before.point] - beside_ms))

    def latency_ms(self, clock: Floats, point: int) -> Floats:
        """Return when an image is done whose last head lies at `point`."""
        return clock if self.speculative else clock + self.reached_ms[point]


@dataclass(frozen=True)
class ExitRecords:
    """What every candidate made of every image.

    Quality is the mean IoU of all pixels of all images, over classes that occur in the truth: with the three counts
    below it holds for any mixture of exits.

    Attributes:
        candidates: C heads, in the order of their points; the last point has one at least.
        confidence: of each candidate in each image, float32 `[C, I]`, as the stage computes it.
        hits: pixels of each class that a candidate labels right, `[C, I, K]`.
        false_alarms: pixels of other classes that it labels so, `[C, I, K]`.
        truth: pixels of each class, `[I, K]`.

    Raises:
        InvalidRequest: arrays that do not fit together, or candidates out of order.
    """

    candidates: tuple[Candidate, ...]
    confidence: NDArray[np.float32]
    hits: Floats
    false_alarms: Floats
    truth: Floats

    def __post_init__(self) -> None:
        images, classes = self.truth.shape
        wanted = (len(self.candidates), images, classes)
        if {self.hits.shape, self.false_alarms.shape} != {wanted} or self.confidence.shape != wanted[:2]:
            found = (
                f"confidence {self.confidence.shape}, hits {self.hits.shape}, false_alarms {self.false_alarms.shape}"
            )
            raise InvalidRequest("records of exits", found, f"give [C, I] and [C, I, K] of {wanted}")
        points = [candidate.point for candidate in self.candidates]
        if not points or points != sorted(points) or points[0] < 1:
            raise InvalidRequest(
                "candidates", f"lie at the points {points}", "order them, from 1, at least a final one"
            )

    @classmethod
    def from_confusion(
        cls, candidates: Sequence[Candidate], confidence: NDArray[np.float32], confusion: NDArray[np.int64]
    ) -> ExitRecords:
        """Take confusion matrices `[C, I, K, K]` of (truth, prediction), as `ConfusionMatrix` counts them."""
        counts = confusion.astype(np.float64)
        truth, hits = counts.sum(axis=3), np.einsum("cikk->cik", counts)
        if not (truth == truth[:1]).all():
            raise InvalidRequest("confusion matrices", "candidates saw different truths", "use the same labels for all")
        return cls(tuple(candidates), confidence, hits, counts.sum(axis=2) - hits, truth[0])

    @classmethod
    def from_accuracy(
        cls, candidates: Sequence[Candidate], confidence: NDArray[np.float32], accuracy: Floats
    ) -> ExitRecords:
        """Take one number of quality per image, `[C, I]`, of which the mean is to count: one class of weight 1."""
        hits = np.asarray(accuracy, np.float64)[:, :, None]
        return cls(tuple(candidates), confidence, hits, np.zeros_like(hits), np.ones(hits.shape[1:]))

    @property
    def images(self) -> int:
        """Number of images I."""
        return len(self.truth)

    @property
    def last_point(self) -> int:
        """The point N of the final exit."""
        return self.candidates[-1].point

    def alone(self) -> Floats:
        """Return the quality of each candidate if every image left there: float64 `[C]`."""
        return self.quality(self.hits.sum(axis=1), self.false_alarms.sum(axis=1))

    def only(self, indices: Sequence[int]) -> ExitRecords:
        """Return the records of some candidates, in their order."""
        kept = sorted(indices)
        return ExitRecords(
            tuple(self.candidates[index] for index in kept),
            self.confidence[kept],
            self.hits[kept],
            self.false_alarms[kept],
            self.truth,
        )

    def quality(self, hits: Floats, false_alarms: Floats) -> Floats:
        """Return the mean IoU of summed counts `[..., K]`: the union is the truth and what is called so by mistake."""
        truth = self.truth.sum(axis=0)
        occurs = truth > 0
        ratio: Floats = hits[..., occurs] / (truth[occurs] + false_alarms[..., occurs])
        return np.asarray(ratio.mean(axis=-1))


@dataclass(frozen=True)
class PlannedExit:
    """One exit of a plan.

    Attributes:
        candidate: its head and where it lies.
        threshold: the confidence at which an image leaves here: 0 always, as the last exit of a plan; above 1 never.
    """

    candidate: Candidate
    threshold: float

    @property
    def theta(self) -> float:
        """The same threshold for a stage that runs on if its score, 1 - confidence, is above theta."""
        return float(np.float32(1) - np.float32(self.threshold))

    def takes(self, confidence: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which images leave here, decided in float32 as the stage decides it."""
        score = np.float32(1) - confidence.astype(np.float32)
        return np.asarray(~(score > np.float32(self.theta)))


@dataclass(frozen=True)
class ExitOutcome:
    """What a plan gives on some images.

    Attributes:
        latency_ms: mean over images.
        quality: mean IoU, or mean accuracy where records were made of that.
        rates: share of the images that leaves at each exit.
    """

    latency_ms: float
    quality: float
    rates: tuple[float, ...]


@dataclass(frozen=True)
class ExitPlan:
    """Exits in order, and what they gave on the images that they were chosen on.

    The last one takes all that is left. It need not be the final exit: a plan of one exit is a budgeted network.
    """

    exits: tuple[PlannedExit, ...]
    outcome: ExitOutcome


def run_plan(exits: Sequence[PlannedExit], records: ExitRecords, costs: ExitCosts) -> ExitOutcome:
    """Send every recorded image through a plan; records of other images than it was chosen on judge it.

    Raises:
        InvalidRequest: an exit of the plan is not in the records, or the last exit does not take all that is left.
    """
    remaining, clock, before = np.ones(records.images, bool), np.zeros(()), None
    hits, false_alarms = np.zeros((2, records.truth.shape[1]))
    total_ms, rates = 0.0, []
    for planned in exits:
        if planned.candidate not in records.candidates:
            remedy = f"record it; there are {', '.join(one.name for one in records.candidates)}"
            raise InvalidRequest(f"exit '{planned.candidate.name}'", "is not in these records", remedy)
        index = records.candidates.index(planned.candidate)
        leaves = remaining & planned.takes(records.confidence[index])
        clock, before = costs.after_head(clock, planned.candidate, before), planned.candidate
        total_ms += np.count_nonzero(leaves) * float(costs.latency_ms(clock, planned.candidate.point))
        hits += leaves @ records.hits[index]
        false_alarms += leaves @ records.false_alarms[index]
        rates.append(float(np.count_nonzero(leaves) / records.images))
        remaining &= ~leaves
    if remaining.any():
        raise InvalidRequest("plan", f"leaves {np.count_nonzero(remaining)} images without a result", "end it with 0")
    return ExitOutcome(float(total_ms / records.images), float(records.quality(hits, false_alarms)), tuple(rates))


def even_thresholds(records: ExitRecords, count: int) -> Floats:
    """Return thresholds at which evenly spaced shares of all images are confident enough: float64 `[C, T]`.

    T is `count`, or the number of images where that is less. Each lies half-way between two neighbouring confidences,
    so that rounding does not move an image; the first is 0. Confidences gather near 1, where an even grid of thresholds
    would tell few images apart.
    """
    if count < 1:
        raise InvalidRequest(f"{count} thresholds", "an exit needs one", "ask for at least 1")
    ordered = np.sort(records.confidence.astype(np.float64), axis=1)
    cuts = np.linspace(0, records.images, min(count, records.images), endpoint=False).round().astype(int)[1:]
    middles = (ordered[:, cuts - 1] + ordered[:, cuts]) / 2
    return np.concatenate([np.zeros((len(ordered), 1)), middles], axis=1)


def undominated_heads(records: ExitRecords, most: int = 5) -> ExitRecords:
    """Keep at each point heads that, alone, no other there beats in time and quality: what a search can afford of 64.

    A heuristic: a head that is beaten alone may still know better which images it labels well.

    Args:
        records: of all heads.
        most: heads to keep at a point; of more, those that are evenly spaced from the soonest to the best.

    Raises:
        InvalidRequest: less than two are to be kept.
    """
    if most < 2:
        raise InvalidRequest(f"{most} heads at a point", "the soonest and the best are two", "keep 2 or more")
    quality = records.alone()
    kept: list[int] = []
    for point in sorted({candidate.point for candidate in records.candidates}):
        here = [index for index, candidate in enumerate(records.candidates) if candidate.point == point]
        here.sort(key=lambda index: (records.candidates[index].head_ms, -quality[index]))
        best_before = np.maximum.accumulate([-np.inf, *quality[here[:-1]]])
        front = [index for index, best in zip(here, best_before, strict=True) if quality[index] > best]
        spaced = np.linspace(0, len(front) - 1, min(most, len(front))).round().astype(int)
        kept.extend(front[place] for place in spaced)
    return records.only(kept)
