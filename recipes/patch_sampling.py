"""Which patch of each image the second network is trained on (paper 001, section 3.2): one per image.

"random" takes any, "weighted" one with a probability in proportion to its uncertainty, "highest" the most uncertain.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Sampling = Literal["random", "weighted", "highest"]


def probabilities(uncertainty: Tensor, sampling: Sampling) -> Tensor:
    """Return the chance of each patch, float32 `[N, G]` whose rows sum to 1, of uncertainties `[N, G]` from 0 up.

    Where no patch is uncertain, all are as likely as each other.
    """
    if sampling == "highest":
        return torch.zeros_like(uncertainty).scatter(1, uncertainty.argmax(dim=1, keepdim=True), 1.0)
    if sampling == "random":
        uncertainty = torch.ones_like(uncertainty)
    total = uncertainty.sum(dim=1, keepdim=True)
    return torch.where(total > 0, uncertainty / total.clamp(min=1e-30), 1 / uncertainty.shape[1])


def sample_patches(uncertainty: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """Draw one patch for each image: int64 `[N]`, of uncertainties float32 `[N, G]`."""
    return torch.multinomial(probabilities(uncertainty, sampling), 1, generator=generator)[:, 0]
