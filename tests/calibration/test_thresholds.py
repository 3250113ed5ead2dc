"""Theta refitted: properties on planted scores."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cascadert.calibration.thresholds import candidate_thetas, refit_for_miou, refit_theta
from cascadert.errors import InvalidRequest
from cascadert.runtime.control import count_above

# Multiples of 1/64, so that shifts and scales by such numbers are exact in float32.
SIXTY_FOURTHS = st.integers(0, 256).map(lambda value: value / 64)
FRAME = st.lists(st.one_of(SIXTY_FOURTHS, st.just(-math.inf)), max_size=12).map(
    lambda values: np.sort(np.array(values, np.float32))[::-1]
)
FRAMES = st.lists(FRAME, min_size=1, max_size=6).filter(lambda frames: any((f > -np.inf).any() for f in frames))


def counts(frames: list[np.ndarray], theta: float) -> list[int]:
    return [count_above(scores, theta) for scores in frames]


@settings(max_examples=300, deadline=None)
@given(FRAMES, SIXTY_FOURTHS, st.integers(-128, 128), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_the_same_scores_shifted_and_scaled_select_the_same(
    frames: list[np.ndarray], theta: float, shift: int, scale: float
) -> None:
    moved = [(scores * np.float32(scale) + np.float32(shift / 64)).astype(np.float32) for scores in frames]
    refitted = refit_theta(frames, theta, moved)
    assert counts(moved, refitted) == counts(frames, theta)
    assert math.isfinite(refitted)


@settings(max_examples=200, deadline=None)
@given(FRAMES, FRAMES, SIXTY_FOURTHS)
def test_it_comes_as_near_the_number_of_blocks_as_any_theta(
    frames: list[np.ndarray], new: list[np.ndarray], theta: float
) -> None:
    wanted = sum(counts(frames, theta))
    found = sum(counts(new, refit_theta(frames, theta, new)))
    pooled = np.concatenate(new)
    values = pooled[pooled > -np.inf]
    others = [np.count_nonzero(values > value) for value in (*values, values.min() - 1)]
    assert abs(found - wanted) == min(abs(other - wanted) for other in others)
    assert found <= len(values)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 4, width=32), min_size=2, max_size=30, unique=True), st.data())
def test_neighbours_in_float32_are_told_apart(values: list[float], data: st.DataObject) -> None:
    scores = np.sort(np.array([*values, *np.nextafter(np.array(values, np.float32), np.float32(9))], np.float32))[::-1]
    n = data.draw(st.integers(1, len(scores) - 1))
    assume(scores[n - 1] > scores[n])
    theta = float(scores[n])
    assert counts([scores], refit_theta([scores], theta, [scores])) == counts([scores], theta)


def test_it_lies_half_way_between_two_scores() -> None:
    old, new = np.array([3, 2, 1], np.float32), np.array([6, 4, 2], np.float32)
    assert refit_theta([old], 1.5, [new]) == 3.0
    assert refit_theta([old], 2.5, [new]) == 5.0


def test_a_theta_stays_where_it_still_refines_as_many() -> None:
    old, new = np.array([2, 1], np.float32), np.array([2.5, 0.5], np.float32)
    assert refit_theta([old], 1.75, [new]) == 1.75
    assert refit_theta([old], 3.0, [new]) == 3.0
    assert refit_theta([old], 0.25, [new]) == 0.25
    assert refit_theta([old], 2.25, [new]) == 2.5  # none, so no block above it
    assert counts([new], refit_theta([old], 0.75, [new])) == [2]


def test_equal_scores_stay_together() -> None:
    tied = np.array([3, 2, 2, 2, 1], np.float32)
    five = np.array([5, 4, 3, 2, 1], np.float32)
    for theta, wanted in ((3.5, 1), (2.5, 4), (1.5, 4)):  # 2, 3 and 4 blocks; of 1 and 4 the nearest
        assert counts([tied], refit_theta([five], theta, [tied])) == [wanted]
    four = np.array([3, 2, 2, 1], np.float32)
    assert counts([four], refit_theta([five], 3.5, [four])) == [1]  # 1 and 3 are as near to 2


def test_no_scores_are_refused() -> None:
    none = np.full(3, -np.inf, np.float32)
    with pytest.raises(InvalidRequest, match=r"^scores: no block of any frame has one; give frames"):
        refit_theta([none], 0.5, [none])
    with pytest.raises(InvalidRequest, match=r"^scores: no block"):
        candidate_thetas([], 5)


@settings(max_examples=100, deadline=None)
@given(FRAMES, st.integers(2, 20))
def test_candidates_go_from_all_to_none(frames: list[np.ndarray], count: int) -> None:
    thetas = candidate_thetas(frames, count)
    numbers = [sum(counts(frames, theta)) for theta in thetas]
    assert numbers == sorted(set(numbers), reverse=True)
    assert (numbers[0], numbers[-1]) == (sum(counts(frames, -1e9)), 0)
    assert len(thetas) <= count


def test_the_highest_theta_that_reaches_the_miou_is_taken() -> None:
    measured = {0.2: 0.61, 0.4: 0.60, 0.6: 0.605, 0.8: 0.59, 1.0: math.nan}
    assert refit_for_miou(measured, 0.60) == 0.6
    assert refit_for_miou(measured, 0.50) == 0.8
    assert refit_for_miou(measured, 0.70) == 0.2  # none does: the best there is
    with pytest.raises(InvalidRequest, match=r"^mIoU by theta: nothing was measured; "):
        refit_for_miou({1.0: math.nan}, 0.6)
