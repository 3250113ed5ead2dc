"""Cut blocks out of a frame, and put their labels back: index tables, gathers and one scatter.

Tables hold one row per block of every camera, so `indices` (the first n of `order`) picks a camera and a block at once
and nothing is divided at run time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cascadert.geometry import Axis, Grid


def _pixels(axis: Axis, halo: int) -> Tensor:
    """Pixel positions of each block of one axis, halo included and clamped to the frame: int64 `[blocks, P]`."""
    offsets = torch.arange(-halo, axis.block + halo)
    return (torch.tensor(axis.starts)[:, None] + offsets).clamp(0, axis.length - 1)


def _index_tables(grid: Grid, cameras: int, halo: int, subsampled: int = 1) -> tuple[Tensor, Tensor]:
    """Row and column parts of the flat pixel index of every block: int32 `[N * G, Ph]` and `[N * G, Pw]`."""
    rows, columns = (_pixels(axis, halo) // subsampled for axis in (grid.rows, grid.columns))
    height, width = grid.height // subsampled, grid.width // subsampled
    (grid_rows, grid_columns) = grid.shape
    row_part = rows.repeat_interleave(grid_columns, 0).repeat(cameras, 1) * width
    camera = torch.arange(cameras).repeat_interleave(grid.size)[:, None] * height * width
    return (row_part + camera).to(torch.int32), columns.repeat(grid_rows * cameras, 1).to(torch.int32)


class Crop(nn.Module):
    """Gather blocks with `halo` pixels of context; outside the frame the border pixel is repeated.

    `subsampled` = 2 reads the chroma plane of NV12 at the resolution of the luma.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, grid: Grid, cameras: int, halo: int, subsampled: int = 1) -> None:
        super().__init__()
        rows, columns = _index_tables(grid, cameras, halo, subsampled)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)

    def forward(self, plane: Tensor, indices: Tensor) -> Tensor:
        """Gather from `plane` uint8 `[N, h, w, C]` the blocks `indices` int32 `[n]`: uint8 `[n, Ph, Pw, C]`."""
        rows, columns = self.rows.index_select(0, indices), self.columns.index_select(0, indices)
        pixels = rows[:, :, None] + columns[:, None, :]
        flat = plane.reshape(-1, plane.shape[3])
        return flat.index_select(0, pixels.reshape(-1)).reshape(-1, rows.shape[1], columns.shape[1], plane.shape[3])


class OwnerPaste(nn.Module):
    """Write each refined block into the pixels it owns (`Grid.owned_box`), so that no pixel is written twice.

    Blocks own fewer than B x B pixels where they overlap. To keep one fixed shape, pixels a block does not own are
    written behind the end of the frame, each to its own place, and cut off again: duplicate indices would make the
    result of a scatter undefined.
    """

    rows: Tensor
    columns: Tensor
    owned_rows: Tensor
    owned_columns: Tensor

    def __init__(self, grid: Grid, cameras: int) -> None:
        super().__init__()
        self.shares_pixels = grid.rows.overlaps or grid.columns.overlaps
        rows, columns = _index_tables(grid, cameras, halo=0)
        self.register_buffer("rows", rows)
        self.register_buffer("columns", columns)
        owned_rows, owned_columns = (self._owned(axis) for axis in (grid.rows, grid.columns))
        self.register_buffer("owned_rows", owned_rows.repeat_interleave(grid.shape[1], 0).repeat(cameras, 1))
        self.register_buffer("owned_columns", owned_columns.repeat(grid.shape[0] * cameras, 1))

    @staticmethod
    def _owned(axis: Axis) -> Tensor:
        pixels, bounds = _pixels(axis, halo=0), torch.tensor(axis.owned)
        return (pixels >= bounds[:, :1]) & (pixels < bounds[:, 1:])

    def forward(self, labels: Tensor, indices: Tensor, refined: Tensor) -> Tensor:
        """Write `refined` `[n, Bh, Bw]` into `labels` `[N, H, W]`, of the same type, at blocks `indices` `[n]`."""
        rows, columns = self.rows.index_select(0, indices), self.columns.index_select(0, indices)
        target = (rows[:, :, None] + columns[:, None, :]).reshape(-1).to(torch.int64)
        frame, values = labels.reshape(-1), refined.reshape(-1)
        if not self.shares_pixels:
            return frame.index_put((target,), values).reshape(labels.shape)
        owned = (
            self.owned_rows.index_select(0, indices)[:, :, None] & self.owned_columns.index_select(0, indices)[:, None]
        )
        count = refined.shape[0] * refined.shape[1] * refined.shape[2]
        behind = torch.arange(count, device=frame.device) + frame.shape[0]
        target = torch.where(owned.reshape(-1), target, behind)
        return torch.cat([frame, values]).index_put((target,), values)[: frame.shape[0]].reshape(labels.shape)


