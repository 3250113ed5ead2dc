"""The sparse two-column network, SCTF and ISCTF: its full-resolution column computes only some regions of the image.

Source: Wu et al., "Real-time Semantic Image Segmentation via Spatial Sparsity", arXiv:1712.00213, sections 3.3 to 3.5.
Its parts are the networks of three stages: `half_column` on the halved frame, `crops` on the regions chosen, `fuse` on
what both hand over. What the paper leaves open is a field of `TwoColumnShape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from cascadert.errors import NetworkError
from cascadert.export.models.two_column.column import Column, ResNetLevels, Units, choose, parse_units
from cascadert.export.models.two_column.decoder import (
    DECODERS,
    Decoder,
    DecoderName,
    DecoderShape,
    InColumn,
    rescale,
)

MODEL_A = "1-1-2-0-1-2-4-1"
"""Units of the paper's Model A: levels 2 to 5 of the full-resolution column, then of the half-resolution column."""

InColumnAt = Literal["frame", "crops"]
ScoreMap = Literal["decoder", "level5"]

_CROSS = ("cross32", "cross16", "cross8")  # by their stride in pixels of the frame


@dataclass(frozen=True)
class TwoColumnShape:
    """What a sparse two-column network is made of.

    Attributes:
        classes: number of classes K.
        units: residual units of levels 2 to 5 of the full-resolution column, then of the other.
        region: side of the square regions, in pixels of the frame.
        decoder: "basic" or "optimised" (narrower towards the fine levels, and grouped).
        cross_column: with connections from the half-resolution column to the other (ISCTF), or without (SCTF).
        width: inner width of level 2; the decoder's widths follow.
        in_column: where the in-column 1x1 convolutions of the full-resolution column run: on full maps, as the paper
            counts them, or on the regions before they are put together. Results are equal, and the second hands over
            and computes less: of Model A, 224 channels in the place of 1792.
        score_map: what regions are scored on: the half-resolution column's finest decoder map, or its raw level 5.
        block_gradients: keep the fused result's loss from training the half-resolution column through the cross-column
            connections.
    """

    classes: int
    units: str = MODEL_A
    region: int = 256
    decoder: DecoderName = "optimised"
    cross_column: bool = True
    width: int = 64
    in_column: InColumnAt = "frame"
    score_map: ScoreMap = "decoder"
    block_gradients: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            NetworkError: an argument is none of those named, or regions do not fit the columns' strides.
        """
        choose("decoder", self.decoder, DecoderName)
        choose("in_column", self.in_column, InColumnAt)
        choose("score_map", self.score_map, ScoreMap)
        stride = 64 if self.score_map == "level5" else 32
        if self.region % stride:
            remedy = f"give a multiple of {stride} pixels"
            raise NetworkError(f"region = {self.region}", f"does not fit maps of stride {stride}", remedy)
        if self.score_map == "level5" and not self.columns[1][3]:
            raise NetworkError('score_map = "level5"', f"is absent from units '{self.units}'", 'choose "decoder"')

    @property
    def columns(self) -> tuple[Units, Units]:
        """Units of the full-resolution column and of the other."""
        full, half = parse_units(self.units, columns=2)
        return full, half

    @property
    def decoder_shape(self) -> DecoderShape:
        """Widths of both columns' decoders."""
        return DECODERS[self.decoder].scaled(self.width)


class HalfColumn(nn.Module):
    """The half-resolution column, with the weights of both columns and the score of each region.

    `z1` and `z2` weigh the two columns at each pixel, and are of this column alone (coarse to fine).
    """

    def __init__(self, shape: TwoColumnShape) -> None:
        super().__init__()
        self.column = Column(shape.classes, shape.columns[1], shape.width, shape.decoder_shape)
        self.crosses = _CROSS if shape.cross_column else ()
        self.of_decoder = shape.score_map == "decoder"
        finest = self.column.decoder.widths[-1]
        self.attention = nn.Conv2d(finest, 2, 1)
        tau = shape.region // (8 if self.of_decoder else 64)
        self.sparse = nn.Conv2d(finest if self.of_decoder else self.column.backbone.resnet.channels, 1, tau, tau)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Segment the halved frame and score its regions.

        Args:
            image: the frame at half resolution, `[N, 3, H/2, W/2]`.

        Returns:
            "logits" `z1 * F` at 1/8 of the frame, which is the result where no region is computed; "score" `s`, the raw
            score `[N, 1, rows, columns]`; "weight" `z2 * sigmoid(s)` of the other column, `[N, 1, H/8, W/8]`;
            "cross32", "cross16", "cross8", the decoder's maps, if there are cross-column connections.
        """
        column = self.column(image)
        z1, z2 = self.attention(column.maps[-1]).softmax(1).split(1, 1)
        score = self.sparse(column.maps[-1] if self.of_decoder else column.coarsest)
        sparse = functional.interpolate(score.sigmoid(), size=z2.shape[-2:], mode="nearest")
        crosses = dict(zip(self.crosses, column.maps[: len(self.crosses)], strict=True))
        return {"logits": z1 * column.logits, "score": score, "weight": z2 * sparse, **crosses}


class CropColumn(nn.Module):
    """The full-resolution column's backbone on regions, each on its own: zero padding at its borders."""

    def __init__(self, backbone: ResNetLevels, in_column: InColumn | None) -> None:
        super().__init__()
        self.backbone, self.in_column = backbone, in_column

    def forward(self, regions: Tensor) -> dict[str, Tensor]:
        """Map regions `[n, 3, R, R]` to "level2" `[n, C, R/4, R/4]` and so on to the coarsest level."""
        levels: dict[str, Tensor] = self.backbone(regions)
        if self.in_column is not None:
            levels = self.in_column(levels)
        return levels


