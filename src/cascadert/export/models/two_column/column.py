"""One column of a two-column network: a residual backbone, the decoder on it and a classifier.

Source: Wu et al., arXiv:1712.00213, sections 3.1 and 3.5. Every unit has its stride in its first convolution, as in the
original ResNet: only that gives the costs of the paper's tables.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from cascadert.errors import NetworkError
from cascadert.export.models.resnet import (
    OUTPUT_STRIDE_8,
    OUTPUT_STRIDE_16,
    OUTPUT_STRIDE_32,
    EagerBottleneck,
    ResNet,
    ResNetShape,
    Resolution,
)
from cascadert.export.models.two_column.decoder import Decoder, DecoderShape, InColumn

Units = tuple[int, int, int, int]
"""Residual units of levels 2 to 5."""

OutputStride = Literal[8, 16, 32]

_RESOLUTIONS: dict[OutputStride, tuple[Resolution, tuple[int, ...]]] = {
    8: (OUTPUT_STRIDE_8, (2,)),
    16: (OUTPUT_STRIDE_16, (3, 2)),
    32: (OUTPUT_STRIDE_32, (4, 3, 2)),
}
"""Strides and dilations of the backbone, and the levels that a decoder joins to it: those finer than its output."""


def parse_units(units: str, columns: int) -> list[Units]:
    """Read residual units of levels 2 to 5, of one column after another: "1-1-2-0-1-2-4-1".

    Raises:
        NetworkError: another number of them, or no unit in a level other than 5, whose stride would be lost.
    """
    fields = units.split("-")
    counts = [int(field) for field in fields if field.isdecimal()]
    if not len(fields) == len(counts) == 4 * columns:
        raise NetworkError(f"units '{units}'", f"are not {4 * columns} numbers", "write levels 2 to 5 of each column")
    found = [(counts[i], counts[i + 1], counts[i + 2], counts[i + 3]) for i in range(0, len(counts), 4)]
    if any(0 in column[:3] for column in found):
        raise NetworkError(f"units '{units}'", "remove a level below 5, and its stride", "keep one unit of each")
    return found


def choose(name: str, value: object, allowed: object) -> None:
    """Refuse an argument that is none of a `Literal`'s values.

    Raises:
        NetworkError: it is not.
    """
    values = get_args(allowed)
    if value not in values:
        raise NetworkError(f"{name} = {value!r}", "is unknown", f"choose one of {', '.join(map(str, values))}")


class ResNetLevels(nn.Module):
    """Residual backbone that gives its levels by name: ``[N, 3, H, W]`` to "level2" `[N, 4 * width, H/4, W/4]` etc.

    Args:
        units: residual units of levels 2 to 5; a level 5 of 0 units is not there.
        width: inner width of level 2.
        output_stride: of levels that are coarser than that, the stride is replaced by dilation.
    """

    def __init__(self, units: Units, width: int, output_stride: OutputStride = 32) -> None:
        super().__init__()
        resolution, _ = _RESOLUTIONS[output_stride]
        self.resnet = ResNet(EagerBottleneck, ResNetShape(units, stem=(width,), width=width, **resolution))
        self.names = [f"level{level}" for level, count in enumerate(units, start=2) if count]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Map images `[N, 3, H, W]` to levels `[N, C, h, w]` by name, from fine to coarse."""
        return dict(zip(self.names, self.resnet.levels(image), strict=True))

    def channels(self, joined: tuple[int, ...] = (4, 3, 2)) -> dict[str, int]:
        """Channels of level 5, if there is one, and of those joined to it, from coarse to fine."""
        names = [name for name in (f"level{level}" for level in (5, *joined)) if name in self.names]
        return {name: self.resnet.widths[int(name[-1]) - 2] for name in names}


class Scores(NamedTuple):
    """What a column gives.

    Attributes:
        logits: `[N, K, H/4, W/4]` of the column's own image.
        maps: of the decoder, from coarse to fine; of the last, the logits are a linear function.
        coarsest: the backbone's last level.
    """

    logits: Tensor
    maps: list[Tensor]
    coarsest: Tensor


class Column(nn.Module):
    """A column that sees its whole image; on its own, a single-column network of the paper's table 1.

    Args:
        classes: number of classes K.
        units: residual units of levels 2 to 5.
        width: inner width of level 2.
        shape: see `DecoderShape`.
        output_stride: of the backbone; the decoder brings it to 4.
    """

    def __init__(
        self, classes: int, units: Units, width: int, shape: DecoderShape, output_stride: OutputStride = 32
    ) -> None:
        super().__init__()
        self.backbone = ResNetLevels(units, width, output_stride)
        channels = self.backbone.channels(_RESOLUTIONS[output_stride][1])
        self.in_column = InColumn(channels, shape, kernel=3)
        self.decoder = Decoder(channels, shape, kernel=3)
        kernel = 3 if output_stride == 8 else 1  # section 4.2: of 3x3 in the first network only
        self.classifier = nn.Conv2d(self.decoder.widths[-1], classes, kernel, padding=kernel // 2)

    def forward(self, image: Tensor) -> Scores:
        """Map images `[N, 3, H, W]` to logits `[N, K, H/4, W/4]` and what they were made of."""
        levels = self.backbone(image)
        maps = self.decoder(self.in_column(levels))
        return Scores(self.classifier(maps[-1]), maps, levels[self.backbone.names[-1]])
