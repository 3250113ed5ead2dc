"""Profiles: what n blocks are expected to take."""

import json
from dataclasses import asdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.errors import InvalidRequest
from cascadert.runtime.costs import StageCosts, isotonic, parse_costs

profiles = st.builds(
    lambda before, points: StageCosts(before, tuple(sorted(points.items()))),
    st.floats(0, 100),
    st.dictionaries(st.integers(1, 64), st.floats(0.01, 500), min_size=1, max_size=8),
)


def test_prediction_goes_through_the_points_and_straight_between_and_beyond_them() -> None:
    costs = StageCosts(10, ((1, 4), (2, 6), (6, 18)))
    assert [costs.refine_ms(n) for n in range(8)] == [0, 4, 6, 9, 12, 15, 18, 21]
    assert costs.predict_ms(3) == 19
    assert [StageCosts(10, ((2, 6),)).refine_ms(n) for n in (0, 1, 2, 4)] == [0, 3, 6, 12]
    assert [StageCosts(10, ((0, 1), (2, 6))).refine_ms(n) for n in (0, 1, 2)] == [1, 3.5, 6]


def test_measurements_that_fall_are_pooled_and_never_make_further_blocks_free() -> None:
    costs = StageCosts(0, ((1, 10), (2, 22), (3, 18), (4, 30), (5, 28)))
    assert [costs.refine_ms(n) for n in range(1, 6)] == [10, 20, 20, 29, 29]
    assert costs.refine_ms(7) == pytest.approx(29 + 2 * 4.5)  # from n = 3, the last that is cheaper


@given(st.lists(st.floats(-100, 100), max_size=20))
def test_isotonic_regression_rises_keeps_the_sum_and_leaves_what_rises_alone(values: list[float]) -> None:
    fitted = isotonic(values)
    assert all(b >= a - 1e-9 for a, b in pairwise(fitted))
    assert sum(fitted) == pytest.approx(sum(values), abs=1e-6)
    assert list(isotonic(sorted(values))) == sorted(values)


@given(profiles, st.floats(-10, 800), st.floats(0, 100), st.integers(0, 100))
def test_the_largest_that_fits_fits_and_the_next_does_not(
    costs: StageCosts, budget: float, more: float, most: int
) -> None:
    n = costs.largest(budget, most)
    assert 0 <= n <= most
    assert n == 0 or costs.predict_ms(n) <= budget
    assert n == most or costs.predict_ms(n + 1) > budget
    assert costs.largest(budget + more, most) >= n


@given(profiles)
def test_more_blocks_never_take_less_time(costs: StageCosts) -> None:
    times = [costs.predict_ms(n) for n in range(100)]
    assert all(b >= a * (1 - 1e-12) for a, b in pairwise(times))


@pytest.mark.parametrize(
    ("before", "points", "spread", "message"),
    [
        (1, (), 0, r"points: have n = \[\]"),
        (1, ((0, 0.0),), 0, r"points: have n = \[0\]; give n that ascends, at least one above 0"),
        (1, ((2, 1.0), (1, 2.0)), 0, r"points: have n = \[2, 1\]"),
        (1, ((1, 1.0), (1, 2.0)), 0, r"points: have n = \[1, 1\]"),
        (1, ((-1, 1.0), (1, 2.0)), 0, r"points: have n = \[-1, 1\]"),
        (1, ((1, 0.0),), 0, r"t_b\(1\): is 0\.0 ms; measure it again"),
        (1, ((1, float("nan")),), 0, r"t_b\(1\): is nan ms"),
        (1, ((1, float("inf")),), 0, r"t_b\(1\): is inf ms"),
        (-1, ((1, 1.0),), 0, r"before_ms: is -1"),
        (float("nan"), ((1, 1.0),), 0, r"before_ms: is nan"),
        (1, ((1, 1.0),), -0.1, r"spread: is -0\.1"),
    ],
)
def test_what_was_not_measured_is_refused(before: float, points: tuple, spread: float, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        StageCosts(before, points, spread)


@given(profiles)
def test_costs_survive_json(costs: StageCosts) -> None:
    assert parse_costs(json.loads(json.dumps(asdict(costs))), "bench.json") == costs


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"before_ms": 1}, r"^bench\.json: points: field required; measure"),
        ({"before_ms": 1, "points": [[1, "soon"]]}, r"^bench\.json: points\.0\.1: .*valid number"),
        ([], r"^bench\.json: costs: "),
    ],
)
def test_wrong_json_is_refused_with_its_place(data: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        parse_costs(data, "bench.json")
