"""Who is drawn, on planted classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.reservoir import BalancedReservoir

RARE, BLOCKS = 0.02, 1000


def planted(seed: int) -> np.ndarray:
    """Counts `[1000, 3]` of blocks of 100 pixels: two common classes, and a rare one that fills 2 % of the blocks."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 101, BLOCKS)
    counts = np.stack([first, 100 - first, np.zeros(BLOCKS, int)], axis=1)
    counts[rng.permutation(BLOCKS)[: int(RARE * BLOCKS)]] = [0, 0, 100]
    return counts


def drawn(counts: np.ndarray, capacity: int, seed: int, appeal: np.ndarray | None = None, chunk: int = 12) -> list[int]:
    """Offer blocks some at a time; return which were kept."""
    reservoir = BalancedReservoir(capacity, seed)
    appeal = np.ones(len(counts)) if appeal is None else appeal
    for start in range(0, len(counts), chunk):
        part = np.s_[start : start + chunk]
        reservoir.offer(counts[part], appeal[part], lambda kept, start=start: [np.array(start + i) for i in kept])
    assert reservoir.offered == len(counts)
    return [int(item) for item in reservoir.items]


@pytest.mark.parametrize("seed", range(8))
def test_a_rare_class_has_its_share(seed: int) -> None:
    counts = planted(seed)
    rare = np.flatnonzero(counts[:, 2])
    kept = np.intersect1d(drawn(counts, 64, seed), rare)
    assert len(kept) >= 0.6 * len(rare)  # of 20 blocks; without balance it would be 1.3


def test_every_class_has_the_same_share_on_average() -> None:
    counts = planted(0)
    pixels = np.mean([counts[drawn(counts, 12, seed)].sum(axis=0) for seed in range(100)], axis=0)
    assert np.all(np.abs(pixels / pixels.sum() - 1 / 3) < 0.05)


def test_without_rare_classes_everything_is_drawn_alike() -> None:
    times = np.zeros(40)
    for seed in range(400):
        times[drawn(np.full((40, 2), 50), 10, seed, chunk=7)] += 1
    assert times.sum() == 4000
    assert np.all(np.abs(times - 100) < 5 * np.sqrt(100 * 0.75))  # five standard deviations of a binomial


def test_appeal_is_a_weight() -> None:
    appeal = np.where(np.arange(BLOCKS) < 100, 50.0, 1.0)
    kept = drawn(np.full((BLOCKS, 1), 9), 40, 0, appeal)
    assert np.count_nonzero(np.array(kept) < 100) >= 25  # of 40, where their part of the weight is 0.85 at first


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 40), st.integers(1, 9))
def test_it_keeps_as_many_as_it_may_in_order_each_once(seed: int, capacity: int, offered: int, chunk: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 3, (offered, 4))
    kept = drawn(counts, capacity, seed, chunk=chunk)
    assert kept == sorted(set(kept))
    assert len(kept) == min(capacity, offered)
    assert kept == drawn(counts, capacity, seed, chunk=chunk)


def test_another_seed_draws_otherwise() -> None:
    assert drawn(planted(0), 64, 1) != drawn(planted(0), 64, 2)


def test_blocks_without_labels_come_last() -> None:
    counts = np.zeros((50, 2), int)
    counts[10:15] = 7
    assert set(range(10, 15)) <= set(drawn(counts, 6, 0))


def test_only_what_is_kept_for_now_is_fetched() -> None:
    reservoir, fetched = BalancedReservoir(5, 0), []

    def fetch(kept: np.ndarray) -> list[np.ndarray]:
        fetched.extend(kept.tolist())
        return [np.zeros(1)] * len(kept)

    for _ in range(100):
        reservoir.offer(np.ones((10, 2), int), np.ones(10), fetch)
    assert len(reservoir.items) == 5
    assert len(fetched) < 100  # of 1000; about 5 (1 + ln 200) are expected
