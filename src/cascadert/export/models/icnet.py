"""ICNet: three branches at full, half and quarter resolution, fused from the coarsest up.

Sources: Zhao et al., "ICNet for Real-Time Semantic Segmentation on High-Resolution Images", arXiv:1704.08545; the
public network of half the paper's width, as in hszhao/ICNet
``evaluation/prototxt/icnet_cityscapes_bnnomerge.prototxt``.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from cascadert.errors import NetworkError
from cascadert.export.models.resnet import (
    OUTPUT_STRIDE_8,
    EagerBottleneck,
    ResNet,
    ResNetShape,
    conv_norm_relu,
)

BINS = (1, 2, 3, 6)
SHARED_UNITS = 4  # conv2_1 to conv3_1: residual units that run at half resolution


def pool_geometry(length: int, bins: int) -> tuple[int, int]:
    """Kernel and stride of the average pooling of a map's side to `bins` values.

    The public network fixes them for a map of 33 x 65. This rule gives those numbers, and others for other maps: equal
    strides, bins of 3 that step by two bins of 6, and kernels long enough to reach the end.
    """
    steps = math.lcm(2, bins)
    stride = (length - 1) // steps * (steps // bins)
    return length - (bins - 1) * stride, stride


def _resize(x: torch.Tensor, size: list[int] | torch.Size) -> torch.Tensor:
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _halve(x: torch.Tensor) -> torch.Tensor:
    """Keep every second pixel: bilinear shrinking of 2m + 1 pixels to m + 1 with aligned corners reads just those."""
    return x[..., ::2, ::2]


class PyramidSum(nn.Module):
    """Adds context pooled to `BINS`, without weights: `[N, C, h, w]` to the same shape; h and w are 7 or more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to the same shape.

        Raises:
            NetworkError: a map too small for six bins.
        """
        height, width = x.shape[-2:]
        if min(height, width) <= max(BINS):
            found = f"reaches its pyramid as a map of {height}x{width}, which is too small for six bins"
            raise NetworkError("ICNet's image", found, "give images of 193 pixels or more each way")
        total = x
        for bins in BINS:
            (high, down), (wide, across) = pool_geometry(height, bins), pool_geometry(width, bins)
            pooled = functional.avg_pool2d(x, (high, wide), (down, across))
            total = total + _resize(pooled, [height, width])
        return total


class CascadeFusion(nn.Module):
    """Cascade feature fusion: a coarse map, enlarged, joins a fine one.

    Args:
        coarse: channels of the coarse map.
        fine: channels of the fine map.
        outputs: channels of the result.
    """

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Conv2d(coarse, outputs, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(outputs)
        )
        self.fine = nn.Sequential(nn.Conv2d(fine, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` and `[N, C', h', w']` to `[N, outputs, h', w']`."""
        fused: torch.Tensor = self.relu(self.coarse(_resize(coarse, fine.shape[-2:])) + self.fine(fine))
        return fused


class ICNet(nn.Module):
    """ICNet; its own enlarging by 4 included, since that aligns corners where a stage's does not.

    Images of 1025 x 2049 give the public network exactly. With other sizes maps are enlarged to the size of what they
    meet, and the pyramid follows `pool_geometry`; 32m + 1 pixels keep every grid aligned.

    The public weights expect BGR of 0 to 255 less its mean. This gives them RGB in that range::

        preprocessing = { mean = [0.485020, 0.457957, 0.407604], std = [0.003921569, 0.003921569, 0.003921569] }

    (123.68, 116.779 and 103.939 over 255; 1 / 255), and the two kernels that see pixels, ``sub2.0.0.0.weight`` and
    ``sub1.0.0.weight``, need ``.flip(1)``.

    Args:
        classes: number of classes K.
        width: channels of the first convolutions, which all others are multiples of; 32 is the public network.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        shape = ResNetShape((3, 4, 6, 3), stem=(width, width, 2 * width), width=width, **OUTPUT_STRIDE_8)
        backbone = ResNet(EagerBottleneck, shape)
        shared = backbone.layers[:SHARED_UNITS]
        self.sub2 = nn.Sequential(backbone.stem, shared)
        self.sub4 = nn.Sequential(
            backbone.layers[SHARED_UNITS:], PyramidSum(), conv_norm_relu(backbone.channels, 8 * width, 1)
        )
        self.sub1 = nn.Sequential(
            conv_norm_relu(3, width, stride=2),
            conv_norm_relu(width, width, stride=2),
            conv_norm_relu(width, 2 * width, stride=2),
        )
        self.fuse_sub24 = CascadeFusion(8 * width, backbone.widths[1], 4 * width)
        self.fuse_sub12 = CascadeFusion(4 * width, 2 * width, 4 * width)
        self.classifier = nn.Conv2d(4 * width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segments normalised images.

        Args:
            x: float images `[N, 3, H, W]`, H and W 193 or more.

        Returns:
            Logits `[N, K, H, W]`.

        Raises:
            NetworkError: images too small for the pyramid.
        """
        half = self.sub2(_halve(x))
        fused = self.fuse_sub24(self.sub4(_halve(half)), half)
        fused = self.fuse_sub12(fused, self.sub1(x))
        logits = self.classifier(_resize(fused, [math.ceil(side / 4) for side in x.shape[-2:]]))
        return _resize(logits, x.shape[-2:])


def icnet(classes: int, width: int = 32) -> ICNet:
    """Builds ICNet (6,671,424 convolution weights at 19 classes and the public width of 32) with fresh weights."""
    return ICNet(classes, width)
