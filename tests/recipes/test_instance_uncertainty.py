"""Weights by instance uncertainty: numbers by hand, for instances that touch at a corner, void, and crops."""

import math

import numpy as np
import pytest
import torch
from instance_uncertainty import (
    FIRST_REGION,
    instance_uncertainty,
    number_regions,
    region_means,
    uncertainty_weights,
    weighted_cross_entropy,
)
from street_data import IGNORE, Data, Recipe, draw

VOID = IGNORE
# Two instances of class 1: one of pixels that touch at a corner only, and one apart from it; one of class 0.
LABELS = torch.tensor([[[1, 0, 0, 1], [0, 1, 0, 1], [VOID, 0, 0, 1]]], dtype=torch.uint8)
UNCERTAINTY = torch.tensor([[[0.2, 1.0, 1.0, 3.0], [1.0, 0.6, 1.0, 0.0], [9.0, 1.0, 4.0, 0.0]]])
# (0.2 + 0.6) / 2; (3 + 0 + 0) / 3; (6 * 1 + 4) / 7: the zeros touch at corners too.
BY_HAND = torch.tensor([[[0.4, 9 / 6, 9 / 6, 1.0], [9 / 6, 0.4, 9 / 6, 1.0], [0.0, 9 / 6, 9 / 6, 1.0]]])


def test_regions_are_eight_connected_of_one_class_and_leave_void_out() -> None:
    regions = number_regions(LABELS)
    numbers = regions.numbers[0]
    assert numbers[0, 0] == numbers[1, 1]  # at a corner
    assert numbers[0, 0] != numbers[0, 3]
    assert numbers[2, 0] == IGNORE
    assert torch.equal(regions.classes[numbers.long()], LABELS[0].long())
    assert len(torch.unique(numbers[numbers >= FIRST_REGION])) == 3


def test_a_number_is_never_in_two_frames() -> None:
    regions = number_regions(torch.cat([LABELS, LABELS]))
    first, second = (set(frame[frame >= FIRST_REGION].tolist()) for frame in regions.numbers)
    assert not first & second
    assert torch.equal(regions.classes[regions.numbers.long()], torch.cat([LABELS, LABELS]).long())


def test_each_pixel_has_the_mean_of_its_instance() -> None:
    regions = number_regions(LABELS)
    assert torch.allclose(instance_uncertainty(regions.numbers, UNCERTAINTY), BY_HAND)
    means = region_means(regions, UNCERTAINTY)
    assert torch.allclose(means[regions.numbers.long()], BY_HAND)


def test_two_crops_of_one_frame_are_averaged_apart() -> None:
    numbers = torch.full((2, 1, 2), FIRST_REGION, dtype=torch.int32)
    found = instance_uncertainty(numbers, torch.tensor([[[1.0, 3.0]], [[5.0, 9.0]]]))
    assert found.flatten().tolist() == [2.0, 2.0, 7.0, 7.0]


def test_crops_keep_the_numbers_of_their_instances() -> None:
    labels = torch.zeros((3, 40, 50), dtype=torch.uint8)
    labels[:, 10:20, 5:15], labels[:, 25:, 30:], labels[1, :5] = 1, 2, VOID
    regions = number_regions(labels)
    images = torch.stack([labels * 50] * 3, dim=-1)
    recipe = Recipe(scale=1.0, crop=(30, 30), overhang=12, batch=6)
    _, numbers = draw(Data(images, regions.numbers), recipe, np.random.default_rng(0))
    _, drawn = draw(Data(images, labels), recipe, np.random.default_rng(0))
    assert torch.equal(regions.classes[numbers], drawn)
    assert set(numbers.unique().tolist()) <= set(regions.numbers.unique().tolist()) | {IGNORE}


@pytest.mark.parametrize(("power", "expected"), [(1.0, [1.0, 1.5, 3.0]), (2.0, [1.0, 2.25, 9.0])])
def test_weights_are_one_more_to_a_power(power: float, expected: list[float]) -> None:
    assert uncertainty_weights(torch.tensor([0.0, 0.5, 2.0]), power).tolist() == expected


def test_the_loss_is_the_weighted_mean_of_the_labelled_pixels() -> None:
    logits = torch.zeros((1, 2, 1, 3), requires_grad=True)
    with torch.no_grad():
        logits[0, 1, 0, 1] = math.log(3)
    labels = torch.tensor([[[0, 1, VOID]]])
    weights = torch.tensor([[[2.0, 1.5, 100.0]]])
    loss = weighted_cross_entropy(logits, labels, weights)
    # p(truth) is 1/2 and 3/4; the void pixel weighs nothing, and two pixels count.
    assert loss.item() == pytest.approx((2.0 * math.log(2) + 1.5 * math.log(4 / 3)) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[0, :, 0, 2].tolist() == [0.0, 0.0]
    assert logits.grad[0, 0, 0, 0].item() == pytest.approx(2.0 * (0.5 - 1) / 2)


def test_a_crop_of_nothing_but_void_costs_nothing() -> None:
    labels = torch.full((1, 2, 2), VOID)
    assert weighted_cross_entropy(torch.zeros((1, 3, 2, 2)), labels, torch.ones((1, 2, 2))).item() == 0.0
    assert instance_uncertainty(labels, torch.ones((1, 2, 2))).sum() == 0.0
