"""Tensors that stages hand on, between whole maps `[N, C, h, w]` and rows of selected blocks `[n, C, h', w']`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cascadert.errors import NetworkError, SpecError
from cascadert.geometry import Grid


class Cells(nn.Module):
    """The part of a map that lies under each selected block; the grid must divide frame and map evenly."""

    def __init__(self, subject: str, grid: Grid) -> None:
        super().__init__()
        check_divides(subject, grid)
        self.subject, self.grid = subject, grid

    def forward(self, carried: Tensor, indices: Tensor) -> Tensor:
        """Cut `[N, C, h, w]` to the cells of blocks `indices` int32 `[n]`: `[n, C, h / rows, w / columns]`.

        Raises:
            NetworkError: the tensor is no map, or one without whole cells.
        """
        (rows, columns), (cameras, channels, height, width) = self.grid.shape, map_shape(self.subject, carried)
        if height % rows or width % columns:
            found = f"reads a map of {height}x{width} under {rows}x{columns} blocks"
            raise NetworkError(self.subject, found, "let the map divide into the blocks")
        cells = carried.reshape(cameras, channels, rows, height // rows, columns, width // columns)
        cells = cells.permute(0, 2, 4, 1, 3, 5)
        return cells.reshape(-1, channels, height // rows, width // columns).index_select(0, indices)


class Uncrop(nn.Module):
    """The inverse: rows of selected blocks put back into a map that is zero elsewhere (paper 003, "uncrop")."""

    def __init__(self, subject: str, grid: Grid, cameras: int) -> None:
        super().__init__()
        check_divides(subject, grid)
        self.subject, self.grid, self.cameras = subject, grid, cameras

    def forward(self, rows: Tensor, indices: Tensor) -> Tensor:
        """Scatter `[n, C, h, w]` of blocks `indices` int32 `[n]` to `[N, C, rows * h, columns * w]`.

        Raises:
            NetworkError: the rows are no maps.
        """
        (_, channels, height, width), (down, across) = map_shape(self.subject, rows), self.grid.shape
        blocks = torch.zeros(self.cameras * self.grid.size, channels, height, width, device=rows.device)
        blocks = blocks.index_put((indices.to(torch.int64),), rows)
        blocks = blocks.reshape(self.cameras, down, across, channels, height, width)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(self.cameras, channels, down * height, across * width)

    def mask(self, indices: Tensor) -> Tensor:
        """Return 1 where a block is selected and 0 elsewhere, float32 `[N, 1, rows, columns]`."""
        mask = torch.zeros(self.cameras * self.grid.size, device=indices.device)
        mask = mask.index_put((indices.to(torch.int64),), torch.ones(indices.shape[0], device=indices.device))
        return mask.reshape(self.cameras, 1, *self.grid.shape)


def map_shape(subject: str, carried: Tensor) -> torch.Size:
    """Return the four sizes of a carried map.

    Raises:
        NetworkError: the tensor has another number of them.
    """
    if carried.dim() != 4:
        found = f"reads a tensor {list(carried.shape)} that is no map"
        raise NetworkError(subject, found, "let the stage that makes it return [N, C, h, w]")
    return carried.shape


def check_divides(subject: str, grid: Grid) -> None:
    """Check that blocks neither overlap nor are shifted.

    Raises:
        SpecError: they are.
    """
    if grid.rows.overlaps or grid.columns.overlaps:
        found = f"reads or makes maps of blocks that overlap, {grid.rows.block}x{grid.columns.block} pixels each"
        raise SpecError(subject, found, "choose blocks that divide the frame evenly, and no stride")
