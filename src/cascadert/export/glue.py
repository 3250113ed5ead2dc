"""What stands around a network inside a stage: pixels in, uncertainty and labels out.

Plain functions of torch tensors, in float32 whatever the network's precision, written so that the exporter turns them
into operators every backend knows (design.md, "Traps").
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascadert.errors import NetworkError
from cascadert.geometry import Axis, Grid
from cascadert.spec import FrameSpec, PixelFormat, Preprocessing

# BT.601, limited range: what V4L2 cameras and hardware decoders hand over as NV12 unless told otherwise.
_YUV_TO_RGB = ((1.164383, 0.0, 1.596027), (1.164383, -0.391762, -0.812968), (1.164383, 2.017232, 0.0))
_YUV_OFFSET = (16.0, 128.0, 128.0)


def plane_shapes(frame: FrameSpec) -> dict[str, tuple[int, int, int, int]]:
    """Name and shape `[N, H, W, C]` of each uint8 tensor of the port `frame`."""
    n, height, width = frame.cameras, frame.height, frame.width
    if frame.pixel_format == "nv12":
        return {"frame.y": (n, height, width, 1), "frame.uv": (n, height // 2, width // 2, 2)}
    return {"frame": (n, height, width, 4 if frame.pixel_format == "rgba8" else 3)}


class ToRgb(nn.Module):
    """Pixels of any format, uint8 `[n, h, w, C]`, to RGB: float32 `[n, 3, h, w]`, 0 to 255."""

    matrix: Tensor
    offset: Tensor

    def __init__(self, pixel_format: PixelFormat) -> None:
        super().__init__()
        self.pixel_format = pixel_format
        self.register_buffer("matrix", torch.tensor(_YUV_TO_RGB).view(3, 3, 1, 1))
        self.register_buffer("offset", torch.tensor(_YUV_OFFSET).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 `[n, h, w, C]` (for nv12: C = 3, luma and both chroma at every pixel) to float32 `[n, 3, h, w]`."""
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32)
        if self.pixel_format == "bgr8":
            planes = planes.flip(1)
        elif self.pixel_format == "rgba8":
            planes = planes[:, :3]
        elif self.pixel_format == "nv12":
            planes = F.conv2d(planes - self.offset, self.matrix).clamp(0, 255)
        return planes


class Normalise(nn.Module):
    """RGB of 0 to 255 to what the network was trained on, per channel: float32 `[n, 3, h, w]` to the same."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1) * 255)

    def forward(self, rgb: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation."""
        return (rgb - self.mean) / self.std


def whole_frame(planes: tuple[Tensor, ...]) -> Tensor:
    """Return uint8 `[N, H, W, C]` with every channel at every pixel; NV12 chroma is repeated, not interpolated."""
    if len(planes) == 1:
        return planes[0]
    luma, chroma = planes
    return torch.cat([luma, chroma.repeat_interleave(2, 1).repeat_interleave(2, 2)], dim=3)


def as_class_logits(logits: Tensor) -> Tensor:
    """Turn one-channel logits of a binary task into two classes: softmax of [0, y] is [1 - sigmoid(y), sigmoid(y)]."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, pixel centres at half-integers, no antialiasing: the one resize of every stage. `[n, c, h, w]`."""
    if image.shape[2] == height and image.shape[3] == width:
        return image
    return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)


def resize_nearest(image: Tensor, height: int, width: int) -> Tensor:
    """Repeat each pixel, a whole number of times each way. `[n, c, h, w]`.

    Raises:
        NetworkError: the new size is no multiple of the old.
    """
    if height % image.shape[2] or width % image.shape[3]:
        found = f"{image.shape[2]}x{image.shape[3]} logits do not divide {height}x{width} pixels"
        raise NetworkError('upsample = "nearest"', found, 'use "bilinear", or logits that do')
    if image.shape[2] == height and image.shape[3] == width:
        return image
    return F.interpolate(image, size=(height, width), mode="nearest")