class Fusion(nn.Module):
    """The full-resolution column's decoder on full maps, fused with the other column's result.

    `reads` names the tensors that it takes, in order: levels of `CropColumn` put together to full maps, zero where no
    region was computed, and those of `HalfColumn`.
    """

    def __init__(self, shape: TwoColumnShape, backbone: ResNetLevels, in_column: InColumn | None) -> None:
        super().__init__()
        widths = shape.decoder_shape
        self.in_column = in_column
        self.decoder = Decoder(backbone.channels(), widths, widths.crop_kernel, crossed=shape.cross_column)
        self.classifier = nn.Conv2d(self.decoder.widths[-1], shape.classes, 1)
        self.levels, self.crosses = tuple(backbone.names), _CROSS if shape.cross_column else ()
        self.reads = (*self.levels, "logits", "weight", *self.crosses)
        self.block_gradients = shape.block_gradients

    def forward(self, *carried: Tensor) -> Tensor:
        """Return the network's result at a quarter of the frame's resolution.

        Args:
            carried: the tensors of `reads`, then the mask of regions that were computed, `[N, 1, rows, columns]`.

        Returns:
            Logits `[N, K, H/4, W/4]`.
        """
        *tensors, mask = carried
        given = dict(zip(self.reads, tensors, strict=True))
        levels = {name: given[name] for name in self.levels}
        if self.in_column is not None:
            levels = self.in_column(levels)
        crosses = [given[name].detach() if self.block_gradients else given[name] for name in self.crosses]
        logits = self.classifier(self.decoder(levels, crosses)[-1])
        weight = rescale(given["weight"], 2) * functional.interpolate(mask, size=logits.shape[-2:], mode="nearest")
        fused: Tensor = rescale(given["logits"], 2) + weight * logits
        return fused


class TwoColumn(nn.Module):
    """SCTF or ISCTF: the networks of its three stages as `half_column`, `crops` and `fuse`."""

    def __init__(self, shape: TwoColumnShape) -> None:
        super().__init__()
        self.region = shape.region
        backbone, widths = ResNetLevels(shape.columns[0], shape.width), shape.decoder_shape
        in_column = InColumn(backbone.channels(), widths, widths.crop_kernel)
        of_frame = shape.in_column == "frame"
        self.half_column = HalfColumn(shape)
        self.crops = CropColumn(backbone, None if of_frame else in_column)
        self.fuse = Fusion(shape, backbone, in_column if of_frame else None)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Segment frames by the paper's classic inference: every region is computed, and some are masked after.

        Args:
            image: normalised frames `[N, 3, H, W]`; H and W are multiples of the region's side and of 64.
            mask: which regions count, 1 or 0, `[N, 1, rows, columns]`; by default all.

        Returns:
            Logits `[N, K, H/4, W/4]`.
        """
        half = self.half_column(rescale(image, 0.5))
        if mask is None:
            mask = half["score"].new_ones(half["score"].shape)
        levels = self.crops(cut(image, self.region))
        full = {name: uncrop(level * mask.reshape(-1, 1, 1, 1), mask.shape[-2:]) for name, level in levels.items()}
        given = {**full, **half}
        logits: Tensor = self.fuse(*(given[name] for name in self.fuse.reads), mask)
        return logits


def cut(image: Tensor, region: int) -> Tensor:
    """Cut images `[N, C, H, W]` into all their regions `[N * rows * columns, C, region, region]`, row by row."""
    n, channels, height, width = image.shape
    cells = image.reshape(n, channels, height // region, region, width // region, region)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, region, region)


def uncrop(regions: Tensor, grid: Sequence[int]) -> Tensor:
    """Put all regions `[N * rows * columns, C, h, w]` together to full maps `[N, C, rows * h, columns * w]`."""
    rows, columns = grid
    _, channels, height, width = regions.shape
    cells = regions.reshape(-1, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(-1, channels, rows * height, columns * width)


def two_column(classes: int, **shape: object) -> TwoColumn:
    """Builds a sparse two-column network with fresh weights.

    Args:
        classes: number of classes K.
        shape: other fields of `TwoColumnShape`; by default Model A.

    Raises:
        NetworkError: an argument is none of those that a field allows.
    """
    return TwoColumn(TwoColumnShape(classes, **shape))  # type: ignore[arg-type]
