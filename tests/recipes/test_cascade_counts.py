"""Compositions by sums of confusion matrices, against the oracles and the rule that the product has."""

import numpy as np
import pytest
from experiments.cascade_counts import (
    BlockCounts,
    count_blocks,
    linear_fit,
    mean_blocks,
    miou_of,
    pixel_oracle_miou,
    thetas,
)

from cascadert.calibration.oracles import block_oracle, refine
from cascadert.geometry import Grid
from cascadert.runtime.control import count_above

CLASSES, FRAMES = 4, 3
GRIDS = [Grid(24, 32, (8, 8), (8, 8)), Grid(24, 32, (12, 12), (8, 8)), Grid(24, 32, (10, 14), (10, 14))]


def maps(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, and two sets of labels that are right in half of the pixels and in three quarters."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, (FRAMES, 24, 32), np.uint8)
    noise = rng.integers(0, CLASSES, (2, FRAMES, 24, 32), np.uint8)
    fast = np.where(rng.random(truth.shape) < 0.5, truth, noise[0])
    accurate = np.where(rng.random(truth.shape) < 0.75, truth, noise[1])
    return np.where(rng.random(truth.shape) < 0.1, np.uint8(255), truth), fast, accurate


def counted(grid: Grid) -> tuple[BlockCounts, np.ndarray, np.ndarray, np.ndarray]:
    truth, fast, accurate = maps()
    scores = np.random.default_rng(1).random((FRAMES, grid.size), np.float32)
    return count_blocks(fast, accurate, truth, grid, scores, CLASSES), truth, fast, accurate


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("theta", [-1.0, 0.3, 0.6, 2.0])
def test_sums_of_blocks_are_the_composed_maps(grid: Grid, theta: float) -> None:
    counts, truth, fast, accurate = counted(grid)
    chosen = counts.above(theta)
    composed = [refine(f, a, np.flatnonzero(row), grid) for f, a, row in zip(fast, accurate, chosen, strict=True)]
    assert counts.miou(chosen) == pytest.approx(miou_of(np.stack(composed), truth, CLASSES), abs=1e-12)
    assert mean_blocks(chosen) == chosen.sum() / FRAMES


@pytest.mark.parametrize("grid", GRIDS)
def test_block_oracle_is_the_product_s(grid: Grid) -> None:
    counts, truth, fast, accurate = counted(grid)
    maps_of_oracle = [block_oracle(*views, grid) for views in zip(fast, accurate, truth, strict=True)]
    assert counts.miou(counts.better()) == pytest.approx(miou_of(np.stack(maps_of_oracle), truth, CLASSES), abs=1e-12)


def test_pixel_oracle_beats_every_choice_of_blocks() -> None:
    truth, fast, accurate = maps()
    best = pixel_oracle_miou(fast, accurate, truth, CLASSES)
    for grid in GRIDS:
        counts, *_ = counted(grid)
        assert counts.miou(counts.better()) < best < 100


def test_threshold_is_strict_and_in_float32_as_in_the_runtime() -> None:
    scores = np.array([[0.1, 0.25, 0.2500001, 0.7]], np.float32)
    counts = BlockCounts(np.zeros((1, 4, 2, 2), np.int64), np.zeros((1, 4, 2, 2), np.int64), scores)
    for theta in (0.1, 0.25, 0.7, float("inf"), -1.0):
        assert counts.above(theta).sum() == count_above(scores[0], theta)


def test_the_best_k_are_the_highest_and_the_first_of_equals() -> None:
    scores = np.array([[0.2, 0.9, 0.9, 0.1], [0.4, 0.3, 0.2, 0.1]], np.float32)
    counts = BlockCounts(np.zeros((2, 4, 2, 2), np.int64), np.zeros((2, 4, 2, 2), np.int64), scores)
    assert counts.best(1).tolist() == [[False, True, False, False], [True, False, False, False]]
    assert counts.best(2).sum(1).tolist() == [2, 2]
    assert counts.best(0).sum() == 0 and counts.best(4).all()


@pytest.mark.parametrize("k", [1, 3, 11, 12])
def test_theta_for_as_many_blocks_on_average(k: int) -> None:
    counts, *_ = counted(GRIDS[0])
    assert mean_blocks(counts.above(counts.fraction_theta(k * FRAMES))) == k


def test_some_of_the_frames_count_as_those_frames() -> None:
    counts, truth, fast, _ = counted(GRIDS[0])
    odd = counts.only(1, 2)
    assert odd.miou(odd.above(9)) == pytest.approx(miou_of(fast[1::2], truth[1::2], CLASSES), abs=1e-12)


def test_line_and_thetas_by_hand() -> None:
    assert thetas(0.25, 0.5, 0.125) == (0.25, 0.375, 0.5)
    slope, intercept, r2 = linear_fit((0, 1, 2, 3), (1, 3, 5, 7))
    assert (slope, intercept, r2) == (pytest.approx(2), pytest.approx(1), pytest.approx(1))
    assert linear_fit((0, 1, 2), (0, 1, 0))[2] == pytest.approx(0)  # a line explains nothing of a bend
