"""The oracles of paper 000: the best that any choice between two networks could do, by pixel or by block."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import IGNORE_LABEL
from cascadert.geometry import Grid

Labels = NDArray[np.uint8]


def error_map(prediction: Labels, truth: Labels) -> NDArray[np.bool_]:
    """Where a prediction is wrong; unlabelled pixels are not (paper 000, section 4.1)."""
    wrong: NDArray[np.bool_] = (prediction != truth) & (truth != IGNORE_LABEL)
    return wrong


def pixel_oracle(fast: Labels, accurate: Labels, truth: Labels) -> Labels:
    """The fast label where it is right, else the accurate one: what no choice can beat. All uint8 `[..., H, W]`."""
    chosen: Labels = np.where(error_map(fast, truth), accurate, fast)
    return chosen


def better_blocks(fast: Labels, accurate: Labels, truth: Labels, grid: Grid) -> tuple[int, ...]:
    """Return the blocks in which the accurate network has more right pixels; a tie is the fast one's. uint8 `[H, W]`.

    Where blocks overlap, each is judged by the pixels it owns.
    """
    gained = error_map(fast, truth).astype(np.int8) - error_map(accurate, truth)
    boxes = map(grid.owned_box, range(grid.size))
    gains = [int(gained[top:bottom, left:right].sum()) for top, left, bottom, right in boxes]
    return tuple(index for index, gain in enumerate(gains) if gain > 0)


def refine(fast: Labels, accurate: Labels, blocks: Iterable[int], grid: Grid) -> Labels:
    """Return the fast labels with those of the accurate network in `blocks`, where these own pixels. uint8 `[H, W]`."""
    refined: Labels = fast.copy()
    for top, left, bottom, right in map(grid.owned_box, blocks):
        refined[top:bottom, left:right] = accurate[top:bottom, left:right]
    return refined


def block_oracle(fast: Labels, accurate: Labels, truth: Labels, grid: Grid) -> Labels:
    """Each block from the network with more right pixels in it, the fast one on a tie. All uint8 `[H, W]`."""
    return refine(fast, accurate, better_blocks(fast, accurate, truth, grid), grid)
