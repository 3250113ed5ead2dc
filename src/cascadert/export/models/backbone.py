"""What all backbones have in common: a stem and one row of units, which can be cut between any two of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn


class Backbone(nn.Module):
    """Feature extractor: ``[N, 3, H, W] -> [N, channels, H/s, W/s]``, s the output stride (rounded up).

    Args:
        stem: what comes before the row.
        units: the row, kept as `layers`.
        ends: where each of the levels ends, which are the strides 4, 8, 16 and 32 of the undilated network.
        widths: channels at each of the ends.
    """

    def __init__(self, stem: nn.Sequential, units: Iterable[nn.Module], ends: Sequence[int], widths: Sequence[int]):
        super().__init__()
        self.stem = stem
        self.layers = nn.Sequential(*units)
        self.ends, self.widths, self.channels = tuple(ends), tuple(widths), widths[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, 3, H, W]` to features `[N, C, H/s, W/s]`."""
        features: torch.Tensor = self.layers(self.stem(x))
        return features

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map `[N, 3, H, W]` to what each of the levels ends with; removed layers add nothing to the list."""
        features, found = self.stem(x), []
        for index, unit in enumerate(self.layers, start=1):
            features = unit(features)
            if index in self.ends:
                found.append(features)
        return found
