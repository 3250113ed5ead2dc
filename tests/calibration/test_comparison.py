"""Comparisons that must pass, and above all those that must not."""

import math

import numpy as np
import pytest

from cascadert.calibration.comparison import (
    TIE_LOGITS,
    VALUE_LIMIT,
    Comparison,
    compare_labels,
    compare_order,
    compare_values,
)

INF = math.inf


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("wanted", "found", "passed", "largest", "equal"),
    [
        (f32(1, 2), f32(1, 2), True, 0, 2),
        (f32(1, 2), f32(1, 2 + 5e-5), True, 5e-5, 2),
        (f32(1, 2), f32(1, 2 + 3e-4), False, 3e-4, 1),
        (f32(1, -INF), f32(1, -INF), True, 0, 2),
        (f32(1, -INF), f32(1, 0), False, INF, 1),
        (f32(1, INF), f32(1, -INF), False, INF, 1),
        (f32(1, 2), f32(1, math.nan), False, math.nan, 1),
        (f32(1, math.nan), f32(1, math.nan), False, math.nan, 1),
    ],
)
def test_values(wanted: np.ndarray, found: np.ndarray, passed: bool, largest: float, equal: int) -> None:
    row = compare_values("fast", "scores", wanted, found, "bits")
    assert (row.passed, row.equal, row.equal + row.different, row.elements) == (passed, equal, 2, 2)
    assert row.largest == pytest.approx(largest, rel=0.01, nan_ok=True)
    assert row.limit == f"{VALUE_LIMIT:g} bits"


@pytest.mark.parametrize(
    ("found", "spread", "tied", "different"),
    [
        (2.003, 0.002, 1, 0),
        (2.003, 0.001, 0, 1),
        (2.003, f32(0.5, 0.001), 0, 1),  # the doubt about another value excuses nothing
        (2.003, f32(0.0, 0.002), 1, 0),
        (math.nan, INF, 0, 1),
    ],
)
def test_values_are_tied_within_twice_the_spread_of_the_reference(found, spread, tied: int, different: int) -> None:
    row = compare_values("fast", "scores", f32(1, 2), f32(1, found), "bits", spread)
    assert (row.equal, row.tied, row.different, row.passed) == (1, tied, different, different == 0)


def test_orders_are_tied_within_the_limit_of_the_scores() -> None:
    wanted, found, scores = i32(2, 0, 1), i32(0, 2, 1), f32(3, 2.99, 1)
    assert compare_order("fast", wanted, found, scores, 0.012).tied == 2
    assert compare_order("fast", wanted, found, scores, 0.008).different == 2
    assert compare_order("fast", wanted, i32(0, 0, 1), scores, 9.0).different == 1


def test_carried_tensors_are_compared_by_their_largest_magnitude() -> None:
    wanted = f32(100, -0.5, 0)
    row = compare_values("segment", "features", wanted, wanted + f32(0, 0.009, -0.009), "magnitude")
    assert (row.passed, row.equal) == (True, 3)
    assert row.largest == pytest.approx(9e-5, rel=0.01)
    row = compare_values("segment", "features", wanted, wanted + f32(0, 0.02, 0), "magnitude")
    assert (row.passed, row.different) == (False, 1)
    assert row.found == "the largest difference is 0.0002 of the largest magnitude"
    assert row.limit == "0.0001 of the largest magnitude"
    assert compare_values("segment", "features", wanted, wanted + f32(0, 0.02, 0), "magnitude", f32(0, 0.02, 0)).passed
    assert compare_values("segment", "features", f32(0, 0), f32(0, 0), "magnitude").passed
    assert not compare_values("segment", "features", f32(0, 0), f32(0, 1), "magnitude").passed


def test_units_are_named() -> None:
    row = compare_values("exit1", "scores", f32(0.5), f32(0.6), "share")
    assert (row.found, row.limit) == ("the largest difference is 0.1 as a share", "0.0001 as a share")


@pytest.mark.parametrize(("port", "tied", "too_many"), [("labels", 2, True), ("entropy", 9, False), ("z2", 11, True)])
def test_a_reference_may_doubt_so_much_of_its_answer(port: str, tied: int, too_many: bool) -> None:
    assert Comparison("fast", port, 100, 100 - tied, tied, 0).too_many_ties is too_many


