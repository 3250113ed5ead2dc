"""Dilated residual backbones of output stride 8.

Source: He et al., arXiv:1512.03385; deep stem and dilations as in hszhao/semseg ``model/resnet.py`` and
``model/pspnet.py`` (layer 3 and 4 keep stride 1 and are dilated by 2 and 4).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Bias-free convolution that keeps the size (up to stride), batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
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


class Block(Protocol):
    """What :class:`DilatedResNet` needs of a residual block class."""

    expansion: int

    def __call__(self, inputs: int, width: int, stride: int, dilation: int) -> nn.Module:
        """Return the block."""
        ...


class DilatedResNet(nn.Module):
    """Residual backbone of output stride 8: ``[N, 3, H, W] -> [N, channels, H/8, W/8]`` (rounded up).

    Args:
        block: residual block class.
        blocks: number of residual blocks in each of the four layers.
        stem: widths of the three 3x3 convolutions of the stem; the first has stride 2.
        width: inner width of layer 1; every layer doubles it.
    """

    def __init__(self, block: Block, blocks: tuple[int, int, int, int], stem: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm_relu(3, stem[0], stride=2),
            conv_norm_relu(stem[0], stem[1]),
            conv_norm_relu(stem[1], stem[2]),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        layers: list[nn.Module] = []
        channels = stem[2]
        for depth, count in enumerate(blocks):
            stride = 2 if depth == 1 else 1
            dilation = (1, 1, 2, 4)[depth]
            inner = width * 2**depth
            for index in range(count):
                layers.append(block(channels, inner, stride if index == 0 else 1, dilation))
                channels = inner * block.expansion
        self.layers = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, 3, H, W]` to features `[N, C, H/8, W/8]`."""
        features: torch.Tensor = self.layers(self.stem(x))
        return features
