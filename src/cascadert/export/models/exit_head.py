"""The heads that an exit may have: fewer channels, more convolutions, wider ones, FCN or DeepLab.

Source: Kouris et al., arXiv:2106.03527 (paper 004), the architectural space of one exit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from cascadert.errors import InvalidRequest
from cascadert.export.models.deeplab import DeepLabHead
from cascadert.export.models.fcn import FCNHead
from cascadert.export.models.resnet import conv_norm_relu

HeadKind = Literal["fcn", "deeplab"]

REDUCTIONS = (1, 2, 4, 8)
BLOCKS = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class ExitHead:
    """One of the 64 heads that an exit may have.

    Attributes:
        head: what makes the logits.
        reduction: factor by which a 1x1 convolution first reduces the channels; 1 is none.
        blocks: 3x3 convolutions before the head.
        rapid_dilation: each of them doubles the dilation, 2, 4, 8, in the place of 1; changes nothing without blocks.

    Raises:
        InvalidRequest: a value that is none of the options.
    """

    head: HeadKind = "fcn"
    reduction: int = 1
    blocks: int = 0
    rapid_dilation: bool = False

    def __post_init__(self) -> None:
        options = {
            "head": get_args(HeadKind),
            "reduction": REDUCTIONS,
            "blocks": BLOCKS,
            "rapid_dilation": (False, True),
        }
        for name, allowed in options.items():
            value = getattr(self, name)
            if value not in allowed:
                raise InvalidRequest(
                    f"{name} of an exit", f"is {value!r}", f"choose one of {', '.join(map(str, allowed))}"
                )

    def dilation(self, block: int) -> int:
        """Dilation of one 3x3 convolution, counted from 0."""
        return 2 ** (block + 1) if self.rapid_dilation else 1


def exit_heads() -> tuple[ExitHead, ...]:
    """Return all heads that an exit may have, the plain FCN head first."""
    options = itertools.product(get_args(HeadKind), (False, True), BLOCKS, REDUCTIONS)
    return tuple(
        ExitHead(head=head, rapid_dilation=rapid, blocks=blocks, reduction=reduction)
        for head, rapid, blocks, reduction in options
    )


def exit_network(inputs: int, classes: int, head: ExitHead, deeplab_channels: int = 256) -> nn.Sequential:
    """Build the network of an exit: features `[N, inputs, h, w]` to logits `[N, classes, h, w]`.

    Raises:
        InvalidRequest: the reduction leaves too few channels for an FCN head, which has a quarter of them inside.
    """
    channels = inputs // head.reduction
    if channels < 4:
        found = f"leaves {channels} of {inputs} channels"
        raise InvalidRequest(f"reduction {head.reduction} of an exit", found, "reduce less, or exit later")
    reduce = [conv_norm_relu(inputs, channels, 1)] if head.reduction > 1 else []
    blocks = [conv_norm_relu(channels, channels, dilation=head.dilation(block)) for block in range(head.blocks)]
    if head.head == "fcn":
        return nn.Sequential(*reduce, *blocks, FCNHead(channels, classes))
    return nn.Sequential(*reduce, *blocks, DeepLabHead(channels, classes, deeplab_channels))
