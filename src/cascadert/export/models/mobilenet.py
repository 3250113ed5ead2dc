"""MobileNetV2 as a backbone: any width and output stride.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, table 2; layers as
in torchvision's ``mobilenet_v2``, without its classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cascadert.export.models.backbone import Backbone

Rows = tuple[tuple[int, int, int, int], ...]

# Expansion, channels, units, and stride of the first unit.
_ROWS: Rows = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6()
    )


def _depthwise(channels: int, stride: int, dilation: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expansion, depthwise 3x3, projection without activation: ``[N, C, H, W] -> [N, C', H/stride, W/stride]``."""

    def __init__(self, channels: tuple[int, int], expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        inputs, outputs = channels
        inner = inputs * expansion
        self.expand = nn.Identity() if expansion == 1 else _conv(inputs, inner)
        self.depthwise = _depthwise(inner, stride, dilation)
        self.project = nn.Sequential(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to `[N, C', h/stride, w/stride]`."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


@dataclass(frozen=True)
class MobileNetShape:
    """What a MobileNetV2 is made of.

    Attributes:
        width: factor of all channels, which are then rounded to multiples of 8.
        output_stride: 4, 8, 16 or 32; strides beyond it become dilations, of the unit that has the stride too.
        last: channels of the last 1x1 convolution, which `width` may widen and does not narrow; None leaves it out.
        rows: expansion, channels, units, and stride of the first unit.
    """

    width: float = 1.0
    output_stride: int = 32
    last: int | None = None
    rows: Rows = _ROWS

    def channels(self, nominal: int) -> int:
        """Channels of a layer that has `nominal` ones at width 1."""
        scaled = nominal * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded


class MobileNetV2(Backbone):
    """MobileNetV2 without its classifier; the last 1x1 convolution, where there is one, is the last unit of the row."""

    def __init__(self, shape: MobileNetShape) -> None:
        channels = shape.channels(32)
        stem = _conv(3, channels, 3, stride=2)
        units: list[nn.Module] = []
        ends, widths, stride, dilation = [], [], 2, 1
        for expansion, nominal, count, step in shape.rows:
            if step > 1 and stride > 2:
                ends.append(len(units))
                widths.append(channels)
            outputs, taken = shape.channels(nominal), step if stride * step <= shape.output_stride else 1
            stride, dilation = stride * taken, dilation * step // taken
            for unit in range(count):
                units.append(InvertedResidual((channels, outputs), expansion, taken if unit == 0 else 1, dilation))
                channels = outputs
        if shape.last is not None:
            outputs = max(shape.last, shape.channels(shape.last))
            units.append(_conv(channels, outputs))
            channels = outputs
        super().__init__(stem, units, [*ends, len(units)], [*widths, channels])
