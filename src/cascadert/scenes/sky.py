"""Sky, clouds and the far skyline."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cascadert.classes import BUILDING, ROAD, SKY, VEGETATION
from cascadert.scenes.camera import FAR_M, Camera
from cascadert.scenes.display import SMOOTH, DisplayList
from cascadert.scenes.pen import Pen
from cascadert.scenes.rng import keyed, mix
from cascadert.scenes.scaling import repeated
from cascadert.scenes.style import Style


@lru_cache(maxsize=4)
def _cloud_noise(seed: int) -> NDArray[np.float32]:
    """Periodic fractal noise `[256, 256]`, mean 0, deviation 1, stretched along the columns."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(256)[:, None] * 1.0, np.fft.rfftfreq(256)[None, :] * 2.2
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    spectrum = (rng.normal(size=radius.shape) + 1j * rng.normal(size=radius.shape)) / radius**1.75
    spectrum[0, 0] = 0.0
    noise: NDArray[np.float64] = np.fft.irfft2(spectrum, s=(256, 256))
    return np.asarray(noise / noise.std(), dtype=np.float32)


def sky_background(style: Style, camera: Camera, scale: int) -> Image.Image:
    """Return a four-band canvas `scale` times the picture, filled with sky and its label."""
    rows, columns = max(camera.height // 4, 8), max(camera.width // 4, 8)
    y = (np.arange(rows) + 0.5) * camera.height / rows
    x = (np.arange(columns) + 0.5) * camera.width / columns
    up = np.maximum((camera.horizon_px - y) / camera.focal_px, 0.0)[:, None]
    aside = ((x - camera.centre_px) / camera.focal_px)[None, :]
    light = style.light
    share = np.clip(1.0 - np.exp(-up * 4.5), 0, 1)[:, :, None]
    sky = np.asarray(light.horizon) * (1 - share) + np.asarray(light.zenith) * share
    sky = np.broadcast_to(sky, (rows, columns, 3))
    # Clouds lie on a plane overhead, so they flatten towards the horizon.
    far = 1.0 / (up + 0.12)
    noise = _cloud_noise(style.seed & 3)
    at_y = (far * 26 + style.seed * 29 % 256).astype(np.int64) & 255
    at_x = (aside * far * 26 + style.seed * 53 % 256).astype(np.int64) & 255
    cover = np.clip((noise[at_y, at_x] - 1.2 + 2.4 * light.clouds) * 0.75, 0, 1) * np.clip(up * 9, 0, 1)
    body = np.asarray(mix(light.horizon, (light.cloud_white,) * 3, 0.5)) * (0.97 - 0.10 * cover[:, :, None])
    mixed = sky * (1 - 0.85 * cover[:, :, None]) + body * 0.85 * cover[:, :, None]
    small = np.full((rows, columns, 4), SKY, dtype=np.uint8)
    small[:, :, :3] = np.clip(mixed * 255 + 0.5, 0, 255)
    image = Image.frombuffer("RGBX", (columns, rows), small.tobytes(), "raw", "RGBX", 0, 1)
    image = image.resize((camera.width, camera.height), Image.Resampling.BILINEAR)
    # The ground is painted over later; road stands where its nearest edge lies above the picture's lower border.
    grey = tuple(round(255 * c) for c in style.asphalt)
    canvas = Image.new("RGBX", (camera.width * scale, camera.height * scale), (*grey, ROAD))
    sky_rows = min(camera.height, int(camera.horizon_px) + 4)
    upper = image.crop((0, 0, camera.width, sky_rows))
    large = repeated(upper, scale)
    canvas.paste(Image.frombuffer("RGBX", large.shape[::-1], large, "raw", "RGBX", 0, 1))
    return canvas


def draw_skyline(pen: Pen, out: DisplayList) -> None:
    """Add hills or houses at the end of the street."""
    rng = keyed(pen.style.seed, "skyline")
    camera, z = pen.camera, pen.camera.z_m + FAR_M
    shift = -camera.bend * FAR_M * FAR_M
    light = pen.style.light
    leaves = pen.lit(pen.style.leaves, light.ambient)
    x = -260.0
    while x < 260.0:
        wide = rng.uniform(8, 22)
        if rng.random() < 0.25 + 0.6 * pen.style.urban:
            wall = pen.facing(mix(rng.choice(pen.style.facades), (0.5, 0.5, 0.5), 0.4), 0, 0, -1)
            out.box_face(x + shift, x + wide + shift, 0, rng.uniform(7, 20), z, wall, BUILDING | SMOOTH)
        else:
            top = rng.uniform(5, 13)
            out.polygon(
                [(x + shift - 6, 0, z)]
                + [(x + shift + wide * i / 8 - 3, top * rng.uniform(0.75, 1.1), z) for i in range(10)]
                + [(x + shift + wide + 6, 0, z)],
                leaves,
                VEGETATION | SMOOTH,
            )
        x += wide * 0.85
