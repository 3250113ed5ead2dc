"""The loss that keeps the regions of a two-column network sparse.

Source: Wu et al., "Real-time Semantic Image Segmentation via Spatial Sparsity", arXiv:1712.00213, equations 1, 2 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SparsityLoss(nn.Module):
    """Cross entropy between the share of active regions in an image and its target, to be scaled by lambda (0.001).

    Args:
        target: share of regions p that is to be active.
        momentum: alpha of the moving average, which starts at the target.
    """

    average: Tensor

    def __init__(self, target: float = 0.25, momentum: float = 0.9) -> None:
        super().__init__()
        self.target, self.momentum = target, momentum
        self.register_buffer("average", torch.tensor(target))

    def forward(self, score: Tensor) -> Tensor:
        """Return the loss, a scalar, of raw scores s `[N, 1, rows, columns]`, and move the average in training."""
        share = score.sigmoid().mean((1, 2, 3))  # per image and not per place: pictures have a structure
        q = self.momentum * self.average + (1 - self.momentum) * share
        if self.training:
            self.average.copy_(q.detach().mean())
        return -(self.target * q.log() + (1 - self.target) * (1 - q).log()).mean()
