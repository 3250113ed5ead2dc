"""FCN: a backbone and two convolutions.

Source: Long et al., "Fully Convolutional Networks for Semantic Segmentation", arXiv:1411.4038, in the one-headed
dilated form of torchvision's ``fcn_resnet50``, without its auxiliary head.
"""

from __future__ import annotations

import torch
from torch import nn

from cascadert.export.models.dilated import BackboneForm, dilated_backbone
from cascadert.export.models.resnet import conv_norm_relu
from cascadert.export.models.segmenter import Segmenter


class FCNHead(nn.Module):
    """A 3x3 convolution and a classifier: ``[N, C, h, w] -> [N, K, h, w]``.

    Args:
        inputs: channels C of the features that it reads.
        classes: number of classes K.
        channels: channels between the two; a quarter of the inputs where it is not given.
        dilation: of the 3x3 convolution.
    """

    def __init__(self, inputs: int, classes: int, channels: int | None = None, dilation: int = 1) -> None:
        super().__init__()
        self.channels = inputs // 4 if channels is None else channels
        self.features = nn.Sequential(conv_norm_relu(inputs, self.channels, dilation=dilation), nn.Dropout(0.1))
        self.classifier = nn.Conv2d(self.channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features `[N, C, h, w]` to logits `[N, K, h, w]`."""
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits


def fcn(classes: int, backbone: str = "resnet50", output_stride: int = 8, width: float = 1.0) -> Segmenter:
    """Builds FCN (32,957,013 parameters on ResNet-50 at 21 classes) with fresh weights.

    Args:
        classes: number of classes K.
        backbone: see :func:`~cascadert.export.models.dilated.dilated_backbone`.
        output_stride: 8, 16 or 32; that of the logits too.
        width: factor of the backbone's channels; 0.125 makes a network for CPUs and tests.
    """
    extractor = dilated_backbone(backbone, BackboneForm(output_stride, width))
    return Segmenter(extractor, FCNHead(extractor.channels, classes))
