"""The decoder of one column: features joined from coarse to fine, as in SharpMask.

Source: Wu et al., "Real-time Semantic Image Segmentation via Spatial Sparsity", arXiv:1712.00213, sections 3.1 and 3.4.
Its figure 4 gives the layers; those here are the ones that cost what its tables 1 to 5 say. The order of normalisation
and activation is not stated: here each sum is normalised once, after the last term, so that its terms are linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

Features = Mapping[str, Tensor]
"""Levels of a backbone by name, "level2" at 1/4 of its image to "level5" at 1/32."""

_DILATIONS = (3, 6, 12)  # of the hidden layers, the last at 1/8 of the column's image


@dataclass(frozen=True)
class DecoderShape:
    """Widths of a decoder's layers.

    Attributes:
        hidden: channels of the hidden layers, from coarse to fine.
        groups: of the layer on level 5 and of the in-column connections of levels 4, 3 and 2.
        crop_kernel: size of the kernel on level 5 in the full-resolution column; 3 in every other.
    """

    hidden: tuple[int, int, int] = (128, 128, 128)
    groups: tuple[int, int, int, int] = (1, 1, 1, 1)
    crop_kernel: int = 3

    def scaled(self, width: int) -> DecoderShape:
        """Fit it to a backbone whose first layer is `width` wide in place of 64."""
        first, second, third = (channels * width // 64 for channels in self.hidden)
        return replace(self, hidden=(first, second, third))


DecoderName = Literal["basic", "optimised"]

DECODERS: dict[DecoderName, DecoderShape] = {
    "basic": DecoderShape(),
    "optimised": DecoderShape(hidden=(128, 64, 32), groups=(8, 8, 4, 2), crop_kernel=1),
}


class InColumn(nn.ModuleDict):
    """The in-column connections: a 1x1 convolution of each level that a decoder joins.

    They have no bias, so on maps that are zero somewhere they give zero there: it makes no difference whether they run
    on crops or on full maps. Level 5 is among them if the decoder's kernel on it is 1x1, and passes as it is otherwise.

    Args:
        channels: of each level, from coarse to fine.
        shape: see `DecoderShape`.
        kernel: size of the kernel on level 5.
    """

    def __init__(self, channels: Mapping[str, int], shape: DecoderShape, kernel: int) -> None:
        joined = [name for name in channels if name != "level5"]
        outputs = dict(zip(joined, shape.hidden[: len(joined)], strict=True))
        groups = dict(zip(("level5", "level4", "level3", "level2"), shape.groups, strict=True))
        if "level5" in channels and kernel == 1:
            outputs["level5"] = shape.hidden[0]
        super().__init__(
            {name: nn.Conv2d(channels[name], outputs[name], 1, groups=groups[name], bias=False) for name in outputs}
        )

    def forward(self, levels: Features) -> dict[str, Tensor]:
        """Map each level `[N, C, h, w]` to `[N, hidden, h, w]`."""
        return {name: self[name](level) if name in self else level for name, level in levels.items()}


class Decoder(nn.Module):
    """Joins what `InColumn` gives of the levels: each hidden layer, enlarged by 2, and the next finer level.

    Args:
        channels: of each level of the backbone, from coarse to fine; without level 5, the first map is what the others
            give: the cross-column connection, or level 4 alone.
        shape: see `DecoderShape`.
        kernel: size of the kernel on level 5, 3 or 1; one of 1x1 is in `InColumn`.
        crossed: cross-column connections: a 3x3 convolution of another decoder's map joins each hidden layer.
    """

    def __init__(self, channels: Mapping[str, int], shape: DecoderShape, kernel: int, *, crossed: bool = False) -> None:
        super().__init__()
        self.joined = [name for name in channels if name != "level5"]
        hidden, dilations = shape.hidden[: len(self.joined)], _DILATIONS[-len(self.joined) :]
        self.top: nn.Module | None = None
        if "level5" in channels:
            top = [_convolution(channels["level5"], hidden[0], dilations[0], shape.groups[0])] if kernel == 3 else []
            self.top = _normalised(hidden[0], *top)
        self.hidden = nn.ModuleList(
            _normalised(outputs, _convolution(inputs, outputs, dilation))
            for (inputs, outputs), dilation in zip(pairwise(hidden), dilations[1:], strict=True)
        )
        self.crosses = nn.ModuleList(_convolution(width, width) for width in (hidden if crossed else ()))
        self.sums = nn.ModuleList(_normalised(width) for width in hidden)
        self.widths = hidden

    def forward(self, levels: Features, crosses: Sequence[Tensor] = ()) -> list[Tensor]:
        """Map levels `[N, hidden, h, w]`, and a map for each hidden layer, to the joined maps, from coarse to fine."""
        maps: list[Tensor] = []
        for index, name in enumerate(self.joined):
            terms: list[Tensor] = []
            if maps:
                terms.append(self.hidden[index - 1](maps[-1]))
            elif self.top is not None:
                terms.append(self.top(levels["level5"]))
            if self.crosses:
                terms.append(self.crosses[index](crosses[index]))
            joined = levels[name]
            if terms:
                joined = joined + rescale(sum(terms[1:], terms[0]), 2)
            maps.append(self.sums[index](joined))
        return maps


def rescale(maps: Tensor, factor: float) -> Tensor:
    """Resize `[N, C, h, w]` by bilinear interpolation."""
    return functional.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def _convolution(inputs: int, outputs: int, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, groups=groups, bias=False)


def _normalised(channels: int, *before: nn.Module) -> nn.Sequential:
    return nn.Sequential(*before, nn.BatchNorm2d(channels), nn.ReLU())
