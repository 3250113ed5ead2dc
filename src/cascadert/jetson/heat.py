"""Uncertainty as colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadert.geometry import Grid
from cascadert.jetson.images import Image8

# "inferno" (S. van der Walt, N. Smith, matplotlib; CC0) at 33 even steps: perceptually uniform, dark = certain.
_INFERNO = bytes.fromhex("""
000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e 7d1e6d 8a226a 972766 a32c61 b0315b bc3754
c73e4c d24644 db503b e45a31 eb6628 f1731d f68013 f98e09 fb9d07 fcac11 fbbc21 f9cb35 f5db4c f2ea69 f3f68a fcffa4
""")


def _colour_table() -> Image8:
    steps = np.frombuffer(_INFERNO, np.uint8).reshape(-1, 3)
    at, known = np.linspace(0, 1, 256), np.linspace(0, 1, len(steps))
    return np.stack([np.rint(np.interp(at, known, channel)) for channel in steps.T], axis=1).astype(np.uint8)


_COLOURS = _colour_table()


def entropy_heat(entropy: NDArray[np.floating], most_bits: float) -> Image8:
    """Map entropy in bits `[H, W]` to RGB uint8 `[H, W, 3]`: 0 is black, `most_bits` (log2 K, say) and above yellow."""
    levels = np.nan_to_num(entropy / most_bits, nan=0.0).clip(0, 1)
    heat: Image8 = _COLOURS[np.rint(levels * 255).astype(np.uint8)]
    return heat


def scores_to_pixels(
    scores: NDArray[np.float32], order: NDArray[np.int32], grid: Grid, camera: int = 0
) -> NDArray[np.float32]:
    """Paint sorted block scores `[N * G]` where their blocks of one camera lie: float32 `[H, W]`.

    Blocks without a score (minus infinity) become 0.
    """
    pixels = np.zeros((grid.height, grid.width), np.float32)
    for score, index in zip(scores.tolist(), order.tolist(), strict=True):
        if index // grid.size == camera and np.isfinite(score):
            top, left, bottom, right = grid.owned_box(index % grid.size)
            pixels[top:bottom, left:right] = score
    return pixels
