"""Metrics by hand."""

import math

import numpy as np
import pytest

from cascadert.calibration.metrics import ConfusionMatrix, Noise, sqnr_db
from cascadert.errors import InvalidRequest


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


def test_powers_add_up_and_decibels_do_not() -> None:
    noise = Noise()
    assert math.isnan(noise.sqnr_db)
    noise.add(np.array([3.0]), np.array([3.0]))
    assert noise.sqnr_db == math.inf
    noise.add(np.array([4.0]), np.array([4.5]))
    assert noise.sqnr_db == pytest.approx(10 * math.log10(25 / 0.25))
