"""PSPNet: a dilated residual backbone with a pyramid of pooled context.

Source: Zhao et al., "Pyramid Scene Parsing Network", arXiv:1612.01105; ResNet-50 form as in hszhao/semseg
``model/pspnet.py`` without its auxiliary head.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cascadert.export.models.resnet import (
    OUTPUT_STRIDE_8,
    BasicBlock,
    Bottleneck,
    ResNet,
    ResNetShape,
    conv_norm_relu,
)

BINS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """Appends context pooled to ``bins``: ``[N, C, h, w] -> [N, C + len(bins) * width, h, w]``."""

    def __init__(self, channels: int, width: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), conv_norm_relu(channels, width, 1)) for size in bins
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to `[N, C + the context of every bin, h, w]`."""
        size = x.shape[-2:]
        context = [
            functional.interpolate(branch(x), size=size, mode="bilinear", align_corners=False)
            for branch in self.branches
        ]
        return torch.cat((x, *context), 1)


class PSPNet(nn.Module):
    """PSPNet whose logits keep the backbone's stride of 8; the stage around it up-samples them.

    Args:
        backbone: feature extractor of output stride 8.
        classes: number of classes K.
        context: channels of each pyramid branch.
        hidden: channels of the 3x3 convolution before the classifier.
        enlarge: the image is enlarged by this first (bilinear), which makes the stride finer: 8 / enlarge.
    """

    def __init__(self, backbone: ResNet, classes: int, context: int, hidden: int, enlarge: float = 1.0) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.backbone = backbone
        self.pyramid = PyramidPooling(backbone.channels, context, BINS)
        self.head = nn.Sequential(
            conv_norm_relu(backbone.channels + len(BINS) * context, hidden),
            nn.Dropout2d(0.1),
            nn.Conv2d(hidden, classes, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segments normalised images.

        Args:
            x: float images ``[N, 3, H, W]``.

        Returns:
            Logits ``[N, K, ceil(H/8), ceil(W/8)]``, of the enlarged H and W.
        """
        if self.enlarge != 1.0:
            size = [round(side * self.enlarge) for side in x.shape[-2:]]
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        logits: torch.Tensor = self.head(self.pyramid(self.backbone(x)))
        return logits


def pspnet_r50(classes: int, deep_stem: bool = True) -> PSPNet:
    """Builds PSPNet on ResNet-50 (46,715,347 parameters at 19 classes) with fresh weights.

    Args:
        classes: number of classes K.
        deep_stem: three 3x3 convolutions come first; else one of 7x7.
    """
    return _pspnet(classes, (3, 4, 6, 3), deep_stem)


def pspnet_r101(classes: int, deep_stem: bool = True) -> PSPNet:
    """Builds PSPNet on ResNet-101 (65,707,475 parameters at 19 classes) with fresh weights; see :func:`pspnet_r50`."""
    return _pspnet(classes, (3, 4, 23, 3), deep_stem)


def _pspnet(classes: int, units: tuple[int, int, int, int], deep_stem: bool) -> PSPNet:
    stem = (64, 64, 128) if deep_stem else (64,)
    backbone = ResNet(Bottleneck, ResNetShape(units, stem=stem, **OUTPUT_STRIDE_8))
    return PSPNet(backbone, classes, context=512, hidden=512)


def pspnet_small(
    classes: int,
    width: int = 24,
    blocks: tuple[int, int, int, int] = (2, 2, 2, 1),
    hidden: int = 96,
    enlarge: float = 1.0,
) -> PSPNet:
    """Builds a PSPNet of basic blocks, small enough to train and run on a CPU.

    Args:
        classes: number of classes K.
        width: channels of the stem and of layer 1; layer 4 has eight times as many.
        blocks: residual blocks in each of the four layers.
        hidden: channels before the classifier.
        enlarge: factor by which the image is enlarged first; costs its square and needs no other weights.
    """
    backbone = ResNet(BasicBlock, ResNetShape(blocks, stem=(width, width, width), width=width, **OUTPUT_STRIDE_8))
    return PSPNet(backbone, classes, context=2 * width, hidden=hidden, enlarge=enlarge)
