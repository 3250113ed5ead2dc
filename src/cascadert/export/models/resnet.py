"""Residual backbones: any stem, number of units, stride and dilation; shared by every network that has one.

Sources: He et al., arXiv:1512.03385 (units); Yu et al., arXiv:1705.09914 (dilation in the place of stride); the deep
stem as in hszhao/semseg ``model/resnet.py``. Unit removal is that of Wu et al., arXiv:1712.00213: a layer keeps its
first units, the one that changes the width among them, and a layer of 0 units is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import torch
from torch import nn

from cascadert.export.models.backbone import Backbone


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Bias-free convolution that keeps the size (up to stride), batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: ``[N, C, H, W] -> [N, width, H/stride, W/stride]``."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to `[N, C', h/stride, w/stride]`."""
        y = self.relu(self.norm1(self.conv1(x)))
        out: torch.Tensor = self.relu(self.norm2(self.conv2(y)) + self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1: ``[N, C, H, W] -> [N, 4 * width, H/stride, W/stride]``."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to `[N, C', h/stride, w/stride]`."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        out: torch.Tensor = self.relu(self.norm3(self.conv3(y)) + self.shortcut(x))
        return out


class EagerBottleneck(Bottleneck):
    """A bottleneck whose stride is in its first 1x1 convolution, as in the original ResNet: a cheaper 3x3."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__(inputs, width, stride, dilation)
        self.conv1 = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)


class Block(Protocol):
    """What :class:`ResNet` needs of a class of residual units."""

    expansion: int

    def __call__(self, inputs: int, width: int, stride: int, dilation: int) -> nn.Module:
        """Return the unit."""
        ...


@dataclass(frozen=True)
class ResNetShape:
    """What a residual backbone is made of.

    Attributes:
        units: residual units in each of the four layers; 0 removes a layer.
        stem: widths of the three 3x3 convolutions of a deep stem, or of the one 7x7 convolution. The first has stride
            2, and so has the pooling after it.
        width: inner width of layer 1; every layer doubles it.
        strides, dilations: of each layer.
        gradual: the first unit of a layer keeps the dilation of the layer before, as torchvision's does.
    """

    units: tuple[int, int, int, int]
    stem: tuple[int, ...] = (64,)
    width: int = 64
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    dilations: tuple[int, int, int, int] = (1, 1, 1, 1)
    gradual: bool = False

    def dilation(self, layer: int, unit: int) -> int:
        """Dilation of one unit, both counted from 0."""
        return self.dilations[layer - 1] if self.gradual and unit == 0 and layer else self.dilations[layer]


class Resolution(TypedDict):
    """The part of a `ResNetShape` that decides about its output stride."""

    strides: tuple[int, int, int, int]
    dilations: tuple[int, int, int, int]


OUTPUT_STRIDE_8: Resolution = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}
OUTPUT_STRIDE_16: Resolution = {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)}
OUTPUT_STRIDE_32: Resolution = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}


class ResNet(Backbone):
    """Residual backbone, of four layers; the `widths` of a removed one are those of the layer before.

    Args:
        block: class of the residual units.
        shape: see `ResNetShape`.
    """

    def __init__(self, block: Block, shape: ResNetShape) -> None:
        stem = nn.Sequential(*_stem(shape.stem), nn.MaxPool2d(3, stride=2, padding=1))
        units: list[nn.Module] = []
        ends, widths, channels = [], [], shape.stem[-1]
        for layer, count in enumerate(shape.units):
            inner = shape.width * 2**layer
            for unit in range(count):
                stride = shape.strides[layer] if unit == 0 else 1
                units.append(block(channels, inner, stride, shape.dilation(layer, unit)))
                channels = inner * block.expansion
            ends.append(len(units))
            widths.append(channels)
        super().__init__(stem, units, ends, widths)
        self.shape = shape


def _stem(widths: Sequence[int]) -> list[nn.Module]:
    if len(widths) == 1:
        return [conv_norm_relu(3, widths[0], 7, stride=2)]
    inputs = (3, *widths)
    return [conv_norm_relu(inputs[i], inputs[i + 1], stride=2 if i == 0 else 1) for i in range(len(widths))]
