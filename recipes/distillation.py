"""Losses of a network with exits (paper 004): its two stages, and what a head learns from the final exit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from street_data import IGNORE
from torch import Tensor

LossKind = Literal["ce", "kd", "pfd"]
LOSSES: tuple[LossKind, ...] = get_args(LossKind)
ALPHA = 0.5
"""Share of distillation (section 2.3 of the supplement)."""


def takes_part(exit_number: int, batch: int) -> bool:
    """Round-robin exit dropping: exit i (from 1) takes part in every i-th batch."""
    return batch % exit_number == 0


def round_robin(losses: list[Tensor], batch: int) -> Tensor:
    """Sum of the losses that count in a batch: of the last exit always, of exit i (from 1) in every i-th batch."""
    *early, final = losses
    return sum((loss for i, loss in enumerate(early, start=1) if takes_part(i, batch)), start=final)


class ExitLoss:
    """Loss of a head's logits beside those of the final exit.

    With CE of the truth and KL of (final exit || head) in each pixel, in nats:

    - ``ce``: CE;
    - ``kd``: (1 - α) CE + α KL;
    - ``pfd``, positive filtering distillation: the same where the final exit is right, CE where it is wrong. There the
      two would pull a head towards different classes.

    A pixel weighs as the class of its truth, the mean is over labelled pixels.

    Args:
        kind: see above.
        weights: of classes, float32 ``[K]``.
        alpha: α.
    """

    def __init__(self, kind: LossKind, weights: Tensor, alpha: float = ALPHA) -> None:
        self._share: Callable[[Tensor], Tensor] = {
            "ce": lambda right: torch.zeros_like(right),
            "kd": lambda right: torch.full_like(right, alpha),
            "pfd": lambda right: alpha * right,
        }[kind]
        self._weights = weights

    def __call__(self, logits: Tensor, final: Tensor, labels: Tensor) -> Tensor:
        """Mean over pixels.

        Args:
            logits: of the head, float32 ``[N, K, h, w]``.
            final: log-probabilities of the final exit, float32 ``[N, K, h, w]``; no gradient flows into them.
            labels: int64 ``[N, h, w]``, 255 = unlabelled.
        """
        known = labels != IGNORE
        truth = labels.where(known, torch.zeros_like(labels))
        each = self._weights[truth] * known
        teacher, student = final.detach(), logits.log_softmax(1)
        entropy = -student.gather(1, truth[:, None])[:, 0]
        divergence = (teacher.exp() * (teacher - student)).sum(1)
        share = self._share((teacher.argmax(1) == truth).float())
        return (each * torch.lerp(entropy, divergence, share)).sum() / each.sum().clamp_min(1e-6)