def test_labels_may_differ_on_ties_alone() -> None:
    wanted, found = np.array([[0, 1, 2, 3]], np.uint8), np.array([[0, 2, 2, 1]], np.uint8)
    row = compare_labels("fast", wanted, found, f32(0, TIE_LOGITS / 2, 9, TIE_LOGITS / 2)[None])
    assert (row.equal, row.tied, row.different, row.passed) == (2, 2, 0, True)
    row = compare_labels("fast", wanted, found, f32(0, TIE_LOGITS / 2, 9, TIE_LOGITS * 2)[None])
    assert (row.equal, row.tied, row.different, row.passed) == (2, 1, 1, False)
    assert row.found == "1 of 4 differ, 1 more are tied"
    assert row.limit == "0 different, ties aside"
    row = compare_labels("fast", wanted, found, f32(0, math.nan, 9, 0)[None])
    assert not row.passed  # a margin that is not a number excuses nothing


@pytest.mark.parametrize(
    ("wanted", "found", "scores", "tied", "different"),
    [
        ((2, 0, 1), (2, 0, 1), (3, 2, 1), 0, 0),
        ((2, 0, 1), (0, 2, 1), (3, 3 - 5e-5, 1), 2, 0),
        ((2, 0, 1), (0, 2, 1), (3, 2, 1), 0, 2),
        ((2, 0, 1), (2, 1, 0), (3, -INF, -INF), 2, 0),
        ((2, 0, 1), (1, 0, 2), (3, 2, -INF), 0, 2),
        ((2, 0, 1), (0, 0, 1), (1, 1, 1), 0, 1),  # block 0 twice, block 2 never: no tie excuses that
        ((2, 0, 1), (2, 0, 3), (1, 1, 1), 0, 1),  # no such block
        ((2, 0, 1), (2, 0, -1), (1, 1, 1), 0, 1),
        ((2, 0, 1), (0, 0, 0), (1, 1, 1), 0, 2),
    ],
)
def test_orders_may_differ_on_ties_alone(wanted, found, scores, tied: int, different: int) -> None:
    row = compare_order("fast", i32(*wanted), i32(*found), f32(*scores))
    assert (row.tied, row.different, row.passed) == (tied, different, different == 0)
    assert row.equal + row.tied + row.different == row.elements == 3


def test_rows_of_several_frames_add_up_and_the_worst_stays() -> None:
    good = Comparison("fast", "scores", 10, 9, 0, 1, largest=1e-6, mean=1e-7)
    bad = Comparison("fast", "scores", 30, 10, 0, 20, largest=1e-2, mean=1e-3)
    merged = Comparison.merged([good, bad])
    assert (merged.elements, merged.equal, merged.different) == (40, 19, 21)
    assert merged.mean == pytest.approx((10 * 1e-7 + 30 * 1e-3) / 40)
    assert (merged.largest, merged.passed) == (1e-2, False)
    nan = Comparison("fast", "scores", 10, 9, 0, 1, largest=math.nan, mean=math.nan)
    for rows in ([good, nan], [nan, good]):
        assert not Comparison.merged(rows).passed
    integers = [Comparison("fast", "labels", 5, 5, 0, 0), Comparison("fast", "labels", 5, 3, 1, 1)]
    merged = Comparison.merged(integers)
    assert (merged.equal, merged.tied, merged.different, merged.largest, merged.mean) == (8, 1, 1, None, None)
    assert not merged.passed


def test_a_channel_is_measured_by_its_own_magnitude() -> None:
    """A wrong channel does not hide behind one that is a hundred times as large."""
    wanted = np.ones((1, 2, 8, 8), np.float32)
    wanted[:, 1] *= 100
    found = wanted.copy()
    found[:, 0] *= 1.001
    row = compare_values("s", "features", wanted, found, "magnitude")
    assert (row.passed, row.different) == (False, 64)
    found = wanted.copy()
    found[:, 1] *= 1.00005
    assert compare_values("s", "features", wanted, found, "magnitude").passed


def test_a_channel_of_zeros_is_measured_by_the_others() -> None:
    wanted = np.ones((1, 2, 4, 4), np.float32)
    wanted[:, 1] = 0
    found = wanted.copy()
    found[:, 1] = 5e-7
    assert compare_values("s", "features", wanted, found, "magnitude").passed
    found[:, 1] = 5e-6
    assert not compare_values("s", "features", wanted, found, "magnitude").passed
