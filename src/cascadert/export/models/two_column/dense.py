"""Networks of one or several columns that see the whole image at several resolutions, fused: the paper's baselines.

Source: Wu et al., arXiv:1712.00213, section 3.2 and tables 1 and 2; attention to scale is that of Chen et al.,
arXiv:1511.03339. The form of the attention layers is not stated: here one 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cascadert.export.models.two_column.column import Column, OutputStride, Scores, choose, parse_units
from cascadert.export.models.two_column.decoder import DECODERS, DecoderName, rescale

Fusing = Literal["sum", "max", "attention", "coarse-to-fine"]


class DenseColumns(nn.Module):
    """Columns of the same image at several resolutions; the finest gives the size of the logits.

    Args:
        columns: one for each resolution.
        scales: of each column's image, the finest first.
        fusing: "sum" and "max" of the columns' logits, or their sum weighted per pixel: with weights of all columns
            ("attention"), or of the coarsest alone ("coarse-to-fine").
    """

    def __init__(self, columns: Sequence[Column], scales: Sequence[float], fusing: Fusing) -> None:
        super().__init__()
        self.columns, self.scales, self.fusing = nn.ModuleList(columns), tuple(scales), fusing
        self.attention: nn.Conv2d | None = None
        if fusing in ("attention", "coarse-to-fine"):
            seen = columns if fusing == "attention" else columns[-1:]
            self.attention = nn.Conv2d(sum(column.decoder.widths[-1] for column in seen), len(columns), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map images `[N, 3, H, W]` to logits `[N, K, h, w]` at 1/4 of the finest column's image."""
        given: list[Scores] = [
            column(image if scale == 1 else rescale(image, scale))
            for column, scale in zip(self.columns, self.scales, strict=True)
        ]
        size = given[0].logits.shape[-2:]
        logits = [_resize(scores.logits, size) for scores in given]
        if self.fusing == "max":
            return reduce(torch.maximum, logits)
        if self.attention is not None:
            seen = given if self.fusing == "attention" else given[-1:]
            maps = torch.cat([_resize(scores.maps[-1], size) for scores in seen], 1)
            weights = self.attention(maps).softmax(1).split(1, 1)
            logits = [weight * column for weight, column in zip(weights, logits, strict=True)]
        return sum(logits[1:], logits[0])


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if maps.shape[-2:] == tuple(size):
        return maps
    return functional.interpolate(maps, size=list(size), mode="bilinear", align_corners=False)


def dense_columns(
    classes: int,
    units: str = "3-4-6-3-3-4-6-3",
    scales: Sequence[float] = (1.0, 0.5),
    fusing: Fusing = "max",
    output_stride: OutputStride = 32,
    decoder: DecoderName = "basic",
    width: int = 64,
) -> DenseColumns:
    """Builds columns that see the whole image, with fresh weights.

    Args:
        classes: number of classes K.
        units: residual units of levels 2 to 5, one column after another: "3-4-6-3" for each.
        scales: of each column's image, the finest first; one column makes a network of table 1.
        fusing: see `DenseColumns`.
        output_stride: of the backbones: 8, 16 or 32.
        decoder: "basic" or "optimised".
        width: inner width of level 2; the decoder's widths follow.

    Raises:
        NetworkError: an argument is none of those named.
    """
    choose("fusing", fusing, Fusing)
    choose("output_stride", output_stride, OutputStride)
    choose("decoder", decoder, DecoderName)
    shape = DECODERS[decoder].scaled(width)
    columns = [Column(classes, column, width, shape, output_stride) for column in parse_units(units, len(scales))]
    return DenseColumns(columns, scales, fusing)
