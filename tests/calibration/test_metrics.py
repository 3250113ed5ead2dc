"""Metrics and oracles by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.metrics import ConfusionMatrix, PAvPU, block_oracle, error_map, pixel_oracle, sqnr_db
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


def test_sqnr_by_hand() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    assert sqnr_db(reference, reference + np.float32(0.5)) == pytest.approx(10 * math.log10(25 / 0.5))
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(np.zeros(2), np.ones(2)) == -math.inf
    with pytest.raises(InvalidRequest, match=r"^signals: have different shapes, \[2\] against \[3\]; compare the same"):
        sqnr_db(reference, np.zeros(3))


def test_sqnr_of_8_bits_is_what_theory_says() -> None:
    """Uniform noise of a step squared over 12 on a uniform signal: 6.02 dB a bit."""
    signal = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    assert sqnr_db(signal, np.round(signal * 128) / 128) == pytest.approx(20 * math.log10(2**8), abs=0.1)


def test_sqnr_of_half_precision_does_not_overflow() -> None:
    reference = np.full(1000, 60000, np.float16)
    assert sqnr_db(reference, np.full(1000, 59968, np.float16)) == pytest.approx(20 * math.log10(60000 / 32), abs=0.01)


def test_pavpu_by_hand() -> None:
    truth, prediction = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    uncertainty = np.full((4, 6), 0.1)
    prediction[:2, 2:4] = [[1, 1], [0, 0]]  # half right is not accurate
    prediction[:2, 4:], uncertainty[:2, 4:] = 1, 0.9  # wrong, and known to be
    uncertainty[2:, :2] = 0.5  # not below the threshold
    truth[2:, 2:4] = 255  # nothing to be right about
    truth[2:, 4:], prediction[2:, 4:] = [[255, 255], [0, 0]], [[9, 9], [0, 1]]
    uncertainty[2:, 4:] = [[9, 9], [0.1, 0.1]]  # what has no label does not count
    metric = PAvPU(threshold=0.5, window=2)
    metric.add(prediction, truth, uncertainty)
    found = (metric.accurate_certain, metric.accurate_uncertain, metric.inaccurate_certain, metric.inaccurate_uncertain)
    assert found == (1, 1, 2, 1)
    assert metric.windows == 5
    assert metric.value() == 2 / 5


def test_pavpu_cuts_windows_at_the_edge_and_adds_frames_up() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 255], (3, 7, 10)).astype(np.uint8)
    prediction, uncertainty = rng.integers(0, 2, truth.shape, dtype=np.uint8), rng.random(truth.shape)
    at_once, one_by_one, good = PAvPU(0.5), PAvPU(0.5), 0
    at_once.add(prediction, truth, uncertainty)
    for frame in zip(prediction, truth, uncertainty, strict=True):
        one_by_one.add(*frame)
        for top, left in [(top, left) for top in (0, 4) for left in (0, 4, 8)]:
            said, true, doubt = (part[top : top + 4, left : left + 4] for part in frame)
            valid = true != 255
            good += (np.mean(said[valid] == true[valid]) > 0.5) == (doubt[valid].mean() < 0.5)
    assert at_once == one_by_one
    assert at_once.windows == 18
    assert at_once.value() == pytest.approx(good / 18)


def test_pavpu_of_nothing_is_no_number() -> None:
    metric = PAvPU(0.5)
    metric.add(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), np.zeros((4, 4)))
    assert math.isnan(metric.value())
    with pytest.raises(
        InvalidRequest, match=r"^prediction, truth and uncertainty: have different shapes, \[4, 4\], \["
    ):
        metric.add(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((5, 4)))
