"""Sampling of training patches (paper 001): what each rule draws, and how often."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patch_sampling import Sampling, probabilities, sample_patches

RULES: tuple[Sampling, ...] = ("random", "weighted", "highest")


@pytest.mark.parametrize("rule", RULES)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_probabilities_sum_to_1(rule: Sampling, seed: int, patches: int) -> None:
    uncertainty = torch.rand(3, patches, generator=torch.Generator().manual_seed(seed))
    uncertainty[1] = 0  # an image without doubt
    chances = probabilities(uncertainty, rule)
    assert torch.allclose(chances.sum(dim=1), torch.ones(3), atol=1e-5)
    assert (chances >= 0).all()


def test_weighted_draws_in_proportion_random_evenly_and_highest_the_one() -> None:
    uncertainty = torch.tensor([[1.0, 3.0, 0.0, 4.0]]).expand(8000, 4)
    generator = torch.Generator().manual_seed(0)
    for rule, wanted in (("weighted", [1 / 8, 3 / 8, 0, 1 / 2]), ("random", [1 / 4] * 4), ("highest", [0, 0, 0, 1])):
        share = sample_patches(uncertainty, rule, generator).bincount(minlength=4) / 8000
        assert share.tolist() == pytest.approx(wanted, abs=0.02)
