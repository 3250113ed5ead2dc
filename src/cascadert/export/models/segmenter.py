"""A backbone and one head that reads its last map."""

from __future__ import annotations

import torch
from torch import nn

from cascadert.export.models.backbone import Backbone


class Segmenter(nn.Module):
    """Logits at the backbone's output stride; the stage around it up-samples them."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised images `[N, 3, H, W]` to logits `[N, K, ceil(H/s), ceil(W/s)]`."""
        logits: torch.Tensor = self.head(self.backbone(x))
        return logits
