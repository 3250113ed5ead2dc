"""Halos around what shines, and a box filter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import BUILDING, BUS, CAR, MOTORCYCLE, POLE, TRAFFIC_LIGHT, TRAIN, TRUCK
from cascadert.scenes.display import LIT, SMOOTH
from cascadert.scenes.scaling import enlarged

# How much brighter lights are than a picture can show; windows are large and faint, lamps small and strong.
_STRENGTH = {
    POLE: 10.0,
    CAR: 8.0,
    TRUCK: 8.0,
    MOTORCYCLE: 8.0,
    TRAFFIC_LIGHT: 6.0,
    BUS: 0.25,
    TRAIN: 0.2,
    BUILDING: 0.2,
}
_COARSE = 6


def _table() -> NDArray[np.float32]:
    table = np.zeros(256, dtype=np.float32)
    for label, strength in _STRENGTH.items():
        table[label | LIT] = table[label | LIT | SMOOTH] = strength
    return table


_TABLE = _table()


def box(planes: NDArray[np.float32], radius: int, axis: int) -> NDArray[np.float32]:
    """Mean over `2 radius + 1` neighbours along `axis` of `[C, H, W]`; the border is repeated."""
    size = planes.shape[axis]
    radius = min(radius, size - 1)
    if radius < 1:
        return planes
    pad = [(0, 0)] * planes.ndim
    pad[axis] = (radius + 1, radius)
    summed = np.cumsum(np.pad(planes, pad, mode="edge"), axis=axis, dtype=np.float32)
    lower, upper = [slice(None)] * planes.ndim, [slice(None)] * planes.ndim
    lower[axis], upper[axis] = slice(0, size), slice(2 * radius + 1, None)
    return np.asarray((summed[tuple(upper)] - summed[tuple(lower)]) * np.float32(1 / (2 * radius + 1)))


def shining(planes: NDArray[np.float32], codes: NDArray[np.uint8], scale: int) -> NDArray[np.float32]:
    """Return what shines in `planes` `[3, H, W]` as means over `scale` by `scale` pixels, brighter than shown."""
    height, width = codes.shape
    rows, columns = -(-height // scale), -(-width // scale)
    small = np.zeros((3, rows * columns), dtype=np.float32)
    found = np.flatnonzero(codes & LIT)
    if len(found):
        y, x = np.divmod(found, width)
        cells = y // scale * columns + x // scale
        strength = _TABLE[codes.ravel()[found]] / np.float32(scale * scale)
        for channel, plane in enumerate(planes.reshape(3, -1)):
            small[channel] = np.bincount(cells, np.minimum(plane[found], 255) * strength, rows * columns)
    return small.reshape(3, rows, columns)


def halos(planes: NDArray[np.float32], codes: NDArray[np.uint8], rain: float) -> NDArray[np.uint8]:
    """Return the light `[H, W, 4]` (the last is 0) that lenses, haze and drops scatter around what shines."""
    small = shining(planes, codes, _COARSE)
    unit = max(codes.shape[0] / 384, 0.25)
    total = np.zeros_like(small)
    # Wider halos are blurred at a lower resolution.
    for radius, shrink, share in ((1.0, 1, 0.5), (3.4, 2, 0.65), (10.6, 4, 0.8 + 0.5 * rain)):
        blurred = _shrunk(small, shrink)
        for axis in (1, 2, 1, 2):
            blurred = box(blurred, max(1, round(radius * unit / shrink)), axis)
        total += np.float32(share) * _grown(blurred, shrink, small.shape)
    return enlarged(total, _COARSE, *codes.shape)


def _shrunk(planes: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """Means over `scale` by `scale` cells; the border is repeated to fill the last."""
    if scale == 1:
        return planes
    channels, height, width = planes.shape
    filled = np.pad(planes, ((0, 0), (0, -height % scale), (0, -width % scale)), mode="edge")
    cells = filled.reshape(channels, filled.shape[1] // scale, scale, filled.shape[2] // scale, scale)
    return np.asarray(cells.mean(axis=(2, 4)), dtype=np.float32)


def _grown(planes: NDArray[np.float32], scale: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The inverse of `_shrunk`, softened so that no cells show."""
    if scale == 1:
        return planes
    large = planes.repeat(scale, axis=1).repeat(scale, axis=2)[:, : shape[1], : shape[2]]
    return box(box(large, scale // 2, 1), scale // 2, 2)
