"""U-Net and SegNet on a residual backbone, up to the map that their last convolution reads.

Source: Cruz et al., "Two-Stage Framework for Faster Semantic Segmentation", Sensors 23(6), 2023 (paper 001), section 4,
and its code, rpmcruz/faster-segmentation ``src/models.py``. Unlike the networks they are named after, neither has
activations or normalisation in its decoder, and SegNet no un-pooling.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cascadert.export.models.resnet import ResNet


class EncoderDecoder(nn.Module):
    """Five halvings and five doublings: ``[N, 3, H, W] -> [N, channels, H, W]``.

    The max pooling of the backbone's stem comes after its first layer, not before, so that each of the five encoders
    halves the map once. Each decoder is a 3x3 convolution, then nearest interpolation to the size of the map that its
    encoder read.

    Args:
        backbone: feature extractor of output stride 32.
        skips: each decoder reads its encoder's result beside the map from below (U-Net), or only the latter (SegNet).
    """

    def __init__(self, backbone: ResNet, skips: bool) -> None:
        super().__init__()
        self.backbone, self.skips = backbone, skips
        stem = backbone.shape.stem[-1]
        self.channels = stem // 2
        encoded = (stem, *backbone.widths)
        decoded = (self.channels, *encoded[:-1])
        self.decoders = nn.ModuleList(
            nn.Conv2d(inputs * (2 if skips else 1), outputs, 3, padding=1)
            for inputs, outputs in zip(encoded[::-1], decoded[::-1], strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised images `[N, 3, H, W]` to `[N, C, H, W]`; H and W are best multiples of 32."""
        encoded = self._encode(x)
        features = encoded[-1]
        for result, source, decoder in zip(encoded[::-1], [*encoded[-2::-1], x], self.decoders, strict=True):
            features = decoder(torch.cat((result, features), 1) if self.skips else features)
            features = functional.interpolate(features, size=source.shape[-2:], mode="nearest")
        return features

    def _encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        *convolutions, pool = self.backbone.stem
        for layer in convolutions:
            x = layer(x)
        found = [x]
        for index, unit in enumerate(self.backbone.layers, start=1):
            x = unit(x)
            if index == self.backbone.ends[0]:
                x = pool(x)
            if index in self.backbone.ends:
                found.append(x)
        return found
