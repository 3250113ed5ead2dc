"""Cost and choice of a cascade, by hand: two frames of two blocks, one of which each network gets right."""

import numpy as np
import pytest
from experiments.cascade_counts import BlockCounts
from experiments.cascade_curves import Cascade, rounded
from experiments.cascade_search import best_within, cheap_enough
from experiments.cascade_words import worst
from experiments.x15_policies import bootstrap

RIGHT, WRONG = [[10, 0], [0, 10]], [[5, 5], [5, 5]]


def cascade(frames: int = 4, fast_ms: float = 2.0) -> Cascade:
    """Block 0 is easy (score 0.2, both right), block 1 is hard (score 0.8, the accurate network is right)."""
    fast = np.array([[RIGHT, WRONG]] * frames)
    accurate = np.array([[RIGHT, RIGHT]] * frames)
    scores = np.array([[0.2, 0.8]] * frames, np.float32)
    return Cascade("hand", BlockCounts(fast, accurate, scores), 0.5, 4.0, fast_ms, 10.0)


def test_cost_is_fast_plus_blocks() -> None:
    point = cascade().point(0.5)
    assert (point.blocks, point.gmacs, point.ms) == (1.0, 4.5, 12.0)
    assert point.miou == pytest.approx(100)
    assert rounded(point) == {"theta": 0.5, "miou": 100.0, "blocks": 1.0, "gmacs": 4.5, "ms": 12.0}


def test_the_ends_are_the_two_networks() -> None:
    one = cascade()
    fast, alone = one.fast_alone(), one.accurate_alone()
    assert (fast.blocks, fast.ms) == (0.0, 2.0)
    assert fast.miou == pytest.approx(60)  # 15 of 15 + 5 + 5
    assert (alone.gmacs, alone.ms, alone.miou()) == (8.0, 20.0, pytest.approx(100))


def test_search_takes_the_best_that_is_cheap_and_judges_it_elsewhere() -> None:
    one = cascade()
    reference = one.accurate_alone()
    assert cheap_enough(one.point(0.5), reference, 0.6) and not cheap_enough(one.point(0.5), reference, 0.5)
    found = best_within({("fast", "accurate"): one}, reference, 0.6)
    assert found is not None and found.judged.miou == pytest.approx(100) and 0.2 <= found.theta < 0.8
    assert found.near(reference, 1.0, 0.6)
    assert best_within({("fast", "accurate"): cascade(fast_ms=30.0)}, reference, 0.6) is None


def test_search_is_judged_on_frames_that_did_not_choose() -> None:
    one = cascade()
    counts = one.counts
    odd_fails = counts.accurate.copy()
    odd_fails[1::2, 1] = WRONG
    other = Cascade("odd", BlockCounts(counts.fast, odd_fails, counts.scores), 0.5, 4.0, 2.0, 10.0)
    found = best_within({("fast", "accurate"): other}, one.accurate_alone(), 0.6)
    assert found is not None and found.choosing.miou == pytest.approx(100) and found.judged.miou == pytest.approx(60)
    assert not found.near(one.accurate_alone(), 1.0, 0.6)


def test_a_claim_of_many_steps_is_as_good_as_its_worst() -> None:
    assert worst(["holds", "holds"]) == "holds"
    assert worst(["holds", "not significant"]) == "not significant"
    assert worst(["not significant", "does not hold", "holds"]) == "does not hold"


def test_threshold_gains_where_frames_differ_in_how_hard_they_are() -> None:
    """Two hard frames and two easy ones: one block a frame on average is better spent two and none."""
    fast = np.array([[WRONG, WRONG], [RIGHT, RIGHT]] * 2)
    accurate = np.array([[RIGHT, RIGHT]] * 4)
    scores = np.array([[0.9, 0.8], [0.2, 0.1]] * 2, np.float32)
    gain, error = bootstrap(BlockCounts(fast, accurate, scores), [1])
    assert gain == pytest.approx(100 * (1 - 70 / 90))  # top-k leaves two of eight blocks at half: 70 of 70 + 10 + 10
    assert error > 0
    assert bootstrap(BlockCounts(fast, accurate, scores), [1]) == (gain, error)
