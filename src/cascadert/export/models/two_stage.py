"""The networks of the two-stage system with context: a first stage on the small image, a second on patches.

Source: Cruz et al., "Two-Stage Framework for Faster Semantic Segmentation", Sensors 23(6), 2023 (paper 001), algorithm
1, and its code, rpmcruz/faster-segmentation. Both stages have one architecture. What the first computes before its
last convolution is the *context* of the second, which adds it to its own before the same convolution. Pixels are of 0
to 1: ``preprocessing = { mean = [0, 0, 0], std = [1, 1, 1] }``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from cascadert.export.models.backbone import Backbone
from cascadert.export.models.deeplab import DeepLabHead
from cascadert.export.models.dilated import BackboneForm, dilated_backbone
from cascadert.export.models.encoder_decoder import EncoderDecoder
from cascadert.export.models.fcn import FCNHead
from cascadert.export.models.resnet import ResNet

Net = Literal["deeplabv3", "fcn", "unet", "segnet"]
Role = Literal["first", "second"]


class HeadFeatures(nn.Module):
    """What a head computes before its classifier, at the image's size: ``[N, 3, H, W] -> [N, channels, H, W]``."""

    def __init__(self, backbone: Backbone, head: DeepLabHead | FCNHead) -> None:
        super().__init__()
        self.backbone, self.features, self.channels = backbone, head.features, head.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised images `[N, 3, H, W]` to `[N, C, H, W]`."""
        features = self.features(self.backbone(x))
        return functional.interpolate(features, size=x.shape[-2:], mode="bilinear", align_corners=False)


class TwoStageNetwork(nn.Module):
    """A network of either stage: `body` makes the features, `final` the logits.

    All forms have these two parts and no other, so that the weights of one load into any other: the paper fine-tunes
    the second network from the first.

    Args:
        body: `[N, 3, H, W]` to features `[N, C, H, W]`.
        classes: channels of the logits; 1 is a binary task.
    """

    def __init__(self, body: HeadFeatures | EncoderDecoder, classes: int) -> None:
        super().__init__()
        self.body = body
        self.final = nn.Conv2d(body.channels, classes, 3, padding=1)


class WithoutContext(TwoStageNetwork):
    """Either stage where none hands features to the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map normalised images or patches `[N, 3, H, W]` to logits `[N, K, H, W]`."""
        logits: torch.Tensor = self.final(self.body(x))
        return logits


class GivesContext(TwoStageNetwork):
    """The first stage."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map normalised images `[N, 3, H, W]` to "logits" `[N, K, H, W]` and "features" `[N, C, H, W]`."""
        features = self.body(x)
        return {"logits": self.final(features), "features": features}


class TakesContext(TwoStageNetwork):
    """The second stage."""

    def forward(self, patch: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Segments patches.

        Args:
            patch: normalised pixels `[n, 3, P, Q]`.
            context: the first stage's features of each patch, `[n, C, P/r, Q/r]`: they are enlarged here, by the
                nearest, so that r * r times less travels between the stages.

        Returns:
            Logits `[n, K, P, Q]`.
        """
        features = self.body(patch)
        logits: torch.Tensor = self.final(
            features + functional.interpolate(context, size=features.shape[-2:], mode="nearest")
        )
        return logits


def two_stage(
    net: Net,
    role: Role,
    classes: int = 1,
    context: bool = True,
    backbone: str = "resnet50",
    width: float = 1.0,
) -> TwoStageNetwork:
    """Builds a network of the two-stage system with fresh weights.

    Args:
        net: the architecture; the features have 256, 512, 32 and 32 channels for "deeplabv3", "fcn", "unet", "segnet".
        role: "first" also returns its features, "second" also takes them.
        classes: channels of the logits; 1 is a binary task, as in the paper.
        context: without it either role maps pixels to logits, and the two stages are one graph with other weights.
        backbone: see :func:`~cascadert.export.models.dilated.dilated_backbone`; a residual one for "unet" and "segnet".
        width: factor of all channels; 0.125 on "resnet18" makes a network for CPUs and tests.

    Raises:
        ValueError: an unknown `net`, `role` or `backbone`.
    """
    if role not in ("first", "second"):
        raise ValueError(f"role is '{role}', not one of first, second")
    form = GivesContext if role == "first" else TakesContext
    return (form if context else WithoutContext)(_body(net, backbone, width), classes)


def _body(net: Net, backbone: str, width: float) -> HeadFeatures | EncoderDecoder:
    extractor = dilated_backbone(backbone, BackboneForm(8 if net in ("deeplabv3", "fcn") else 32, width))
    if net == "deeplabv3":
        return HeadFeatures(extractor, DeepLabHead(extractor.channels, 1, round(256 * width)))
    if net == "fcn":
        return HeadFeatures(extractor, FCNHead(extractor.channels, 1))
    if net not in ("unet", "segnet"):
        raise ValueError(f"net is '{net}', not one of deeplabv3, fcn, unet, segnet")
    if not isinstance(extractor, ResNet):
        raise ValueError(f"backbone is '{backbone}', but '{net}' needs a residual one")
    return EncoderDecoder(extractor, skips=net == "unet")
