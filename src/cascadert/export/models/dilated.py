"""Backbones by name, at an output stride."""

from __future__ import annotations

from dataclasses import dataclass

from cascadert.errors import InvalidRequest
from cascadert.export.models.backbone import Backbone
from cascadert.export.models.mobilenet import MobileNetShape, MobileNetV2
from cascadert.export.models.resnet import (
    OUTPUT_STRIDE_8,
    OUTPUT_STRIDE_16,
    OUTPUT_STRIDE_32,
    BasicBlock,
    Block,
    Bottleneck,
    ResNet,
    ResNetShape,
)

RESNETS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
MOBILENET = "mobilenet-v2"
_RESOLUTIONS = {8: OUTPUT_STRIDE_8, 16: OUTPUT_STRIDE_16, 32: OUTPUT_STRIDE_32}


@dataclass(frozen=True)
class BackboneForm:
    """What public implementations of a backbone differ in; the defaults are torchvision's.

    Attributes:
        output_stride: 8, 16 or 32; below 32 by dilation in the place of stride.
        width: factor of all channels.
        gradual: residual networks only: the first unit of a layer keeps the dilation of the layer before.
        expanded: MobileNetV2 only: with its last 1x1 convolution, to 1280 channels.
    """

    output_stride: int = 8
    width: float = 1.0
    gradual: bool = True
    expanded: bool = False


def dilated_backbone(name: str, form: BackboneForm) -> Backbone:
    """Build a backbone, with fresh weights.

    Args:
        name: "resnet18", "resnet34", "resnet50", "resnet101" or "mobilenet-v2".
        form: see `BackboneForm`.

    Raises:
        InvalidRequest: an unknown name or output stride.
    """
    if form.output_stride not in _RESOLUTIONS:
        raise InvalidRequest("output_stride", f"is {form.output_stride}", "choose 8, 16 or 32")
    if name == MOBILENET:
        last = 1280 if form.expanded else None
        return MobileNetV2(MobileNetShape(width=form.width, output_stride=form.output_stride, last=last))
    if name not in RESNETS:
        raise InvalidRequest("backbone", f"is '{name}'", f"choose one of {', '.join(RESNETS)}, {MOBILENET}")
    block, units = RESNETS[name]
    width = round(64 * form.width)
    resolution = _RESOLUTIONS[form.output_stride]
    return ResNet(block, ResNetShape(units, stem=(width,), width=width, gradual=form.gradual, **resolution))