class AveragePaste(nn.Module):
    """Average the probabilities of all selected blocks that cover a pixel, then take the arg-max (paper 000, 480/320).

    Pixels that no selected block covers keep their label. Accumulation is a gather, not a scatter, because no TensorRT
    before 10 adds in ScatterND: `slot[b]` is the position of block b among the selected, and each pixel sums the slots
    of the few blocks that cover it, whose positions are constants. Sums stand for means: the arg-max is the same.
    """

    cover_rows: Tensor
    cover_columns: Tensor
    local_rows: Tensor
    local_columns: Tensor

    def __init__(self, grid: Grid, cameras: int) -> None:
        super().__init__()
        self.grid, self.cameras = grid, cameras
        for name, axis in (("rows", grid.rows), ("columns", grid.columns)):
            cover, local = self._covering(axis)
            self.register_buffer(f"cover_{name}", cover)
            self.register_buffer(f"local_{name}", local)

    @staticmethod
    def _covering(axis: Axis) -> tuple[Tensor, Tensor]:
        """Blocks that cover each pixel and its position inside them: two int64 `[most covers, length]`.

        Pixels covered fewer times name a block one past the last, which is never selected.
        """
        starts, pixels = torch.tensor(axis.starts), torch.arange(axis.length)
        inside = (pixels >= starts[:, None]) & (pixels < starts[:, None] + axis.block)
        most = int(inside.sum(0).max())
        blocks = torch.arange(len(axis.starts))[:, None].expand(inside.shape)
        cover = torch.where(inside, blocks, len(axis.starts)).sort(0).values[:most]
        local = (pixels - torch.cat([starts, starts[-1:]])[cover]).clamp(0, axis.block - 1)
        return cover, local

    def _slots(self, indices: Tensor) -> Tensor:
        """Position of every block among the selected, n where it is not: int64 `[N, rows + 1, columns + 1]`."""
        count, (rows, columns) = indices.shape[0], self.grid.shape
        unselected = torch.zeros(self.cameras * self.grid.size, dtype=torch.int64, device=indices.device) + count
        slots = unselected.index_put((indices.to(torch.int64),), torch.arange(count, device=indices.device))
        slots = slots.reshape(self.cameras, rows, columns) - count
        return nn.functional.pad(slots, (0, 1, 0, 1)) + count

    def accumulate(self, indices: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Sum `probabilities` `[n, K, Bh, Bw]` per pixel: `[N * H * W, K]`; and mask what they cover, `[N, H, W]`."""
        count, classes, block_height, block_width = probabilities.shape
        size, device = (self.cameras, self.grid.height, self.grid.width), probabilities.device
        table = probabilities.permute(0, 2, 3, 1).reshape(-1, classes)
        table = torch.cat([table, torch.zeros(block_height * block_width, classes, device=device)])
        slots = self._slots(indices)
        total = torch.zeros(size[0] * size[1] * size[2], classes, device=device)
        covered = torch.zeros(size, dtype=torch.bool, device=device)
        for row_block, row in zip(self.cover_rows, self.local_rows, strict=True):
            for column_block, column in zip(self.cover_columns, self.local_columns, strict=True):
                slot = slots.index_select(1, row_block).index_select(2, column_block)
                inside = row[:, None] * block_width + column
                total = total + table.index_select(0, (slot * (block_height * block_width) + inside).reshape(-1))
                covered = covered | (slot < count)
        return total, covered

    def forward(self, labels: Tensor, indices: Tensor, probabilities: Tensor) -> Tensor:
        """Merge float32 `probabilities` `[n, K, Bh, Bw]` of blocks `indices` `[n]` into `labels` `[N, H, W]`."""
        total, covered = self.accumulate(indices, probabilities)
        merged = total.argmax(dim=1).to(torch.uint8).reshape(labels.shape)
        return torch.where(covered, merged, labels)
