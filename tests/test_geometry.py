"""Blocks on frames: the published grids, cover, ownership by the nearest centre, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.errors import GridError
from cascadert.geometry import Axis, Grid


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    block = draw(st.integers(1, 20))
    return Axis(draw(st.integers(block, 70)), block, draw(st.integers(1, block)))


@pytest.mark.parametrize(
    ("size", "block", "stride", "shape", "rows", "columns"),
    [
        ((1024, 2048), 256, 256, (4, 8), (0, 256, 512, 768), tuple(range(0, 2048, 256))),
        ((1024, 2048), 512, 512, (2, 4), (0, 512), (0, 512, 1024, 1536)),
        ((1024, 2048), 480, 320, (3, 6), (0, 320, 544), (0, 320, 640, 960, 1280, 1568)),
        ((1080, 1920), 256, 256, (5, 8), (0, 256, 512, 768, 824), (0, 256, 512, 768, 1024, 1280, 1536, 1664)),
        ((1080, 1920), 480, 320, (3, 6), (0, 320, 600), (0, 320, 640, 960, 1280, 1440)),
        ((256, 256), 256, 100, (1, 1), (0,), (0,)),
    ],
)
def test_grids_of_paper_000(
    size: tuple[int, int],
    block: int,
    stride: int,
    shape: tuple[int, int],
    rows: tuple[int, ...],
    columns: tuple[int, ...],
) -> None:
    grid = Grid(*size, (block, block), (stride, stride))
    assert (grid.shape, grid.size) == (shape, shape[0] * shape[1])
    assert (grid.rows.starts, grid.columns.starts) == (rows, columns)


@given(axes())
def test_blocks_cover_the_axis_and_stay_inside(axis: Axis) -> None:
    covered = np.zeros(axis.length, int)
    for start in axis.starts:
        assert 0 <= start <= axis.length - axis.block
        covered[start : start + axis.block] += 1
    assert covered.min() >= 1
    assert axis.overlaps == (covered.max() > 1)
    assert len(axis.starts) == len(set(axis.starts)) == -(-(axis.length - axis.block) // axis.stride) + 1


@given(axes())
def test_each_pixel_is_owned_by_the_nearest_centre_ties_to_the_lower_index(axis: Axis) -> None:
    doubled_centres = np.array([2 * start + axis.block - 1 for start in axis.starts])
    nearest = np.abs(2 * np.arange(axis.length)[:, None] - doubled_centres).argmin(axis=1)  # the first of equals
    owner = np.concatenate([np.full(b - a, i) for i, (a, b) in enumerate(axis.owned)])
    assert np.array_equal(owner, nearest)


@given(axes())
def test_a_block_owns_pixels_of_its_own(axis: Axis) -> None:
    for start, (first, end) in zip(axis.starts, axis.owned, strict=True):
        assert start <= first < end <= start + axis.block


@given(axes())
def test_tile_divides_block_starts_and_length_and_is_the_largest(axis: Axis) -> None:
    lengths = (axis.block, axis.length, *axis.starts)
    divisors = [d for d in range(1, axis.block + 1) if all(length % d == 0 for length in lengths)]
    assert axis.tile == max(divisors)


@given(axes(), axes())
def test_owned_boxes_partition_the_frame(rows: Axis, columns: Axis) -> None:
    grid = Grid(rows.length, columns.length, (rows.block, columns.block), (rows.stride, columns.stride))
    writes = np.zeros((grid.height, grid.width), int)
    for index in range(grid.size):
        top, left, bottom, right = grid.owned_box(index)
        box = grid.box(index)
        assert box[0] <= top < bottom <= box[2]
        assert box[1] <= left < right <= box[3]
        writes[top:bottom, left:right] += 1
    assert (writes == 1).all()


def test_blocks_are_numbered_row_by_row() -> None:
    grid = Grid(40, 60, (20, 20), (20, 20))
    assert [grid.box(i)[:2] for i in range(grid.size)] == [(0, 0), (0, 20), (0, 40), (20, 0), (20, 20), (20, 40)]


@pytest.mark.parametrize(
    ("block", "stride", "message"),
    [
        ((41, 10), (10, 10), r"grid\.block = 41: the frame's height is 40 pixels; choose a block between 1 and 40"),
        ((10, 61), (10, 10), r"grid\.block = 61: the frame's width is 60 pixels"),
        ((0, 10), (1, 1), r"grid\.block = 0: .*between 1 and 40"),
        ((10, 10), (11, 10), r"grid\.stride = 11: .*gaps.* along the height; choose a stride between 1 and 10"),
        ((10, 10), (10, 0), r"grid\.stride = 0: .*along the width"),
    ],
)
def test_grids_that_do_not_fit_are_refused(block: tuple[int, int], stride: tuple[int, int], message: str) -> None:
    with pytest.raises(GridError, match=message):
        Grid(40, 60, block, stride)
