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
_PLASTER, _MASONRY, _LEAVES, _PLAIN = 3, 4, 5, 255
_IS_GROUND = np.isin(np.arange(256), (ROAD, SIDEWALK, TERRAIN))


def _noise(rng: np.random.Generator, slope: float) -> NDArray[np.float32]:
    fy, fx = np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :]
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    spectrum = (rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)) / radius**slope
    spectrum[0, 0] = 0.0
    noise: NDArray[np.float64] = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return np.asarray(noise / noise.std(), dtype=np.float32)


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


def _layers(seed: int) -> NDArray[np.uint8]:
    """Which atlas layer each label takes, `[256]`."""
    layers = np.full(256, _PLAIN, dtype=np.uint8)
    layers[ROAD], layers[SIDEWALK], layers[TERRAIN] = 0, 1, 2
    layers[BUILDING] = _PLASTER if seed % 3 else _MASONRY
    layers[WALL], layers[FENCE], layers[VEGETATION] = _MASONRY, _PLASTER, _LEAVES
    return layers


def _brightness(style: Style, camera: Camera, layer: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Texture factors `[H, W]`, fixed to the world: the ground's on its plane, the rest on the plane of the fronts."""
    rows = np.arange(camera.height, dtype=np.float32) + np.float32(0.5)
    tangent = (np.arange(camera.width, dtype=np.float32) + np.float32(0.5 - camera.centre_px)) / camera.focal_px
    depth = _ground_depth(camera)[:, None]
    across = (tangent[None, :] - camera.bend * depth) * depth + camera.x_m
    fronts = [abs(style.layout.frontage(side) - camera.x_m) for side in (-1, 1)]
    # Rounded off at the vanishing point, where the fronts' plane would run to infinity.
    steep = np.hypot(tangent, np.float32(0.05))
    wall = (np.where(tangent < 0, fronts[0], fronts[1]) / steep).astype(np.float32)
    height = camera.y_m + (camera.horizon_px - rows)[:, None] / camera.focal_px * wall[None, :]
    upright = layer >= _PLASTER
    # Leaves face the camera: along the front's plane they would smear into streaks.
    leaves = np.arcsinh(tangent / np.float32(0.05)) * np.float32(max(fronts))
    along = _texel(np.where(layer == _LEAVES, leaves[None, :], (wall + camera.z_m)[None, :]))
    i = np.where(upright, _texel(height), _texel(depth + camera.z_m))
    j = np.where(upright, along, _texel(across))
    texture = _atlas().ravel().take((np.minimum(layer, _LEAVES).astype(np.int32) * _TILE + i) * _TILE + j)
    footprint = np.where(upright, wall[None, :], depth) * np.float32(0.25 * _TEXELS_PER_M / camera.focal_px)
    factor = (texture - 1) / (1 + footprint) + 1
    factor[layer == _PLAIN] = 1.0
    return np.asarray(factor, dtype=np.float32)


def _texel(metres: NDArray[np.float32]) -> NDArray[np.int32]:
    texels: NDArray[np.int32] = (metres * np.float32(_TEXELS_PER_M)).astype(np.int32)
    texels &= _TILE - 1
    return texels


def _ground_depth(camera: Camera) -> NDArray[np.float32]:
    """Distance `[H]` of the ground that each row shows."""
    drop = np.maximum(np.arange(camera.height) + 0.5 - camera.horizon_px, 0.5)
    return np.asarray(np.minimum(camera.focal_px * camera.y_m / drop, FAR_M * 4), dtype=np.float32)


def _shade(shadows: DisplayList, camera: Camera) -> NDArray[np.float32]:
    """Share of the light `[H, W]` that the ground gets."""
    mask = Image.new("L", (camera.width, camera.height), 255)
    shadows.paint(mask, camera, 1)
    soft = mask.filter(ImageFilter.BoxBlur(max(0.7, camera.height / 350)))
    return np.asarray(np.asarray(soft) / np.float32(255), dtype=np.float32)


def _grain(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """The sensor's noise `[H, W, 1]`: rows of one table at random places."""
    table = rng.standard_normal(width + 4096, dtype=np.float32) * np.float32(2.2)
    starts = rng.integers(0, 4096, size=height).tolist()
    return np.stack([table[start : start + width] for start in starts])[:, :, None]


def finish(
    canvas: Image.Image, shadows: DisplayList, style: Style, camera: Camera, scale: int, grain: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn the painted canvas into the picture `[H, W, 3]` and its labels `[H, W]`."""
    size = (camera.width, camera.height)
    # Nearest at one third of the size takes the middle of each 3 by 3 samples: the pixel's centre.
    codes = np.asarray(canvas.resize(size, Image.Resampling.NEAREST))[:, :, 3]
    labels = codes & np.uint8(SMOOTH - 1)
    ground = _IS_GROUND[labels]
    gain = _brightness(style, camera, _layers(style.seed)[codes])
    gain *= np.where(ground, _shade(shadows, camera), np.float32(1))
    clear = np.exp(np.float32(-style.light.haze_per_m) * _ground_depth(camera))[:, None]
    gain *= np.where(ground, clear, np.float32(1)) * np.float32(style.contrast)
    picture = np.asarray(canvas.reduce(scale))[:, :, :3] * gain[:, :, None]
    veil = np.where(ground, 1 - clear, np.float32(0)) * np.float32(255 * style.contrast)
    picture += veil[:, :, None] * np.asarray(style.light.horizon, dtype=np.float32)
    picture += _grain(grain, camera.height, camera.width) + np.float32(118.0 * (style.exposure - style.contrast) + 0.5)
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8), labels
