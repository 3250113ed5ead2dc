"""Decisions on planted scores. What they do over time is in test_control.py."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.runtime.control import count_above, count_near, count_scored, cut
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.selection import Decider, Observation
from cascadert.spec import FrameRatePolicy, LatencyPolicy, SelectPolicy, ThresholdPolicy, TopKPolicy

INF = float("inf")
COSTS = StageCosts(10, ((1, 2), (32, 64)))
sorted_scores = st.lists(st.floats(0, 8, width=32) | st.just(-INF), max_size=40).map(
    lambda scores: np.array(sorted(scores, reverse=True), np.float32)
)


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def falling(count: int) -> np.ndarray:
    return np.linspace(2, 0.1, count, dtype=np.float32)


@pytest.mark.parametrize(
    ("theta", "n"), [(-1, 4), (0, 3), (0.25, 3), (0.5, 1), (0.49999, 3), (1.5, 0), (99, 0), (1e300, 0), (-1e300, 4)]
)
def test_threshold_counts_what_is_strictly_above(theta: float, n: int) -> None:
    assert count_above(scores(1.5, 0.5, 0.5, 0.0), theta) == n


def test_a_score_that_equals_theta_in_float32_is_not_above_it() -> None:
    assert count_above(scores(0.1), 0.1) == 0  # as float64, float32(0.1) is larger than 0.1
    assert count_above(np.nextafter(scores(0.1), np.float32(1)), 0.1) == 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, 1), (3, 3), (4, 4), (9, 4)])
def test_top_k_counts_k_blocks_at_most_all_and_needs_no_scores(k: int, n: int) -> None:
    decider, policy = Decider(4), TopKPolicy(k=k)
    assert decider.choose(policy, scores(3, 2, 1, 0)) == decider.without_scores(policy, 4) == n


@pytest.mark.parametrize("policy", [ThresholdPolicy(theta=0), LatencyPolicy(budget_ms=1), FrameRatePolicy(fps=1)])
def test_other_policies_need_scores(policy: SelectPolicy) -> None:
    assert Decider(4, COSTS).without_scores(policy, 4) is None


@pytest.mark.parametrize(
    ("policy", "n"),
    [
        (ThresholdPolicy(theta=-5), 2),
        (ThresholdPolicy(theta=-1e300), 2),
        (TopKPolicy(k=4), 2),
        (TopKPolicy(k=1), 1),
        (LatencyPolicy(budget_ms=1e6), 2),
        (LatencyPolicy(budget_ms=1e6, theta=0.5), 1),
        (LatencyPolicy(budget_ms=1e6, theta=-5), 2),
        (FrameRatePolicy(fps=0.001), 2),
        (FrameRatePolicy(fps=0.001, theta_min=0.5), 1),
        (FrameRatePolicy(fps=0.001, theta_min=-5), 2),
    ],
)
def test_blocks_without_a_score_never_count(policy: SelectPolicy, n: int) -> None:
    assert Decider(4, COSTS).choose(policy, scores(0.7, 0.1, -INF, -INF)) == n
    assert Decider(4, COSTS).choose(policy, scores(-INF, -INF)) == 0
    assert Decider(4, COSTS).choose(policy, scores()) == 0


@given(sorted_scores, st.lists(st.floats(-1, 9), min_size=2, max_size=6))
def test_the_count_never_rises_with_theta(planted: np.ndarray, thetas: list[float]) -> None:
    counts = [count_above(planted, theta) for theta in sorted(thetas)]
    assert counts == sorted(counts, reverse=True)


@given(sorted_scores, st.floats(-1, 9, width=32), st.integers(0, 50))
def test_selected_blocks_are_the_first_and_all_that_qualify(planted: np.ndarray, theta: float, k: int) -> None:
    n = count_above(planted, theta)
    assert (planted[:n] > theta).all()
    assert not (planted[n:] > theta).any()
    assert Decider(40).choose(TopKPolicy(k=k), planted) == min(k, int(np.isfinite(planted).sum()))


@given(st.lists(st.integers(0, 1000), max_size=40, unique=True), st.integers(0, 50))
def test_the_cut_selects_as_many_as_were_asked_for(values: list[int], n: int) -> None:
    planted = scores(*sorted(values, reverse=True))
    assert count_above(planted, cut(planted, n)) == min(n, len(values))


@example(np.array([1.4e-45], np.float32), 0)  # the least float32: its half is none
@given(sorted_scores, st.integers(0, 50))
def test_the_cut_never_selects_more_than_asked_for_where_scores_are_equal(planted: np.ndarray, n: int) -> None:
    assert count_above(planted, cut(planted, n)) <= min(n, count_scored(planted))


@given(sorted_scores, st.floats(0, 9), st.integers(0, 50))
def test_only_blocks_near_theta_follow_the_limit(planted: np.ndarray, theta: float, limit: int) -> None:
    n = count_near(planted, theta, limit)
    assert count_above(planted, 1.0501 * theta) <= n <= count_above(planted, 0.9499 * theta - 1e-6)
    if n != limit:
        assert n == count_above(planted, theta + 0.05 * theta if n > limit else theta - 0.05 * theta)


def test_selection_leaves_the_scores_alone() -> None:
    planted = falling(32)
    planted.flags.writeable = False
    for policy in (ThresholdPolicy(theta=1), TopKPolicy(k=1), LatencyPolicy(budget_ms=20), FrameRatePolicy(fps=50)):
        assert Decider(32, COSTS).choose(policy, planted) >= 1


@pytest.mark.parametrize(("budget", "n"), [(9, 0), (11.9, 0), (12.5, 1), (21, 5), (39, 13), (74.1, 30), (1e9, 32)])
def test_a_latency_budget_takes_the_most_blocks_that_surely_fit(budget: float, n: int) -> None:
    decider = Decider(32, COSTS)
    assert decider.choose(LatencyPolicy(budget_ms=budget), falling(32)) == n
    assert decider.infeasible == (budget < 10)
    assert decider.predicted_ms(n) == 10 + 2 * n


def test_a_latency_budget_leaves_blocks_at_its_theta_though_there_is_time() -> None:
    planted = scores(2, 1, 0.5, 0.5, 0)
    assert Decider(5, COSTS).choose(LatencyPolicy(budget_ms=99, theta=0.5), planted) == 2
    assert Decider(5, COSTS).choose(LatencyPolicy(budget_ms=12.5, theta=0.5), planted) == 1


def test_a_latency_budget_needs_a_profile_and_says_where_it_comes_from() -> None:
    decider = Decider(32)
    with pytest.raises(InvalidRequest, match=r"latency budget of 30 ms: .*no profile; .*`cascadert bench`.*--profile"):
        decider.choose(LatencyPolicy(budget_ms=30), falling(32))
    decider.observe(Observation(1, 10, 2, 12))  # what a frame rate learns is no profile
    with pytest.raises(InvalidRequest, match="no profile"):
        decider.choose(LatencyPolicy(budget_ms=30), falling(32))


@given(st.lists(st.floats(1, 90), min_size=2, max_size=8), st.integers(0, 12), st.floats(0.5, 2))
def test_n_never_falls_with_the_budget(budgets: list[float], frames: int, slow: float) -> None:
    counts = []
    for budget in sorted(budgets):
        decider = Decider(32, COSTS)
        decider.choose(LatencyPolicy(budget_ms=45), falling(32))
        for _ in range(frames):
            decider.observe(Observation(8, 10 * slow, 16 * slow, 26 * slow))
        counts.append(decider.choose(LatencyPolicy(budget_ms=budget), falling(32)))
    assert counts == sorted(counts)


def test_cameras_share_one_budget_and_the_largest_scores_of_all_win() -> None:
    policy, rng = LatencyPolicy(budget_ms=39), np.random.default_rng(0)
    for cameras in (1, 2, 4):
        each = rng.uniform(0, 2, (cameras, 16)).astype(np.float32)
        each[0] += 1  # the first camera sees the harder scene
        order = np.argsort(-each.ravel(), kind="stable")
        n = Decider(16 * cameras, COSTS).choose(policy, each.ravel()[order])
        assert n == 13  # whatever the number of cameras
        chosen = np.zeros(each.size, bool)
        chosen[order[:n]] = True
        assert each.ravel()[chosen].min() > each.ravel()[~chosen].max()
        per_camera = chosen.reshape(cameras, 16).sum(axis=1)
        assert per_camera.sum() == n
        assert per_camera.argmax() == 0


def buckets(n: int) -> int:
    return next(size for size in (1, 4, 8, 16, 32) if size >= n)


@pytest.mark.parametrize(("budget", "n"), [(11, 0), (13, 1), (19.5, 4), (25.9, 4), (27.5, 8), (42.9, 8), (45, 16)])
def test_predictions_are_for_the_blocks_that_the_engine_really_refines(budget: float, n: int) -> None:
    decider = Decider(32, COSTS, buckets)
    assert decider.choose(LatencyPolicy(budget_ms=budget), falling(32)) == n
    assert decider.predicted_ms(5) == decider.predicted_ms(8) == 26
    assert decider.predicted_ms(0) == 10


def test_an_engine_is_never_asked_for_more_than_it_was_built_for() -> None:
    def up_to_six(n: int) -> int:
        if n > 6:
            raise ExecutionError("stage 'accurate'", f"was asked for {n} blocks", "build it for more")
        return n

    for policy in (LatencyPolicy(budget_ms=1e6), FrameRatePolicy(fps=0.001)):
        decider = Decider(32, COSTS, up_to_six)
        for _ in range(20):
            n = decider.choose(policy, falling(32))
            decider.observe(Observation(n, 10, 2 * n, 10 + 2 * n))
            assert n <= 6
        assert n == 6


def test_theta_is_that_of_the_controller_and_ends_with_it() -> None:
    decider = Decider(32, COSTS)
    assert decider.theta is None
    n = decider.choose(FrameRatePolicy(fps=25), falling(32))
    assert decider.theta is not None
    assert count_above(falling(32), decider.theta) == n == 14
    for policy in (ThresholdPolicy(theta=0.5), TopKPolicy(k=1), LatencyPolicy(budget_ms=40)):
        decider.choose(FrameRatePolicy(fps=25), falling(32))
        decider.choose(policy, falling(32))
        assert decider.theta is None
    decider.choose(FrameRatePolicy(fps=25), falling(32))
    decider.without_scores(TopKPolicy(k=1), 32)
    assert decider.theta is None


def test_what_was_learned_of_costs_outlives_a_change_of_policy() -> None:
    decider = Decider(32, COSTS)
    for policy in (ThresholdPolicy(theta=0.5), TopKPolicy(k=8), FrameRatePolicy(fps=25)):
        decider.choose(policy, falling(32))
        decider.observe(Observation(8, 20, 32, 52))
    assert decider.predicted_ms(8) == pytest.approx(52)
    assert decider.choose(LatencyPolicy(budget_ms=47), falling(32)) == 6


def test_nothing_is_predicted_before_anything_is_known() -> None:
    decider = Decider(32)
    assert decider.predicted_ms(3) is None
    decider.observe(Observation(0, 10, 0, 10))  # says nothing of blocks
    assert decider.predicted_ms(3) is None
    decider.observe(Observation(2, 10, 4, 14))
    assert decider.predicted_ms(3) == 16


def test_clocks_that_show_no_time_do_no_harm() -> None:
    decider = Decider(32, COSTS)
    for n in (0, 3, 3, 3, 3, 0, 0):
        decider.observe(Observation(n, 0, 0, 0))
    for policy in (LatencyPolicy(budget_ms=40), FrameRatePolicy(fps=25)):
        assert decider.choose(policy, falling(32)) > 0
