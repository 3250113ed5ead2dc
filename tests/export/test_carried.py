"""Tensors that stages hand on: cells under blocks, and rows put back into maps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cascadert.errors import NetworkError, SpecError
from cascadert.export.carried import Cells, Uncrop
from cascadert.geometry import Grid

GRID = Grid(24, 32, (8, 8), (8, 8))  # 3 x 4 blocks


@given(cameras=st.integers(1, 3), data=st.data())
def test_uncrop_is_the_inverse_of_cells(cameras: int, data: st.DataObject) -> None:
    total = cameras * GRID.size
    chosen = data.draw(st.lists(st.integers(0, total - 1), unique=True, min_size=1, max_size=total))
    indices = torch.tensor(chosen, dtype=torch.int32)
    carried = torch.randn(cameras, 5, 6, 12, generator=torch.Generator().manual_seed(len(chosen)))
    rows = Cells("stage 'x'", GRID)(carried, indices)
    for row, index in zip(rows, chosen, strict=True):
        camera, block = divmod(index, GRID.size)
        y, x = divmod(block, 4)
        assert torch.equal(row, carried[camera, :, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3])
    uncrop = Uncrop("stage 'x'", GRID, cameras)
    mask = uncrop.mask(indices)
    assert mask.shape == (cameras, 1, 3, 4)
    assert mask.flatten().nonzero().flatten().tolist() == sorted(chosen)
    wide = mask.repeat_interleave(2, 2).repeat_interleave(3, 3)
    assert torch.equal(uncrop(rows, indices), carried * wide)


def test_a_map_without_whole_cells_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"stage 'x': reads a map of 7x8 under 3x4 blocks; let the map divide into"):
        Cells("stage 'x'", GRID)(torch.zeros(1, 2, 7, 8), torch.zeros(1, dtype=torch.int32))


def test_a_tensor_that_is_no_map_is_refused() -> None:
    message = r"stage 'x': reads a tensor \[3, 8, 8\] that is no map; let the stage that makes it return"
    indices = torch.zeros(1, dtype=torch.int32)
    for carry in (Cells("stage 'x'", GRID), Uncrop("stage 'x'", GRID, 1)):
        with pytest.raises(NetworkError, match=message):
            carry(torch.zeros(3, 8, 8), indices)


@pytest.mark.parametrize(
    "grid", [Grid(24, 32, (8, 8), (4, 8)), Grid(20, 32, (8, 8), (8, 8))], ids=["overlap", "shifted"]
)
def test_blocks_that_overlap_are_refused(grid: Grid) -> None:
    with pytest.raises(
        SpecError, match=r"stage 'x': reads or makes maps of blocks that overlap, 8x8 pixels each; choose"
    ):
        Uncrop("stage 'x'", grid, 1)
