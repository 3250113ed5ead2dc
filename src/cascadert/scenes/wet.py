"""A wet street: darker, and a mirror that ripples."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import ROAD, SIDEWALK, TERRAIN
from cascadert.scenes.camera import Camera
from cascadert.scenes.display import CLASS_BITS
from cascadert.scenes.glow import box, shining
from cascadert.scenes.scaling import enlarged

_COARSE = 3  # mirrored at a third of the picture's size
_PUDDLES = 256
_PUDDLES_PER_M = 6.0
_MIRROR = {ROAD: 1.0, SIDEWALK: 0.5, TERRAIN: 0.08}
_DARKER = {ROAD: 0.42, SIDEWALK: 0.30, TERRAIN: 0.15}


def _table(values: dict[int, float]) -> NDArray[np.float32]:
    table = np.zeros(256, dtype=np.float32)
    for label, value in values.items():
        table[label] = value
    return table


_MIRRORS, _DARKENS = _table(_MIRROR), _table(_DARKER)


@lru_cache(maxsize=1)
def _puddles() -> NDArray[np.float32]:
    """How wet the ground is, `[256, 256]`, periodic, 0 to 1."""
    rng = np.random.default_rng(51)
    fy, fx = np.fft.fftfreq(_PUDDLES)[:, None], np.fft.rfftfreq(_PUDDLES)[None, :]
    radius = np.hypot(fy * 0.6, fx) + 1 / _PUDDLES
    spectrum = (rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)) / radius**2.1
    noise = np.fft.irfft2(spectrum, s=(_PUDDLES, _PUDDLES))
    noise = (noise - noise.mean()) / noise.std()
    return np.asarray(np.clip(0.5 + 0.55 * noise, 0, 1), dtype=np.float32)


def darkening(codes: NDArray[np.uint8], rain: float) -> NDArray[np.float32]:
    """Factors `[H, W]` of the ground's colour once it is wet."""
    return np.asarray((1 - np.float32(rain) * _DARKENS)[codes], dtype=np.float32)


def mirror(
    planes: NDArray[np.float32], codes: NDArray[np.uint8], depth: NDArray[np.float32], camera: Camera, rain: float
) -> None:
    """Mix into the ground of `planes` `[3, H, W]` what it mirrors; `depth` `[H]` is the ground's distance by row.

    An upright object that stands on row b is seen mirrored about b: row r of the ground shows row 2b - r. As b serves
    the foot of whatever is above the ground in the same column. Ripples blur up and down far more than sideways.
    """
    small, labels = planes[:, ::_COARSE, ::_COARSE], codes[::_COARSE, ::_COARSE] & CLASS_BITS
    height, width = labels.shape
    first = int(max(camera.horizon_px, 0)) // _COARSE
    if first >= height - 1:
        return
    rows = np.arange(height, dtype=np.int32)[:, None]
    foot = np.maximum.accumulate(np.where(_MIRRORS[labels] > 0, np.int32(0), rows), axis=0)
    source = np.maximum(2 * foot - rows, 0)[first:] * width + np.arange(width, dtype=np.int32)
    bright = (small + shining(planes, codes, _COARSE)).reshape(3, -1)
    seen = bright.take(source, axis=1)
    unit = camera.height / 384
    for radius in (6, 3):
        seen = box(seen, max(1, round(radius * unit)), 1)
    seen = box(seen, max(1, round(0.7 * unit)), 2)
    share = rain * _sheen(depth[::_COARSE, None][first:], camera, width) * _MIRRORS[labels][first:]
    found = enlarged(np.concatenate([seen, share[None] * 255]), _COARSE, camera.height - first * _COARSE, camera.width)
    _mix(planes, codes, found, first * _COARSE)


def _sheen(near: NDArray[np.float32], camera: Camera, width: int) -> NDArray[np.float32]:
    """Share of light `[h, w]` that the wet ground mirrors at distances `near` `[h, 1]`: most at grazing angles."""
    tangent = (np.arange(width, dtype=np.float32) * _COARSE - camera.centre_px)[None, :] / camera.focal_px
    across = (tangent - camera.bend * near) * near + camera.x_m
    i = ((near + camera.z_m) * (_PUDDLES_PER_M * 0.5)).astype(np.int32) & (_PUDDLES - 1)
    j = (across * _PUDDLES_PER_M).astype(np.int32) & (_PUDDLES - 1)
    grazing = 0.10 + 0.50 * (1 - np.exp(-near / 16))
    return np.asarray(grazing * (0.55 + 0.75 * _puddles()[i, j]), dtype=np.float32)


def _mix(planes: NDArray[np.float32], codes: NDArray[np.uint8], found: NDArray[np.uint8], top: int) -> None:
    """Blend the colours of `found` `[h, W, 4]`, by its last channel, into the ground below row `top`."""
    amount = np.where(_MIRRORS[codes[top:] & CLASS_BITS] > 0, found[:, :, 3], np.uint8(0)) * np.float32(1 / 255)
    for channel, plane in enumerate(planes):
        below = plane[top:]
        below += amount * (found[:, :, channel] - below)
