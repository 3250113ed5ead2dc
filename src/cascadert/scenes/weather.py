"""What rain and night do to a finished picture: reflections, halos, streaks, a sensor that starves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadert.scenes.bands import bands
from cascadert.scenes.camera import Camera
from cascadert.scenes.glow import halos
from cascadert.scenes.rain import streaks
from cascadert.scenes.rng import keyed
from cascadert.scenes.style import Style
from cascadert.scenes.wet import mirror

_NOISE = 4096


def under_weather(
    planes: NDArray[np.float32],
    codes: NDArray[np.uint8],
    depth: NDArray[np.float32],
    style: Style,
    camera: Camera,
    rng: np.random.Generator,
) -> None:
    """Change `planes` `[3, H, W]` (0 to 255) into what a camera sees in this street's rain and darkness.

    Args:
        planes: Changed in place.
        codes: Label and flags `[H, W]`.
        depth: Distance `[H]` of the ground that each row shows, metres.
        style: The street.
        camera: The view.
        rng: Of this frame's rain and noise.
    """
    light = style.light
    if light.rain:
        mirror(planes, codes, depth, camera, light.rain)
    glow = halos(planes, codes, light.rain) if light.lamps_on else None
    if glow is not None:
        _add(planes, glow, max(light.lamps, 0.3))
    if light.rain:
        _fall(planes, glow, style, rng)
    if light.dark:
        _starve(planes, light.dark, rng)


def _add(planes: NDArray[np.float32], glow: NDArray[np.uint8], strength: float) -> None:
    """Add halos as light adds up on film: what is bright already gains little."""
    for band in bands(planes.shape[1]):
        for channel, plane in enumerate(planes):
            rows = plane[band]
            rows += glow[band, :, channel] * ((300 - np.minimum(rows, 255)) * np.float32(strength / 300))


def _fall(planes: NDArray[np.float32], glow: NDArray[np.uint8] | None, style: Style, rng: np.random.Generator) -> None:
    """Streaks take the colour of the sky, and of the lights around them."""
    _, height, width = planes.shape
    light = style.light
    slant = keyed(style.seed, "wind").uniform(-0.22, 0.22)
    veil = streaks(rng, height, width, light.rain, slant).ravel()
    found = np.flatnonzero(veil)
    amount = veil[found] * np.float32(1 / 255)
    around = None if glow is None else glow[found // width, found % width] * np.float32(2)
    for channel, plane in enumerate(planes.reshape(3, -1)):
        behind = plane[found]
        colour = np.float32(235 * light.horizon[channel] + 70 * light.dark)
        bright = colour if around is None else colour + around[:, channel]
        plane[found] = behind + amount * (np.maximum(bright, behind * np.float32(0.9)) - behind)


def _starve(planes: NDArray[np.float32], dark: float, rng: np.random.Generator) -> None:
    """Little light: colours fade in the dark, and noise has colours of its own."""
    _, height, width = planes.shape
    tables = rng.standard_normal((3, width + _NOISE), dtype=np.float32) * np.float32(4.2 * dark)
    starts = rng.integers(0, _NOISE, size=(3, height)).tolist()
    for band in bands(height):
        red, green, blue = planes[:, band]
        grey = red * np.float32(0.30) + green * np.float32(0.59) + blue * np.float32(0.11)
        keep = np.minimum(np.float32(1 - 0.55 * dark) + grey * np.float32(0.55 * dark / 110), 1)
        fade = grey - grey * keep
        for rows, table, places in zip((red, green, blue), tables, starts, strict=True):
            rows *= keep
            rows += fade
            for row, start in zip(rows, places[band], strict=True):
                row += table[start : start + width]
