"""Losses of early exits, against pixels that are worked out by hand."""

from math import log

import pytest
import torch
from distillation import LOSSES, ExitLoss, LossKind, round_robin
from torch import Tensor

# Three pixels of two classes. The truth is class 0, 0, 1; the final exit is right, wrong, right.
TRUTH = torch.tensor([[[0, 0, 1]]])
FINAL = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]])
HEAD = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75]])
CE = (log(2), log(4 / 3), log(4 / 3))
KL = (
    0.8 * log(0.8 / 0.5) + 0.2 * log(0.2 / 0.5),
    0.4 * log(0.4 / 0.75) + 0.6 * log(0.6 / 0.25),
    0.1 * log(0.1 / 0.25) + 0.9 * log(0.9 / 0.75),
)
EVEN = torch.ones(2)


def planes(pixels: Tensor) -> Tensor:
    """Log-probabilities ``[1, K, 1, W]`` of pixels ``[W, K]``; as logits, they have the same softmax."""
    return pixels.log().T[None, :, None, :]


def gradient(kind: LossKind, labels: Tensor = TRUTH) -> Tensor:
    logits = planes(HEAD).requires_grad_(True)
    ExitLoss(kind, EVEN)(logits, planes(FINAL), labels).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return logits.grad[0, :, 0, :].T


def test_an_exit_counts_in_its_turn_and_the_last_one_always() -> None:
    losses = [torch.tensor(value) for value in (1.0, 10.0, 100.0, 1000.0)]
    sums = [float(round_robin(losses, batch)) for batch in range(7)]
    assert sums == [1111, 1001, 1011, 1101, 1011, 1001, 1111]


def test_loss_of_each_kind_is_worked_out_by_hand() -> None:
    half = [(ce + kl) / 2 for ce, kl in zip(CE, KL, strict=True)]
    wanted = {"ce": sum(CE) / 3, "kd": sum(half) / 3, "pfd": (half[0] + CE[1] + half[2]) / 3}
    for kind in LOSSES:
        assert float(ExitLoss(kind, EVEN)(planes(HEAD), planes(FINAL), TRUTH)) == pytest.approx(wanted[kind], rel=1e-5)


def test_alpha_and_class_weights() -> None:
    weights = torch.tensor([1.0, 3.0])
    each = [0.75 * CE[0] + 0.25 * KL[0], CE[1], 0.75 * CE[2] + 0.25 * KL[2]]
    wanted = (each[0] + each[1] + 3 * each[2]) / 5
    found = ExitLoss("pfd", weights, alpha=0.25)(planes(HEAD), planes(FINAL), TRUTH)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_where_the_final_exit_is_wrong_only_the_truth_pulls() -> None:
    ce, kd, pfd = (gradient(kind) for kind in LOSSES)
    assert torch.allclose(pfd[1], ce[1])
    assert torch.allclose(pfd[[0, 2]], kd[[0, 2]])
    assert ce[1, 0] < 0 < kd[1, 0]  # distillation pulls away from the true class there


def test_unlabelled_pixels_do_not_count() -> None:
    labels = torch.tensor([[[0, 255, 1]]])
    for kind in LOSSES:
        assert (gradient(kind, labels)[1] == 0).all()
        loss = ExitLoss(kind, EVEN)
        without = loss(planes(HEAD[[0, 2]]), planes(FINAL[[0, 2]]), TRUTH[:, :, ::2])
        assert float(loss(planes(HEAD), planes(FINAL), labels)) == pytest.approx(float(without), rel=1e-6)
    assert float(ExitLoss("pfd", EVEN)(planes(HEAD), planes(FINAL), torch.full_like(TRUTH, 255))) == 0


def test_the_final_exit_learns_nothing_from_a_head() -> None:
    final = planes(FINAL).requires_grad_(True)
    ExitLoss("kd", EVEN)(planes(HEAD).requires_grad_(True), final, TRUTH).backward()  # type: ignore[no-untyped-call]
    assert final.grad is None
