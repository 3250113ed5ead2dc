"""Labels and entropy of logits against their definitions in float64."""

import numpy as np
import pytest

from cascadert.calibration.logits import entropy_bits, labels_of


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 11])
def test_entropy_is_that_of_the_softmax(classes: int) -> None:
    logits = np.random.default_rng(0).normal(scale=4, size=(2, classes, 5, 6)).astype(np.float32)
    p = softmax(logits)
    assert np.allclose(entropy_bits(logits), -(p * np.log2(p)).sum(axis=1), atol=1e-5)
    assert np.array_equal(labels_of(logits), p.argmax(axis=1))


def test_one_channel_is_a_binary_task() -> None:
    logits = np.array([-3.0, 0.0, 1e-6, 2.0], np.float32).reshape(1, 1, 2, 2)
    p = 1 / (1 + np.exp(-logits[:, 0].astype(np.float64)))
    assert np.allclose(entropy_bits(logits), -p * np.log2(p) - (1 - p) * np.log2(1 - p), atol=1e-5)
    assert labels_of(logits).tolist() == [[[0, 0], [1, 1]]]


def test_entropy_of_a_certain_class_is_nothing() -> None:
    assert entropy_bits(np.array([[[[1e4]], [[0.0]]]], np.float32)).item() == 0


def test_labels_of_resized_logits() -> None:
    logits = np.array([[[[1.0, -3.0]], [[0.0, 0.0]]]], np.float32)
    assert labels_of(logits, (1, 4)).tolist() == [[[0, 0, 1, 1]]]
    assert labels_of(logits, (2, 2)).tolist() == [[[0, 1], [0, 1]]]


def test_logits_are_resized_and_entropy_is_not() -> None:
    """Between two certain classes lies a pixel that is torn: the mean of two entropies would be nothing."""
    logits = np.array([[[[30.0, -30.0]], [[-30.0, 30.0]]]], np.float32)
    assert np.allclose(entropy_bits(logits, (1, 3)), [[[0, 1, 0]]], atol=1e-5)
