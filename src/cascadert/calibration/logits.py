"""What a stage makes of its network's logits, on arrays: the graph's own functions, so that there is one definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cascadert.export import glue

Logits = NDArray[np.floating[Any]]


def labels_of(logits: Logits, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Arg-max over classes, the lowest on ties: `[n, K, h, w]` to uint8 `[n, h, w]`; one channel is a binary task.

    `size`: height and width to which the logits are resized first, as a stage does.
    """
    labels: NDArray[np.uint8] = glue.labels_of(_of_classes(logits, size)).numpy()
    return labels


def entropy_bits(logits: Logits, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Entropy of the softmax over classes in bits, float32 `[n, h, w]`; see `labels_of`."""
    bits: NDArray[np.float32] = glue.entropy_bits(_of_classes(logits, size)).numpy()
    return bits


def _of_classes(logits: Logits, size: tuple[int, int] | None) -> torch.Tensor:
    classes = glue.as_class_logits(torch.tensor(logits, dtype=torch.float32))
    return classes if size is None else glue.resize(classes, *size)
