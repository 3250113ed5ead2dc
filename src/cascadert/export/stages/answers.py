"""What a network returns: one tensor, or several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cascadert.errors import NetworkError
from cascadert.stage_spec import LOGITS, OF_LOGITS

SCORE = "score"
"""What a network returns that says itself how hard each block is: `[N, 1, rows, columns]`, before the sigmoid."""


def named_answer(subject: str, answer: Any, emit: tuple[str, ...]) -> dict[str, Tensor]:
    """Return what a network returned by name: a lone tensor is its logits, or the one tensor that the stage emits.

    Raises:
        NetworkError: it returned something else, or not what the stage emits.
    """
    carried = [name for name in emit if name not in OF_LOGITS]
    needs_logits = len(carried) < len(emit)
    if isinstance(answer, Tensor) and carried and (needs_logits or len(carried) > 1):
        names = [LOGITS, *carried] if needs_logits else carried
        wanted = ", ".join(f'"{name}": ...' for name in names)
        raise NetworkError(subject, f"returned one tensor where {len(names)} are needed", f"return {{{wanted}}}")
    if isinstance(answer, Tensor):
        answer = {LOGITS if needs_logits else carried[0]: answer}
    if not isinstance(answer, Mapping) or not all(isinstance(value, Tensor) for value in answer.values()):
        found = f"returned {type(answer).__name__}"
        raise NetworkError(subject, found, "return logits [N, K, h, w], or a dict of tensors by name")
    for name in (*carried, *([LOGITS] if needs_logits else [])):
        if name not in answer:
            found = f"returned {', '.join(answer)} where '{name}' is needed"
            raise NetworkError(subject, found, "return a dict that has it, or mend emit")
    return {str(name): value.to(torch.float32) for name, value in answer.items()}


def checked_logits(subject: str, logits: Tensor, classes: int) -> Tensor:
    """Return logits.

    Raises:
        NetworkError: they are not `[n, K, h, w]` with K the number of classes (or 1 for two classes).
    """
    if logits.dim() != 4:
        raise NetworkError(subject, f"returned {list(logits.shape)}", "return logits [N, K, h, w]")
    if logits.shape[1] not in {classes} | ({1} if classes == 2 else set()):
        found = f"returned {logits.shape[1]} channels where the spec names {classes} classes"
        raise NetworkError(subject, found, "mend args or classes")
    return logits
