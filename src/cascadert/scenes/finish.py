"""From the painted polygons to the picture: shadows, world-locked texture, haze on the ground, grain."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cascadert.classes import BUILDING, FENCE, ROAD, SIDEWALK, TERRAIN, VEGETATION, WALL
from cascadert.scenes.camera import FAR_M, Camera
from cascadert.scenes.display import SMOOTH, DisplayList
from cascadert.scenes.style import Style

_TILE = 512
_TEXELS_PER_M = 40.0


def _noise(rng: np.random.Generator, slope: float) -> NDArray[np.float32]:
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :]
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    spectrum = (rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)) / radius**slope
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return (noise / noise.std()).astype(np.float32)


@lru_cache(maxsize=1)
def _atlas() -> NDArray[np.float32]:
    """Brightness factors `[6, 512, 512]`: asphalt, paving, grass, plaster, masonry, leaves; mean near 1."""
    rng = np.random.default_rng(2026)
    fine, soft, cloud = (_noise(rng, s) for s in (0.3, 0.9, 1.5))
    rows, columns = np.mgrid[0:_TILE, 0:_TILE]
    joints = ((rows % 16 < 1) | ((columns + 8 * (rows // 16 % 2)) % 16 < 1)).astype(np.float32)
    bricks = ((rows % 8 < 1) | ((columns + 8 * (rows // 8 % 2)) % 16 < 1)).astype(np.float32)
    stones = _noise(rng, 0.0)[rows // 16 * 16, (columns + 8 * (rows // 16 % 2)) // 16 * 16 % _TILE]
    return np.stack(
        [
            1 + 0.050 * fine + 0.035 * soft + 0.030 * cloud,
            1 + 0.030 * fine + 0.030 * cloud + 0.035 * stones - 0.16 * joints,
            1 + 0.090 * fine + 0.080 * soft + 0.080 * cloud,
            1 + 0.012 * fine + 0.020 * soft + 0.030 * cloud,
            1 + 0.025 * fine + 0.030 * cloud + 0.02 * stones - 0.10 * bricks,
            1 + 0.070 * fine + 0.080 * soft,
        ]
    ).astype(np.float32)


def _layer_of(seed: int) -> NDArray[np.uint8]:
    """Which atlas layer each label takes; 255 none."""
    layers = np.full(256, 255, dtype=np.uint8)
    layers[ROAD], layers[SIDEWALK], layers[TERRAIN] = 0, 1, 2
    layers[BUILDING] = 3 if seed % 3 else 4
    layers[WALL], layers[FENCE], layers[VEGETATION] = 4, 3, 5
    return layers


def _brightness(style: Style, camera: Camera, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Texture factors `[H, W]`, fixed to the world: the ground's on its plane, the rest on the plane of the fronts."""
    layer = _layer_of(style.seed)[codes]
    rows = np.arange(camera.height, dtype=np.float32) + 0.5
    tangent = ((np.arange(camera.width, dtype=np.float32) + 0.5) - camera.centre_px) / camera.focal_px
    drop = np.maximum(rows - camera.horizon_px, 0.5) / camera.focal_px
    depth = np.minimum(camera.y_m / drop, FAR_M)[:, None]
    across = (tangent[None, :] - camera.bend * depth) * depth + camera.x_m
    fronts = [abs(style.layout.frontage(side) - camera.x_m) for side in (-1, 1)]
    wall = np.where(tangent < 0, fronts[0], fronts[1]) / np.maximum(np.abs(tangent), 0.02)
    height = camera.y_m + (camera.horizon_px - rows)[:, None] / camera.focal_px * wall[None, :]
    upright = layer >= 3
    # Leaves face the camera: along the front's plane they would smear into streaks.
    isotropic = np.sign(tangent) * np.log(np.maximum(np.abs(tangent), 0.02)) * max(fronts)
    along = np.where(layer == 5, isotropic[None, :], wall[None, :])
    s = np.where(upright, along, depth)
    t = np.where(upright, height, across)
    footprint = np.where(upright, wall[None, :], depth) / camera.focal_px * _TEXELS_PER_M
    i = ((s + camera.z_m) * _TEXELS_PER_M).astype(np.int32) & (_TILE - 1)
    j = (t * _TEXELS_PER_M).astype(np.int32) & (_TILE - 1)
    texture = _atlas()[np.minimum(layer, 5), np.where(upright, j, i), np.where(upright, i, j)]
    fade = 1.0 / (1.0 + 0.25 * footprint)
    factor: NDArray[np.float32] = np.where(layer == 255, 1.0, 1.0 + (texture - 1.0) * fade).astype(np.float32)
    return factor


def _shade(shadows: DisplayList, camera: Camera, labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of the light `[H, W]` that reaches the ground; 1 elsewhere."""
    mask = Image.new("L", (camera.width, camera.height), 255)
    shadows.paint(mask, camera, 1)
    soft = np.asarray(mask.filter(ImageFilter.GaussianBlur(max(0.6, camera.height / 400))), dtype=np.float32) / 255
    ground = (labels == ROAD) | (labels == SIDEWALK) | (labels == TERRAIN)
    return np.where(ground, soft, np.float32(1.0))


def finish(
    canvas: Image.Image, shadows: DisplayList, style: Style, camera: Camera, scale: int, grain: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn the painted canvas into the picture `[H, W, 3]` and its labels `[H, W]`."""
    size = (camera.width, camera.height)
    # Nearest at one third of the size takes the middle of each 3 by 3 samples: the pixel's centre.
    codes = np.asarray(canvas.resize(size, Image.Resampling.NEAREST))[:, :, 3]
    labels = codes & np.uint8(SMOOTH - 1)
    picture = np.asarray(canvas.reduce(scale))[:, :, :3].astype(np.float32)
    factor = _brightness(style, camera, codes) * _shade(shadows, camera, labels)
    picture *= factor[:, :, None]
    ground = np.isin(labels, (ROAD, SIDEWALK, TERRAIN))
    drop = np.maximum(np.arange(camera.height) + 0.5 - camera.horizon_px, 0.5)
    clear = np.exp(-style.light.haze_per_m * np.minimum(camera.focal_px * camera.y_m / drop, FAR_M * 4))
    veil = np.where(ground, (1.0 - clear)[:, None], 0.0).astype(np.float32)[:, :, None]
    picture += (np.asarray(style.light.horizon, dtype=np.float32) * 255 - picture) * veil
    picture = (picture - 118.0) * np.float32(style.contrast) + np.float32(118.0 * style.exposure)
    noise = grain.standard_normal((64, 1024), dtype=np.float32) * 2.2
    shifts = grain.integers(0, 1024 - 64, size=camera.height)
    wide = np.tile(noise, (1, camera.width // 960 + 2))
    rows = np.stack([wide[r % 64, s : s + camera.width] for r, s in enumerate(shifts.tolist())])
    picture += rows[:, :, None]
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8), labels
