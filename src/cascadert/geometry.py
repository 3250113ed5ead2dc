"""Where blocks lie on a frame, and which block owns which pixel.

Pure integer geometry (systems.md 1.1): no pixels are touched here. The grid is separable, so each axis is an
`Axis` of its own and a block is a pair (row interval, column interval), numbered row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from cascadert.errors import GridError


@dataclass(frozen=True)
class Axis:
    """Blocks of `block` pixels every `stride` pixels along `length` pixels; the last one is shifted inward."""

    length: int
    block: int
    stride: int

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each block: min(i * stride, length - block) for ceil((length - block) / stride) + 1 blocks."""
        last = self.length - self.block
        return tuple(min(i * self.stride, last) for i in range(-(-last // self.stride) + 1))

    @cached_property
    def owned(self) -> tuple[tuple[int, int], ...]:
        """Half-open pixel interval that each block owns: nearest block centre, ties to the lower index."""
        cuts = [(a + b + self.block + 1) // 2 for a, b in zip(self.starts, self.starts[1:], strict=False)]
        return tuple(zip((0, *cuts), (*cuts, self.length), strict=True))

    @cached_property
    def tile(self) -> int:
        """Largest length of which every block start and the block itself are multiples."""
        return math.gcd(self.block, *self.starts)

    @property
    def overlaps(self) -> bool:
        """Whether any pixel lies in more than one block."""
        return len(self.starts) * self.block > self.length


@dataclass(frozen=True)
class Grid:
    """G = rows x columns blocks that cover a frame of `height` x `width` pixels.

    Raises:
        GridError: a block larger than the frame, or a stride that is not in 1..block (it would leave gaps).
    """

    height: int
    width: int
    block: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        names = ("height", "width")
        for name, length, block, stride in zip(names, (self.height, self.width), self.block, self.stride, strict=True):
            if not 1 <= block <= length:
                raise GridError(
                    f"grid.block = {block}",
                    f"the frame's {name} is {length} pixels",
                    f"choose a block between 1 and {length}",
                )
            if not 1 <= stride <= block:
                raise GridError(
                    f"grid.stride = {stride}",
                    f"blocks of {block} pixels would leave gaps or never advance along the {name}",
                    f"choose a stride between 1 and {block}",
                )

    @cached_property
    def rows(self) -> Axis:
        """The vertical axis."""
        return Axis(self.height, self.block[0], self.stride[0])

    @cached_property
    def columns(self) -> Axis:
        """The horizontal axis."""
        return Axis(self.width, self.block[1], self.stride[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks per column and per row."""
        return len(self.rows.starts), len(self.columns.starts)

    @property
    def size(self) -> int:
        """G, the number of blocks."""
        return self.shape[0] * self.shape[1]

    def box(self, index: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of a block in pixels, half-open."""
        row, column = divmod(index, self.shape[1])
        top, left = self.rows.starts[row], self.columns.starts[column]
        return top, left, top + self.block[0], left + self.block[1]

    def owned_box(self, index: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the pixels that a block owns; these rectangles partition the frame."""
        row, column = divmod(index, self.shape[1])
        (top, bottom), (left, right) = self.rows.owned[row], self.columns.owned[column]
        return top, left, bottom, right
