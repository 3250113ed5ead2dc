"""From the painted polygons to the picture: shadows, world-locked texture, haze on the ground, grain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cascadert.classes import BUILDING, FENCE, ROAD, SIDEWALK, TERRAIN, VEGETATION, WALL
from cascadert.scenes.bands import bands
from cascadert.scenes.camera import FAR_M, Camera
from cascadert.scenes.display import SMOOTH, DisplayList
from cascadert.scenes.night import FRONTS, UNIT, StreetLight
from cascadert.scenes.rain import drops
from cascadert.scenes.style import Style
from cascadert.scenes.weather import under_weather
from cascadert.scenes.wet import darkening

_TILE = 512
_TEXELS_PER_M = 40.0
_PLASTER, _MASONRY, _LEAVES, _PLAIN = 3, 4, 5, 255
_IS_GROUND = np.isin(np.arange(256), (ROAD, SIDEWALK, TERRAIN))
_IS_FRONT = np.isin(np.arange(256), FRONTS)
_DAYLIGHT = np.uint8(round(1 / UNIT))


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


class _Texture:
    """Brightness factors, fixed to the world: the ground's on its plane, the rest on the plane of the fronts."""

    def __init__(self, style: Style, camera: Camera, depth: NDArray[np.float32]) -> None:
        self._camera, self._depth = camera, depth
        self._rows = np.arange(camera.height, dtype=np.float32) + np.float32(0.5)
        self._tangent, self._wall = _tangent(camera), _wall_depth(style, camera)
        # Leaves face the camera: along the front's plane they would smear into streaks.
        leaves = np.arcsinh(self._tangent / np.float32(0.05)) * np.float32(max(_front_distances(style, camera)))
        self._leaves, self._along = _texel(leaves)[None, :], _texel(self._wall + camera.z_m)[None, :]

    def factors(self, layer: NDArray[np.uint8], band: slice) -> NDArray[np.float32]:
        """Return the factors `[R, W]` of the rows `band`, whose atlas layers are `layer` `[R, W]`."""
        camera, wall, depth = self._camera, self._wall, self._depth[band, None]
        across = (self._tangent[None, :] - camera.bend * depth) * depth + camera.x_m
        height = camera.y_m + (camera.horizon_px - self._rows[band])[:, None] / camera.focal_px * wall[None, :]
        upright = layer >= _PLASTER
        along = np.where(layer == _LEAVES, self._leaves, self._along)
        i = np.where(upright, _texel(height), _texel(depth + camera.z_m))
        j = np.where(upright, along, _texel(across))
        texture = _atlas().ravel().take((np.minimum(layer, _LEAVES).astype(np.int32) * _TILE + i) * _TILE + j)
        footprint = np.where(upright, wall[None, :], depth) * np.float32(0.25 * _TEXELS_PER_M / camera.focal_px)
        factor = (texture - 1) / (1 + footprint) + 1
        factor[layer == _PLAIN] = 1.0
        return np.asarray(factor, dtype=np.float32)


def _front_distances(style: Style, camera: Camera) -> list[float]:
    """Metres across from the camera to the fronts, left and right."""
    return [abs(style.layout.frontage(side) - camera.x_m) for side in (-1, 1)]


def _wall_depth(style: Style, camera: Camera) -> NDArray[np.float32]:
    """Distance `[W]` of the front that each column shows."""
    tangent = _tangent(camera)
    left, right = _front_distances(style, camera)
    # Rounded off at the vanishing point, where the fronts' plane would run to infinity.
    steep = np.hypot(tangent, np.float32(0.05))
    return np.asarray(np.where(tangent < 0, left, right) / steep, dtype=np.float32)


