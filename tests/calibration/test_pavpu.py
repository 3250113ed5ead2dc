"""PAvPU by hand, and its threshold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.pavpu import MeanUncertainty, PAvPU
from cascadert.errors import InvalidRequest


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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_perfect_and_certain_is_one_and_every_window_counts(seed: int, window: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (6, 9), dtype=np.uint8)
    perfect, sure = PAvPU(0.5, window), rng.uniform(0, 0.5, truth.shape)
    perfect.add(truth, truth, sure)
    assert perfect.value() == 1
    assert perfect.windows == -(-6 // window) * -(-9 // window)
    unsure = PAvPU(0.0, window)
    unsure.add(truth, truth, sure)
    assert (unsure.value(), unsure.accurate_uncertain) == (0, unsure.windows)


def test_threshold_is_the_mean_over_all_pixels_of_frames_of_any_size() -> None:
    mean = MeanUncertainty()
    assert math.isnan(mean.value())
    mean.add(np.full((1, 2, 3), 0.5, np.float32))
    mean.add(np.full((4, 5), 2.0, np.float32))
    assert mean.value() == pytest.approx((6 * 0.5 + 20 * 2) / 26)


def test_means_of_many_pixels_do_not_drift() -> None:
    mean = MeanUncertainty()
    for _ in range(3):
        mean.add(np.full((2000, 2000), 0.1, np.float32))
    assert mean.value() == pytest.approx(float(np.float32(0.1)), rel=1e-12)