class Resample(nn.Module):
    """The same resize for pictures, from constant positions and weights: every backend computes the same bits.

    Backends round the positions of a Resize differently. That moves a pixel by 1e-4, which max pooling with un-pooling
    (ENet) turns into another label here and there. For three channels the two gathers per axis cost little.

    It comes before `Normalise`: with pixels of 0 to 255 and weights of few bits, as at scale 0.5, float32 holds every
    step exactly, so that nothing is rounded and no backend can round it otherwise.
    """

    def __init__(self, source: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.axes = [axis + 2 for axis in range(2) if source[axis] != size[axis]]
        for axis in self.axes:
            length, wanted = source[axis - 2], size[axis - 2]
            position = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * length / wanted - 0.5).clamp(0, length - 1)
            low = position.floor()
            share = (position - low).to(torch.float32).reshape(-1, *[1] * (3 - axis))
            self.register_buffer(f"low_{axis}", low.to(torch.int64))
            self.register_buffer(f"high_{axis}", (low + 1).clamp(max=length - 1).to(torch.int64))
            self.register_buffer(f"share_{axis}", share)

    def forward(self, image: Tensor) -> Tensor:
        """Map float32 `[n, c, h, w]` of the source's size to the new size."""
        for axis in self.axes:
            low, high, share = (self.get_buffer(f"{name}_{axis}") for name in ("low", "high", "share"))
            image = image.index_select(axis, low) * (1 - share) + image.index_select(axis, high) * share
        return image


def entropy_bits(logits: Tensor) -> Tensor:
    """Entropy of the softmax over axis 1, in bits: `[n, K, h, w]` to `[n, h, w]` (paper 000, eq. 1).

    With m = max y, e = exp(y - m), s = sum e: H = (log s - sum e (y - m) / s) / ln 2. No logarithm over K, and no NaN
    where a class is certain.
    """
    shifted = logits - logits.amax(dim=1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(dim=1)
    return (total.log() - (weights * shifted).sum(dim=1) / total) / math.log(2)


class _AxisMeans(nn.Module):
    """Mean over each block of one axis. Tile means come first, so that overlapping blocks share their sums."""

    tiles: Tensor

    def __init__(self, axis: Axis, dim: int) -> None:
        super().__init__()
        self.axis, self.dim, self.per_block = axis, dim, axis.block // axis.tile
        tiles = [start // axis.tile + i for start in axis.starts for i in range(self.per_block)]
        self.register_buffer("tiles", torch.tensor(tiles))

    def forward(self, values: Tensor) -> Tensor:
        tiled, axis = list(values.shape), self.axis
        tiled[self.dim : self.dim + 1] = [axis.length // axis.tile, axis.tile]
        means = values.reshape(tiled).mean(self.dim + 1)
        if self.per_block == 1 and not axis.overlaps:
            return means
        grouped = list(means.shape)
        grouped[self.dim : self.dim + 1] = [len(axis.starts), self.per_block]
        return means.index_select(self.dim, self.tiles).reshape(grouped).mean(self.dim + 1)


class BlockMeans(nn.Module):
    """Mean of float32 `[N, H, W]` over each block: `[N * G]`, a camera's blocks in a row."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.columns, self.rows = _AxisMeans(grid.columns, 2), _AxisMeans(grid.rows, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Average along columns, then along rows."""
        means: Tensor = self.rows(self.columns(values))
        return means.reshape(-1)


def sort_blocks(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Scores descending, float32 `[N * G]`, and the block of each, int32; equal scores in the order of their blocks."""
    ordered, order = torch.sort(scores, descending=True, stable=True)
    return ordered, order.to(torch.int32)


def labels_of(logits: Tensor) -> Tensor:
    """Arg-max over classes, the lowest on ties: `[n, K, h, w]` to uint8 `[n, h, w]`."""
    return logits.argmax(dim=1).to(torch.uint8)