def _tangent(camera: Camera) -> NDArray[np.float32]:
    """Slope `[W]` of each column's ray to the direction of travel."""
    columns = np.arange(camera.width, dtype=np.float32) + np.float32(0.5 - camera.centre_px)
    return np.asarray(columns / camera.focal_px, dtype=np.float32)


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
    """The sensor's noise `[H, W]`: rows of one table at random places."""
    table = rng.standard_normal(width + 4096, dtype=np.float32) * np.float32(2.2)
    starts = rng.integers(0, 4096, size=height).tolist()
    return np.stack([table[start : start + width] for start in starts])


@dataclass(frozen=True)
class Moment:
    """Which frame of which street is finished, and from where it is seen."""

    style: Style
    camera: Camera
    index: int
    time_s: float

    def rng(self, *purpose: int) -> np.random.Generator:
        """Random numbers of this frame."""
        return np.random.default_rng([self.style.seed & 0xFFFFFFFFFFFFFFFF, self.index, *purpose])


def finish(
    canvas: Image.Image, shadows: DisplayList, moment: Moment, scale: int, lighting: StreetLight | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn the painted canvas into the picture `[H, W, 3]` and its labels `[H, W]`."""
    style, camera = moment.style, moment.camera
    size = (camera.width, camera.height)
    # Nearest at one third of the size takes the middle of each 3 by 3 samples: the pixel's centre.
    codes = np.asarray(canvas.resize(size, Image.Resampling.NEAREST))[:, :, 3]
    labels = codes & np.uint8(SMOOTH - 1)
    depth = _ground_depth(camera)
    planes = _planes(np.asarray(canvas.reduce(scale)), codes, _shade(shadows, camera), depth, moment, lighting)
    if not style.light.plain:
        under_weather(planes, codes, depth, style, camera, moment.rng(1))
    noise = _grain(moment.rng(), camera.height, camera.width)
    noise += np.float32(118.0 * (style.exposure - style.contrast) + 0.5)
    image = np.empty((*labels.shape, 3), dtype=np.uint8)
    for band in bands(camera.height):
        for channel, plane in enumerate(planes):
            rows = plane[band]
            rows += noise[band]
            image[band, :, channel] = np.clip(rows, 0, 255, out=rows)
    if style.light.rain:
        drops(image, style.seed, moment.time_s, style.light.rain)
    return image, labels


def _planes(
    samples: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    shade: NDArray[np.float32],
    depth: NDArray[np.float32],
    moment: Moment,
    lighting: StreetLight | None,
) -> NDArray[np.float32]:
    """Return red, green and blue `[3, H, W]`, 0 to 255, of painted colours under texture, shadow, lamps and haze.

    Lamps light ground and fronts here, pixel by pixel; other things have been lit as they were painted.
    """
    style, camera, light = moment.style, moment.camera, moment.style.light
    texture, layers = _Texture(style, camera, depth), _layers(style.seed)
    clear = np.exp(np.float32(-light.haze_per_m) * depth)[:, None]
    lamps = None if lighting is None else lighting.maps(depth, _wall_depth(style, camera))
    planes = np.empty((3, camera.height, camera.width), dtype=np.float32)
    for band in bands(camera.height):
        ground, front = _IS_GROUND[codes[band]], _IS_FRONT[codes[band]]
        gain = texture.factors(layers[codes[band]], band)
        gain *= np.where(ground, shade[band], np.float32(1))
        gain *= np.where(ground, clear[band], np.float32(1)) * np.float32(style.contrast)
        if light.rain:
            gain *= darkening(codes[band], light.rain)
        veil = np.where(ground, 1 - clear[band], np.float32(0)) * np.float32(255 * style.contrast)
        for channel, plane in enumerate(planes):
            rows = plane[band]
            np.multiply(samples[band, :, channel], gain, out=rows)
            if lamps is not None:
                on_ground, on_front = (found[band, :, channel] for found in lamps)
                rows *= np.where(ground, on_ground, np.where(front, on_front, _DAYLIGHT)) * np.float32(UNIT)
            rows += veil * np.float32(light.horizon[channel])
    return planes
