"""Patches of paper 001: how they are cut and scored, what each rule of sampling draws, and how often."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patch_sampling import Sampling, from_patches, patch_scores, probabilities, sample_patches, take_patch, to_patches

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


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_patches_put_together_are_the_image_and_lie_row_by_row(side: int, height: int, width: int) -> None:
    planes = torch.arange(2 * 3 * side * height * side * width).view(2, 3, side * height, side * width)
    patches = to_patches(planes, side)
    assert patches.shape == (2, side * side, 3, height, width)
    assert torch.equal(from_patches(patches, side), planes)
    row, column = side - 1, side // 2
    wanted = planes[1, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
    assert torch.equal(patches[1, row * side + column], wanted)
    chosen = torch.tensor([0, row * side + column])
    assert torch.equal(take_patch(planes, chosen, side)[1], wanted)


def test_the_score_of_a_patch_is_its_mean_uncertainty() -> None:
    logits = torch.full((1, 1, 4, 6), 20.0)  # sure
    logits[0, 0, :2, :3] = 0.0  # p = 0.5: as unsure as can be
    logits[0, 0, 2, 3] = -torch.tensor(3.0).log()  # p = 1/4
    assert patch_scores(logits, 2)[0].tolist() == pytest.approx([1.0, 0.0, 0.0, 0.5 / 6], abs=1e-6)
