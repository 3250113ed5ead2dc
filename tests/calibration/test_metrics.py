"""Metrics and oracles by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.metrics import ConfusionMatrix, block_oracle, error_map, pixel_oracle
from cascadert.errors import InvalidRequest
from cascadert.geometry import Grid


def labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


TRUTH = labels([0, 0, 1, 1], [0, 255, 1, 2])
PREDICTION = labels([0, 1, 1, 1], [0, 2, 0, 2])


def test_counts_and_scores_by_hand() -> None:
    matrix = ConfusionMatrix(4)
    matrix.add(PREDICTION, TRUTH)
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert matrix.iou()[:3].tolist() == [2 / 4, 2 / 4, 1.0]
    assert math.isnan(matrix.iou()[3])
    assert matrix.mean_iou() == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert matrix.accuracy() == pytest.approx(5 / 7)


def test_a_class_only_predicted_costs_the_others_but_has_no_say_in_the_mean() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(labels([0, 2]), labels([0, 0]))
    assert matrix.iou().tolist()[0::2] == [0.5, 0.0]
    assert matrix.mean_iou() == 0.5


def test_frames_add_up() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 255], (3, 5, 6)).astype(np.uint8)
    prediction = rng.integers(0, 3, truth.shape, dtype=np.uint8)
    at_once, one_by_one = ConfusionMatrix(3), ConfusionMatrix(3)
    at_once.add(prediction, truth)
    for frame, wanted in zip(prediction, truth, strict=True):
        one_by_one.add(frame, wanted)
    assert np.array_equal(at_once.counts, one_by_one.counts)
    assert at_once.counts.sum() == np.count_nonzero(truth != 255)


def test_unlabelled_pixels_do_not_count_whatever_is_predicted_there() -> None:
    matrix = ConfusionMatrix(2)
    matrix.add(labels([0, 200]), labels([255, 255]))
    assert matrix.counts.sum() == 0
    assert math.isnan(matrix.mean_iou())
    assert math.isnan(matrix.accuracy())


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (
            labels([0, 1]),
            labels([0], [1]),
            r"^prediction and truth: have different shapes, \[1, 2\] against \[2, 1\]; fit",
        ),
        (
            labels([0, 1]),
            labels([0, 7]),
            r"^truth: holds label 7 where there are 2 classes; check the class set \(trainIds",
        ),
        (
            labels([0, 255]),
            labels([0, 1]),
            r"^prediction: holds label 255 where there are 2 classes; check the class set",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(prediction: np.ndarray, truth: np.ndarray, message: str) -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(InvalidRequest, match=message):
        matrix.add(prediction, truth)
    assert matrix.counts.sum() == 0


def test_error_map_by_hand() -> None:
    assert error_map(PREDICTION, TRUTH).tolist() == [[False, True, False, False], [False, False, True, False]]


# Four blocks of 2x2. Block 0: accurate wins. Block 1: a tie. Block 2: fast is better. Block 3: a tie without its void.
GRID = Grid(4, 4, (2, 2), (2, 2))
FOUR_TRUTH = labels([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 255], [1, 1, 1, 255])
FOUR_FAST = labels([0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0])
FOUR_ACCURATE = labels([1, 1, 1, 0], [1, 2, 1, 1], [2, 2, 2, 1], [2, 2, 1, 1])


def test_block_oracle_by_hand_a_tie_stays_fast() -> None:
    wanted = FOUR_FAST.copy()
    wanted[:2, :2] = FOUR_ACCURATE[:2, :2]
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
