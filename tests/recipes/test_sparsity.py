"""The sparsity loss moves the share of active regions towards its target."""

import math

import pytest
import torch
from sparsity import SparsityLoss


def slope(loss: SparsityLoss, logit: float) -> torch.Tensor:
    score = torch.full((2, 1, 4, 8), logit, requires_grad=True)
    loss(score).backward()
    assert score.grad is not None
    return score.grad


@pytest.mark.parametrize(("logit", "sign"), [(2.0, 1), (-4.0, -1)])
def test_too_many_regions_lower_the_score_and_too_few_raise_it(logit: float, sign: int) -> None:
    assert (slope(SparsityLoss(target=0.25), logit).sign() == sign).all()


def test_the_average_weighs_more_than_this_step() -> None:
    loss = SparsityLoss(target=0.25)
    loss.average.fill_(0.9)
    assert (slope(loss, -4.0) > 0).all()  # few are active now, but were too many before


def test_loss_is_equations_1_and_2() -> None:
    loss = SparsityLoss(target=0.25)
    value = loss(torch.zeros(1, 1, 2, 2))
    q = 0.9 * 0.25 + 0.1 * 0.5
    assert value.item() == pytest.approx(-0.25 * math.log(q) - 0.75 * math.log(1 - q))
    assert loss.average.item() == pytest.approx(q)
    loss.eval()(torch.ones(1, 1, 2, 2))
    assert loss.average.item() == pytest.approx(q)


def test_each_image_is_held_to_the_target_but_no_place_is() -> None:
    half = torch.tensor([9.0, 9.0, -9.0, -9.0])
    halves = torch.stack((half, half.flip(0))).reshape(2, 1, 2, 2)
    one_each = torch.tensor([9.0, -9.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    fixed = [SparsityLoss(target=0.5)(score) for score in (halves, one_each)]
    assert fixed[0].item() == pytest.approx(math.log(2))
    assert fixed[1] > fixed[0]
