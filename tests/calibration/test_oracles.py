"""The oracles of paper 000, by hand and against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.oracles import better_blocks, block_oracle, error_map, pixel_oracle, refine
from cascadert.geometry import Grid


def labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_error_map_by_hand() -> None:
    truth, prediction = labels([0, 0, 1, 1], [0, 255, 1, 2]), labels([0, 1, 1, 1], [0, 2, 0, 2])
    assert error_map(prediction, truth).tolist() == [[False, True, False, False], [False, False, True, False]]


# Four blocks of 2x2. Block 0: accurate wins. Block 1: a tie. Block 2: fast is better. Block 3: a tie without its void.
GRID = Grid(4, 4, (2, 2), (2, 2))
FOUR_TRUTH = labels([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 255], [1, 1, 1, 255])
FOUR_FAST = labels([0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0])
FOUR_ACCURATE = labels([1, 1, 1, 0], [1, 2, 1, 1], [2, 2, 2, 1], [2, 2, 1, 1])


def test_block_oracle_by_hand_a_tie_stays_fast() -> None:
    wanted = FOUR_FAST.copy()
    wanted[:2, :2] = FOUR_ACCURATE[:2, :2]
    assert better_blocks(FOUR_FAST, FOUR_ACCURATE, FOUR_TRUTH, GRID) == (0,)
    assert np.array_equal(block_oracle(FOUR_FAST, FOUR_ACCURATE, FOUR_TRUTH, GRID), wanted)


def test_pixel_oracle_by_hand() -> None:
    wanted = labels([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 2, 0], [1, 2, 1, 0])
    assert np.array_equal(pixel_oracle(FOUR_FAST, FOUR_ACCURATE, FOUR_TRUTH), wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_block_oracle_is_between_either_network_and_the_pixel_oracle(seed: int, block: int, stride: int) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid(13, 17, (block, block), (min(stride, block), min(stride, block)))
    truth = rng.choice([0, 1, 2, 255], (13, 17)).astype(np.uint8)
    fast, accurate = (rng.integers(0, 3, truth.shape, dtype=np.uint8) for _ in range(2))

    def right(prediction: np.ndarray) -> int:
        matrix = ConfusionMatrix(3)
        matrix.add(prediction, truth)
        return int(np.trace(matrix.counts))

    by_block = block_oracle(fast, accurate, truth, grid)
    assert max(right(fast), right(accurate)) <= right(by_block) <= right(pixel_oracle(fast, accurate, truth))
    for index in range(grid.size):
        top, left, bottom, right_edge = grid.owned_box(index)
        window = np.s_[top:bottom, left:right_edge]
        assert any(np.array_equal(by_block[window], one[window]) for one in (fast, accurate))


def test_oracles_leave_their_inputs_alone() -> None:
    fast = FOUR_FAST.copy()
    block_oracle(fast, FOUR_ACCURATE, FOUR_TRUTH, GRID)
    pixel_oracle(fast, FOUR_ACCURATE, FOUR_TRUTH)
    assert np.array_equal(fast, FOUR_FAST)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(2, 4), (4, 8), (2, 8)]))
def test_smaller_blocks_inside_larger_ones_are_never_worse(seed: int, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 255], (16, 24)).astype(np.uint8)
    fast, accurate = (rng.integers(0, 3, truth.shape, dtype=np.uint8) for _ in range(2))
    grids = [Grid(16, 24, (size, size), (size, size)) for size in sizes]
    small, large = (np.count_nonzero(error_map(block_oracle(fast, accurate, truth, g), truth)) for g in grids)
    assert small <= large


@pytest.mark.parametrize("stride", [4, 3])
def test_refining_every_block_gives_the_accurate_labels(stride: int) -> None:
    grid = Grid(10, 13, (4, 4), (stride, stride))
    fast, accurate = np.zeros((10, 13), np.uint8), np.ones((10, 13), np.uint8)
    assert np.array_equal(refine(fast, accurate, range(grid.size), grid), accurate)
    assert np.array_equal(refine(fast, accurate, (), grid), fast)
    assert not fast.any()
