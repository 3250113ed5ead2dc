"""The measures of the papers against their formulas in float64, and at the points that the papers name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cascadert.export.uncertainty import foreground, uncertainty
from cascadert.stage_spec import Measure


def of_probability(p: float) -> torch.Tensor:
    """Logits of two classes, the second of which has the probability p; infinite ones are cut at 80."""
    y = 80.0 if p == 1 else -80.0 if p == 0 else math.log(p / (1 - p))
    return torch.tensor([0.0, y]).reshape(1, 2, 1, 1)


FORMULAS = {
    "triangular": lambda p: 1 - 2 * abs(0.5 - p),
    "one-term": lambda p: -p * math.log2(p) if p else 0.0,
    "binary-entropy": lambda p: -sum(q * math.log2(q) for q in (p, 1 - p) if q),
    "normalised-entropy": lambda p: -sum(q * math.log2(q) for q in (p, 1 - p) if q),
}


@pytest.mark.parametrize("measure", FORMULAS)
@given(p=st.floats(0.0, 1.0))
def test_it_is_its_formula(measure: Measure, p: float) -> None:
    logits = of_probability(p)
    exact = float(foreground(logits.double()))
    assert uncertainty(logits, measure).item() == pytest.approx(FORMULAS[measure](exact), abs=2e-6)


@pytest.mark.parametrize("measure", FORMULAS)
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certainty_is_0(measure: Measure, p: float) -> None:
    assert uncertainty(of_probability(p), measure).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("measure", "p", "largest"), [
    ("triangular", 0.5, 1.0), ("binary-entropy", 0.5, 1.0), ("one-term", 1 / math.e, 0.5307),
])  # fmt: skip
def test_the_largest_is_where_the_paper_says(measure: Measure, p: float, largest: float) -> None:
    at = np.linspace(0.001, 0.999, 999)
    values = [uncertainty(of_probability(float(q)), measure).item() for q in at]
    assert max(values) == pytest.approx(largest, abs=1e-4)
    assert at[int(np.argmax(values))] == pytest.approx(p, abs=2e-3)


def test_normalised_entropy_is_1_where_nothing_is_known() -> None:
    assert torch.allclose(uncertainty(torch.zeros(1, 19, 2, 2), "normalised-entropy"), torch.ones(1, 2, 2))
    assert uncertainty(torch.zeros(1, 19, 1, 1), "entropy").item() == pytest.approx(math.log2(19))
