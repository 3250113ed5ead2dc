"""Falling rain, and drops on the windscreen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from cascadert.scenes.rng import keyed

_STREAKS = 520
_DROPS = 16
_DROP_LIFE_S = 4.0


def streaks(rng: np.random.Generator, height: int, width: int, rain: float, slant: float) -> NDArray[np.uint8]:
    """Return how much of each pixel `[H, W]` falling drops veil, 0 to 255; `slant` is columns per row."""
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    count = round(_STREAKS * rain * (width / height) / 2)
    near = rng.random(count) ** 2.5
    x, y = rng.uniform(-0.1, 1.1, count) * width, rng.uniform(-0.1, 1.0, count) * height
    long = (0.018 + 0.10 * near) * height * rng.uniform(0.7, 1.3, count)
    lean = slant + rng.normal(0, 0.025, count)
    ink = (70 + 75 * rng.random(count)) * (1 - 0.55 * near)
    thick = np.maximum(1, np.rint(near * 2.4 * height / 384))
    lines = np.stack([x, y, x + lean * long, y + long], axis=1).tolist()
    for line, grey, size in zip(lines, ink.astype(int).tolist(), thick.astype(int).tolist(), strict=True):
        draw.line(line, fill=grey, width=size)
    return np.asarray(mask.filter(ImageFilter.BoxBlur(max(0.4, height / 900))))


def drops(picture: NDArray[np.uint8], seed: int, time_s: float, rain: float) -> None:
    """Draw drops on the windscreen into `picture` `[H, W, 3]`: small lenses that turn the view upside down.

    Each stays where it fell for some seconds and runs down a little; another one takes its turn elsewhere.
    """
    height, width = picture.shape[:2]
    for number in range(round(_DROPS * rain)):
        start = keyed(seed, "drop", number).random()
        turn, age = divmod(time_s / _DROP_LIFE_S + start, 1.0)
        rng = keyed(seed, "drop", number, int(turn))
        radius = max(1.5, rng.uniform(0.008, 0.024) * height)
        x, y = rng.uniform(0, width), (rng.uniform(-0.05, 0.95) + 0.06 * max(0.0, age - 0.5)) * height
        _lens(picture, x, y, radius, rng.uniform(1.0, 1.4))


def _lens(picture: NDArray[np.uint8], x: float, y: float, radius: float, tall: float) -> None:
    height, width = picture.shape[:2]
    reach_x, reach_y = math.ceil(radius), math.ceil(radius * tall)
    x0, x1 = max(0, int(x) - reach_x), min(width, int(x) + reach_x + 1)
    y0, y1 = max(0, int(y) - reach_y), min(height, int(y) + reach_y + 1)
    if x0 >= x1 or y0 >= y1:
        return
    rows, columns = np.mgrid[y0:y1, x0:x1]
    across, up = (columns - x) / radius, (rows - y) / (radius * tall)
    away = across**2 + up**2
    inside = np.clip((1 - away) * radius * 0.6, 0, 1)[..., None]
    # A drop gathers the view of a wide angle and turns it over.
    from_y = np.clip(y - up * radius * 7, 0, height - 1).astype(int)
    from_x = np.clip(x - across * radius * 7, 0, width - 1).astype(int)
    seen = picture[from_y, from_x] * (1.08 - 0.35 * away[..., None] * (0.6 - 0.5 * up[..., None]))
    patch = picture[y0:y1, x0:x1]
    patch[:] = np.clip(patch + 0.8 * inside * (seen - patch), 0, 255).astype(np.uint8)
