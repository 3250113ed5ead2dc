"""Selectors on planted scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.runtime.selection import Threshold, TopK, make_selector
from cascadert.spec import ThresholdPolicy, TopKPolicy

INF = float("inf")
sorted_scores = st.lists(st.floats(0, 8, width=32) | st.just(-INF), max_size=40).map(
    lambda scores: np.array(sorted(scores, reverse=True), np.float32)
)


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("theta", "n"), [(-1, 4), (0, 3), (0.25, 3), (0.5, 1), (0.49999, 3), (1.5, 0), (99, 0), (1e300, 0), (-1e300, 4)]
)
def test_threshold_counts_what_is_strictly_above(theta: float, n: int) -> None:
    assert Threshold(theta)(scores(1.5, 0.5, 0.5, 0.0)) == n


def test_a_score_that_equals_theta_in_float32_is_not_above_it() -> None:
    assert Threshold(0.1)(scores(0.1)) == 0  # as float64, float32(0.1) is larger than 0.1
    assert Threshold(0.1)(np.nextafter(scores(0.1), np.float32(1))) == 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_top_k_counts_k_blocks_at_most_all(k: int, n: int) -> None:
    assert TopK(k)(scores(3, 2, 1, 0)) == n


def test_blocks_without_a_score_never_count() -> None:
    planted = scores(0.7, 0.1, -INF, -INF)
    assert [Threshold(-5)(planted), Threshold(-1e300)(planted), TopK(4)(planted), TopK(1)(planted)] == [2, 2, 2, 1]
    nothing = scores(-INF, -INF)
    assert [Threshold(-5)(nothing), TopK(2)(nothing)] == [0, 0]
    assert [Threshold(-5)(scores()), TopK(2)(scores())] == [0, 0]


@given(sorted_scores, st.lists(st.floats(-1, 9), min_size=2, max_size=6))
def test_the_count_never_rises_with_theta(planted: np.ndarray, thetas: list[float]) -> None:
    counts = [Threshold(theta)(planted) for theta in sorted(thetas)]
    assert counts == sorted(counts, reverse=True)


@given(sorted_scores, st.floats(-1, 9, width=32), st.integers(0, 50))
def test_selected_blocks_are_the_first_and_all_that_qualify(planted: np.ndarray, theta: float, k: int) -> None:
    n = Threshold(theta)(planted)
    assert (planted[:n] > theta).all()
    assert not (planted[n:] > theta).any()
    assert TopK(k)(planted) == min(k, int(np.isfinite(planted).sum()))


def test_selection_leaves_the_scores_alone() -> None:
    planted = scores(2, 1)
    planted.flags.writeable = False
    assert Threshold(1.5)(planted) == TopK(1)(planted) == 1


def test_policies_make_their_selectors() -> None:
    assert make_selector(ThresholdPolicy(theta=0.5)) == Threshold(0.5)
    assert make_selector(TopKPolicy(policy="top-k", k=3)) == TopK(3)
