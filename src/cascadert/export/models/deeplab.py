"""DeepLabV3 and DeepLabV3+: context from parallel dilated convolutions.

Sources: Chen et al., arXiv:1706.05587, in the form of torchvision's ``deeplabv3_resnet50`` without its auxiliary head;
Chen et al., arXiv:1802.02611, in the form of ``DeepLabV3Plus`` of segmentation_models.pytorch.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cascadert.export.models.backbone import Backbone
from cascadert.export.models.dilated import BackboneForm, dilated_backbone
from cascadert.export.models.resnet import conv_norm_relu
from cascadert.export.models.segmenter import Segmenter

RATES = (12, 24, 36)
_LOW_LEVEL_CHANNELS = 48


def separable_conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 and pointwise convolution, nothing between them; then batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP): ``[N, C, h, w] -> [N, channels, h, w]``.

    Args:
        inputs: channels C.
        channels: of each branch, and of the result.
        rates: dilations of the 3x3 branches, which stand beside a 1x1 convolution and the mean of the map.
        separable: the 3x3 branches are depthwise separable.
    """

    def __init__(self, inputs: int, channels: int, rates: tuple[int, ...], separable: bool) -> None:
        super().__init__()
        wide = [
            separable_conv(inputs, channels, rate) if separable else conv_norm_relu(inputs, channels, dilation=rate)
            for rate in rates
        ]
        self.branches = nn.ModuleList([conv_norm_relu(inputs, channels, 1), *wide])
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_norm_relu(inputs, channels, 1))
        self.project = nn.Sequential(conv_norm_relu((len(rates) + 2) * channels, channels, 1), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[N, C, h, w]` to `[N, C', h, w]`."""
        mean = functional.interpolate(self.mean(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        joined: torch.Tensor = self.project(torch.cat((*(branch(x) for branch in self.branches), mean), 1))
        return joined


class DeepLabHead(nn.Module):
    """ASPP, a 3x3 convolution and a classifier: ``[N, C, h, w] -> [N, K, h, w]``.

    Args:
        inputs: channels C of the features that it reads.
        classes: number of classes K.
        channels: channels of the pyramid and of what the classifier reads.
        rates: dilations of the pyramid.
    """

    def __init__(self, inputs: int, classes: int, channels: int = 256, rates: tuple[int, ...] = RATES) -> None:
        super().__init__()
        self.channels, self.rates = channels, rates
        pyramid = AtrousPyramid(inputs, channels, rates, separable=False)
        self.features = nn.Sequential(pyramid, conv_norm_relu(channels, channels))
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features `[N, C, h, w]` to logits `[N, K, h, w]`."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+: the pyramid of the last map, joined with the first at stride 4, which is that of the logits.

    Args:
        backbone: feature extractor whose first level has stride 4.
        classes: number of classes K.
        channels: of the pyramid and the decoder.
    """

    def __init__(self, backbone: Backbone, classes: int, channels: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.context = nn.Sequential(
            AtrousPyramid(backbone.channels, channels, RATES, separable=True), separable_conv(channels, channels)
        )
        self.low_level = conv_norm_relu(backbone.widths[0], _LOW_LEVEL_CHANNELS, 1)
        self.decoder = separable_conv(_LOW_LEVEL_CHANNELS + channels, channels)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised images `[N, 3, H, W]` to logits `[N, K, ceil(H/4), ceil(W/4)]`."""
        low, *_, high = self.backbone.levels(x)
        # Corners aligned, as in the implementation that weights come from (nn.UpsamplingBilinear2d).
        context = functional.interpolate(self.context(high), size=low.shape[-2:], mode="bilinear", align_corners=True)
        logits: torch.Tensor = self.classifier(self.decoder(torch.cat((context, self.low_level(low)), 1)))
        return logits


def deeplabv3(
    classes: int, backbone: str = "resnet50", output_stride: int = 8, width: float = 1.0, channels: int = 256
) -> Segmenter:
    """Builds DeepLabV3 (39,638,869 parameters on ResNet-50 at 21 classes) with fresh weights.

    Args:
        classes: number of classes K.
        backbone: see :func:`~cascadert.export.models.dilated.dilated_backbone`.
        output_stride: 8, 16 or 32; that of the logits too.
        width: factor of the backbone's channels; 0.125 and 16 `channels` make a network for CPUs and tests.
        channels: of the head.
    """
    extractor = dilated_backbone(backbone, BackboneForm(output_stride, width))
    return Segmenter(extractor, DeepLabHead(extractor.channels, classes, channels))


def deeplabv3_plus(
    classes: int, backbone: str = "resnet50", output_stride: int = 16, width: float = 1.0, channels: int = 256
) -> DeepLabV3Plus:
    """Builds DeepLabV3+ (26,682,211 parameters on ResNet-50 at 19 classes) with fresh weights.

    Args:
        classes: number of classes K.
        backbone: see :func:`~cascadert.export.models.dilated.dilated_backbone`; MobileNetV2 with its last convolution.
        output_stride: 8, 16 or 32, of the backbone; that of the logits is 4.
        width: factor of the backbone's channels; 0.125 and 16 `channels` make a network for CPUs and tests.
        channels: of the pyramid and the decoder.
    """
    form = BackboneForm(output_stride, width, gradual=False, expanded=True)
    return DeepLabV3Plus(dilated_backbone(backbone, form), classes, channels)
