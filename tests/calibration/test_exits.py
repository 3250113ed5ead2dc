"""The search over exits: what a plan means, and optima equal to brute force over every plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.exit_search import Best, Fastest, SearchSpace, final_quality, pareto, search_exits
from cascadert.calibration.exits import (
    Candidate,
    ExitCosts,
    ExitOutcome,
    ExitRecords,
    PlannedExit,
    even_thresholds,
    run_plan,
    undominated_heads,
)
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.errors import InvalidRequest
from cascadert.runtime.control import count_above

GRID = (0.0, 0.5, 0.75)  # exact in float32, so that no rounding decides

Plan = list[tuple[int, float]]  # candidate and threshold of each exit


def by_hand(plan: Plan, confusion: np.ndarray, confidence: np.ndarray, costs: ExitCosts, where: Any) -> tuple:
    """Send images through one by one; confusion matrices of the mixture, exact mean time, mean IoU, rates."""
    total, spent, exits = np.zeros(confusion.shape[2:], int), Fraction(0), [0] * len(plan)
    for image in range(confusion.shape[1]):
        reached, decided, before, point = Fraction(0), Fraction(0), Fraction(0), 0
        for number, (index, threshold) in enumerate(plan):  # noqa: B007
            for segment in costs.segment_ms[point : where[index].point]:
                # Side by side, the first segment behind an exit waits for the exit before it, and all others for it.
                behind, before = before, decided
                reached = (max(reached, behind) if costs.speculative else max(reached, decided)) + Fraction(segment)
            before, decided = decided, max(reached, decided) + Fraction(where[index].head_ms)
            point = where[index].point
            if confidence[index, image] >= threshold:
                break
        total += confusion[index, image]
        spent += decided
        exits[number] += 1
    matrix = ConfusionMatrix(confusion.shape[-1])
    matrix.counts += total
    images = confusion.shape[1]
    return float(spent / images), matrix.mean_iou(), tuple(count / images for count in exits)


def every_plan(candidates: tuple[Candidate, ...], grid: tuple[float, ...], max_exits: int) -> Iterator[Plan]:
    last = candidates[-1].point
    early = [i for i, candidate in enumerate(candidates) if candidate.point < last]
    for size in range(min(max_exits, len(early)) + 1):
        for chosen in itertools.combinations(early, size):
            if len({candidates[i].point for i in chosen}) == size:
                for thresholds in itertools.product(grid, repeat=size):
                    for final in range(len(early), len(candidates)):
                        yield [*zip(chosen, thresholds, strict=True), (final, 0.0)]


@st.composite
def toys(draw: st.DrawFn) -> tuple[tuple[Candidate, ...], np.ndarray, np.ndarray, ExitCosts]:
    """Up to four points with one or two heads each, few images, few distinct values: ties everywhere."""
    heads = draw(st.lists(st.integers(1, 2), min_size=1, max_size=4).filter(lambda heads: sum(heads) <= 6))
    milliseconds = st.integers(0, 12).map(lambda quarter: quarter / 4)
    candidates = tuple(
        Candidate(f"exit{point}.{head}", point, draw(milliseconds))
        for point, count in enumerate(heads, start=1)
        for head in range(count)
    )
    images, classes = draw(st.integers(1, 5)), draw(st.integers(2, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    confidence = rng.choice(np.array([0, 0.25, 0.3, 0.5, 0.75, 0.9, 1], np.float32), (len(candidates), images))
    truth = rng.integers(0, classes, (images, 12))
    predicted = np.where(rng.random((len(candidates), images, 12)) < 0.5, truth, rng.integers(0, classes, (images, 12)))
    confusion = np.zeros((len(candidates), images, classes, classes), np.int64)
    for index, image, pixel in np.ndindex(predicted.shape):
        confusion[index, image, truth[image, pixel], predicted[index, image, pixel]] += 1
    segments = tuple(draw(st.lists(milliseconds, min_size=len(heads), max_size=len(heads))))
    return candidates, confusion, confidence, ExitCosts(segments, draw(st.booleans()))


# Off the values that plans of toys take, so that rounding does not decide what is within a bound.
drops = st.integers(0, 50).map(lambda hundredth: hundredth / 100 + 1.37e-5)
bounds_ms = st.integers(1, 60).map(lambda tenth: tenth / 10 + 1.37e-5)


@given(toys(), st.integers(0, 4), drops, bounds_ms)
@settings(max_examples=60, deadline=None)
def test_optima_equal_brute_force(toy: Any, max_exits: int, drop: float, bound_ms: float) -> None:
    candidates, confusion, confidence, costs = toy
    records = ExitRecords.from_confusion(candidates, confidence, confusion)
    space = SearchSpace(np.array(GRID), max_exits)
    plans = list(every_plan(candidates, GRID, max_exits))
    outcomes = [by_hand(plan, confusion, confidence, costs, candidates)[:2] for plan in plans]

    reference = max(quality for plan, (_, quality) in zip(plans, outcomes, strict=True) if len(plan) == 1)
    assert final_quality(records) == pytest.approx(reference)
    fastest = min(ms for ms, quality in outcomes if quality >= reference - drop - 1e-9)
    found = search_exits(records, costs, Fastest(drop), space).outcome
    assert found.latency_ms == pytest.approx(fastest) and found.quality >= reference - drop - 1e-9

    within = [quality for ms, quality in outcomes if ms <= bound_ms]
    if within:
        found = search_exits(records, costs, Best(bound_ms), space).outcome
        assert found.quality == pytest.approx(max(within)) and found.latency_ms <= bound_ms * (1 + 1e-9)
    else:
        with pytest.raises(InvalidRequest, match="no plan is within it; the soonest exit takes"):
            search_exits(records, costs, Best(bound_ms), space)

    front = pareto(records, costs, space)
    for plan in front:
        assert run_plan(plan.exits, records, costs) == plan.outcome
        points = [one.candidate.point for one in plan.exits]
        assert points == sorted(set(points)) and len(points) <= max_exits + 1
    values = [(plan.outcome.latency_ms, plan.outcome.quality) for plan in front]
    assert values == sorted(values) and [q for _, q in values] == sorted({q for _, q in values})
    for ms, quality in outcomes:
        assert any(a <= ms + 1e-9 and b >= quality - 1e-9 for a, b in values), "a plan that the front does not reach"


@given(toys(), st.data())
@settings(max_examples=60, deadline=None)
def test_a_plan_gives_what_its_images_give_one_by_one(toy: Any, data: st.DataObject) -> None:
    candidates, confusion, confidence, costs = toy
    plan = data.draw(st.sampled_from(list(every_plan(candidates, (0.0, 0.5, 0.9, 1.5), 3))))
    exits = [PlannedExit(candidates[index], threshold) for index, threshold in plan]
    found = run_plan(exits, ExitRecords.from_confusion(candidates, confidence, confusion), costs)
    wanted_ms, wanted_quality, rates = by_hand(plan, confusion, np.float64(confidence) + 1e-7, costs, candidates)
    assert (found.latency_ms, found.quality) == pytest.approx((wanted_ms, wanted_quality))
    assert found.rates == rates and sum(rates) == pytest.approx(1)


def two_exits(accuracies: tuple[list[float], ...], confidences: tuple[list[float], ...]) -> ExitRecords:
    candidates = tuple(Candidate(name, point, 1.0) for point, name in enumerate(("early", "late", "final"), start=1))
    return ExitRecords.from_accuracy(candidates, np.array(confidences, np.float32), np.array(accuracies))


@pytest.fixture
def records() -> ExitRecords:
    """Four images; the late exit is better than the final one in the last (paper 004, table 8, row v)."""
    return two_exits(
        ([0.9, 0.9, 0.4, 0.5], [0.9, 0.9, 0.8, 0.95], [0.9, 0.9, 0.9, 0.6]),
        ([0.95, 0.9, 0.3, 0.2], [0.9, 0.9, 0.4, 0.8], [1, 1, 1, 1]),
    )


SERIAL = ExitCosts((10.0, 10.0, 10.0))


def test_time_models_by_hand(records: ExitRecords) -> None:
    early, late, final = records.candidates
    plan = [PlannedExit(early, 0.9), PlannedExit(late, 0.7), PlannedExit(final, 0.0)]
    outcome = run_plan(plan, records, SERIAL)
    assert outcome == ExitOutcome((11 + 11 + 33 + 22) / 4, pytest.approx(0.9125), (0.5, 0.25, 0.25))
    beside = run_plan(plan, records, ExitCosts(SERIAL.segment_ms, speculative=True))
    assert beside == ExitOutcome((11 + 11 + 31 + 21) / 4, outcome.quality, outcome.rates)
    slow_head = two_exits(tuple(records.hits[:, :, 0].tolist()), tuple(records.confidence.tolist()))
    slow = Candidate("early", 1, 15.0)
    slow_records = ExitRecords((slow, late, final), slow_head.confidence, records.hits, 0 * records.hits, records.truth)
    waits = run_plan([PlannedExit(slow, 0.9), *plan[1:]], slow_records, ExitCosts(SERIAL.segment_ms, True))
    assert waits.latency_ms == (25 + 25 + 36 + 26) / 4, "only one segment is queued before an exit has declined"


def test_thresholds_at_their_ends(records: ExitRecords) -> None:
    early, _, final = records.candidates
    always = run_plan([PlannedExit(early, 0.0), PlannedExit(final, 0.0)], records, SERIAL)
    never = run_plan([PlannedExit(early, 1.01), PlannedExit(final, 0.0)], records, SERIAL)
    assert always.rates == (1, 0) and always.latency_ms == 11
    assert never.rates == (0, 1) and never.latency_ms == 32
    assert run_plan([PlannedExit(early, 0.0)], records, SERIAL).rates == (1,)


def test_both_objectives_and_that_later_is_not_always_better(records: ExitRecords) -> None:
    assert final_quality(records) == pytest.approx(0.825)
    grid = SearchSpace(np.array([0, 0.1, 0.3, 0.5, 0.7, 0.9]))
    fastest = search_exits(records, SERIAL, Fastest(max_drop=0.0), grid)
    # Better without the final exit: the early one takes what it knows, the late one the rest.
    chosen = [(one.candidate.name, one.threshold) for one in fastest.exits]
    assert chosen == [("early", 0.9), ("late", 0.3), ("final", 0.0)], "the highest thresholds that do so"
    assert fastest.outcome.rates == (0.5, 0.5, 0)
    assert fastest.outcome.latency_ms == (11 + 11 + 22 + 22) / 4
    assert fastest.outcome.quality == pytest.approx(0.8875)
    best = search_exits(records, SERIAL, Best(max_latency_ms=100), grid)
    assert best.outcome.quality == pytest.approx(0.9125)
    assert best.outcome.rates == (0.5, 0.25, 0.25)
    budgeted = search_exits(records, SERIAL, Best(max_latency_ms=30), SearchSpace(np.zeros(1)))
    assert [one.candidate.name for one in budgeted.exits] == ["late"], "nothing behind an exit that takes all"


@given(st.floats(0, 1), st.floats(0, 1.2))
def test_a_stage_decides_as_the_plan_does(confidence: float, threshold: float) -> None:
    planned = PlannedExit(Candidate("early", 1, 1.0), threshold)
    score = np.float32(1) - np.array([confidence], np.float32)
    leaves = planned.takes(np.array([confidence], np.float32))[0]
    assert leaves == (count_above(score, planned.theta) == 0)
    if abs(confidence - threshold) > 1e-6:
        assert leaves == (confidence >= threshold)


def test_even_thresholds_let_even_shares_leave() -> None:
    rng = np.random.default_rng(0)
    confidence = (1 - rng.random((3, 200)) ** 4 / 10).astype(np.float32)
    records = two_exits(tuple(np.zeros((3, 200)).tolist()), tuple(confidence.tolist()))
    thresholds = even_thresholds(records, 10)
    assert thresholds.shape == (3, 10) and (np.diff(thresholds, axis=1) > 0).all()
    leaving = [
        [int(PlannedExit(records.candidates[c], t).takes(confidence[c]).sum()) for t in thresholds[c]] for c in range(3)
    ]
    assert leaving == [[200, 180, 160, 140, 120, 100, 80, 60, 40, 20]] * 3


@pytest.mark.parametrize("images", [1, 2, 6, 7])
def test_there_are_no_more_thresholds_than_images(images: int) -> None:
    confidence = np.linspace(0.5, 0.9, images)
    records = two_exits(tuple(np.zeros((3, images)).tolist()), tuple(np.stack([confidence] * 3).tolist()))
    thresholds = even_thresholds(records, 12)
    assert thresholds.shape == (3, images) and (np.diff(thresholds, axis=1) > 0).all()


def test_confusion_and_accuracy_records_agree_with_the_metrics() -> None:
    rng = np.random.default_rng(0)
    matrices = [[ConfusionMatrix(3) for _ in range(4)] for _ in range(2)]
    truth = rng.choice([0, 1, 2, 255], (4, 8, 8)).astype(np.uint8)
    for row in matrices:
        for matrix, labels in zip(row, truth, strict=True):
            matrix.add(rng.integers(0, 3, (8, 8)).astype(np.uint8), labels)
    confusion = np.array([[matrix.counts for matrix in row] for row in matrices])
    candidates = (Candidate("early", 1, 1.0), Candidate("final", 2, 1.0))
    records = ExitRecords.from_confusion(candidates, np.ones((2, 4), np.float32), confusion)
    merged = ConfusionMatrix(3)
    merged.counts += confusion[1].sum(axis=0)
    assert final_quality(records) == pytest.approx(merged.mean_iou(), abs=1e-15)


def test_heads_that_are_beaten_at_their_point_are_left_out() -> None:
    heads = [("slow", 1, 3.0, 0.5), ("fast", 1, 1.0, 0.4), ("worse", 1, 3.0, 0.45), ("useless", 1, 4.0, 0.5)]
    heads += [("late", 2, 9.0, 0.3), ("final", 3, 1.0, 0.9), ("final, beaten", 3, 2.0, 0.9)]
    candidates = [Candidate(*head[:3]) for head in heads]
    accuracy = np.array([[head[3]] * 2 for head in heads])
    kept = undominated_heads(ExitRecords.from_accuracy(candidates, accuracy.astype(np.float32), accuracy))
    assert [candidate.name for candidate in kept.candidates] == ["slow", "fast", "late", "final"]
    assert kept.alone() == pytest.approx([0.5, 0.4, 0.3, 0.9])
    assert (kept.confidence == kept.hits[:, :, 0].astype(np.float32)).all()


def test_of_many_undominated_heads_the_soonest_and_the_best_stay() -> None:
    candidates = [*(Candidate(f"head{ms}", 1, float(ms)) for ms in range(1, 10)), Candidate("final", 2, 1.0)]
    accuracy = np.array([[candidate.head_ms / 10] for candidate in candidates])
    records = ExitRecords.from_accuracy(candidates, accuracy.astype(np.float32), accuracy)
    kept = undominated_heads(records, most=3)
    assert [candidate.name for candidate in kept.candidates] == ["head1", "head5", "head9", "final"]
    with pytest.raises(InvalidRequest, match="1 heads at a point"):
        undominated_heads(records, most=1)


def test_a_plan_is_judged_on_other_images(records: ExitRecords) -> None:
    plan = search_exits(records, SERIAL, Fastest(0.0), SearchSpace(np.array([0, 0.5])))
    others = two_exits(([0.2, 0.2], [0.3, 0.4], [0.9, 0.9]), ([0.9, 0.1], [0.2, 0.2], [1, 1]))
    judged = run_plan(plan.exits, others, SERIAL)
    assert judged == ExitOutcome((11 + 22) / 2, pytest.approx(0.3), (0.5, 0.5))


def test_what_does_not_fit_is_refused(records: ExitRecords) -> None:
    early, late, final = records.candidates
    with pytest.raises(InvalidRequest, match="segment times: are 2 where the final exit lies at point 3"):
        pareto(records, ExitCosts((1.0, 1.0)))
    with pytest.raises(InvalidRequest, match="plan: leaves 2 images without a result"):
        run_plan([PlannedExit(early, 0.9)], records, SERIAL)
    with pytest.raises(InvalidRequest, match="exit 'other': is not in these records; record it; there are early, late"):
        run_plan([PlannedExit(Candidate("other", 1, 1.0), 0.0)], records, SERIAL)
    with pytest.raises(InvalidRequest, match=r"candidates: lie at the points \[2, 1, 3\]"):
        ExitRecords((late, early, final), records.confidence, records.hits, records.false_alarms, records.truth)
    with pytest.raises(InvalidRequest, match="give \\[C, I\\] and \\[C, I, K\\]"):
        ExitRecords((early,), records.confidence, records.hits, records.false_alarms, records.truth)
    with pytest.raises(InvalidRequest, match="candidates saw different truths"):
        ExitRecords.from_confusion((early, final), np.ones((2, 1), np.float32), np.arange(8).reshape(2, 1, 2, 2))
    with pytest.raises(InvalidRequest, match="0 thresholds"):
        even_thresholds(records, 0)
