"""Trees, bushes and hedges: heaps of leaf blobs, dark below, light towards the sun."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import VEGETATION
from cascadert.scenes.display import Colour
from cascadert.scenes.pen import Pen
from cascadert.scenes.rng import keyed, mix, vary

_CORNERS = 9


def _blobs(count: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(7)
    angle = (np.arange(_CORNERS) + rng.uniform(-0.3, 0.3, (count, _CORNERS))) * 2 * np.pi / _CORNERS
    radius = rng.uniform(0.65, 1.15, (count, _CORNERS))
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=2)


def _balls(count: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(11)
    points = rng.normal(size=(count, 2))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return np.column_stack([points * np.sqrt(rng.uniform(0.02, 0.8, (count, 1))), rng.uniform(0.6, 1.3, count)])


# Unit outlines [64, corners, 2] and unit positions with sizes [512, 3], shared by all plants.
_OUTLINES = _blobs(64)
_PLACES = _balls(512)


def crown(pen: Pen, x: float, y: float, z: float, rx: float, ry: float, colour: Colour, key: int) -> None:
    """Draw a leafy mass around (x, y, z) with half-axes `rx`, `ry`."""
    size_px = pen.pixels(max(rx, ry), z)
    count = int(min(150, max(5, size_px * 0.9)))
    first = (key * 37) % (len(_PLACES) - 160)
    places = _PLACES[first : first + count]
    outlines = _OUTLINES[(np.arange(count) + key) % len(_OUTLINES)]
    blob = (0.34 if count > 40 else 0.5) * (40 / max(count, 40)) ** 0.25
    sun = pen.style.light.sun
    shade = 0.50 * places[:, 1] + 0.35 * np.sign(sun[0]) * places[:, 0] * abs(sun[0]) + 0.3 * (places[:, 2] - 0.95)
    order = np.argsort(shade, kind="stable")
    light = pen.style.light.ambient + pen.style.light.direct * 0.6
    gain = light * (0.82 + 0.62 * shade[order])
    points = np.empty((count + 1, _CORNERS, 3))
    size = blob * places[order, 2][:, None]
    points[1:, :, 0] = x + rx * (places[order, 0][:, None] * 0.8 + outlines[:, :, 0] * size)
    points[1:, :, 1] = np.maximum(y + ry * (places[order, 1][:, None] * 0.8 + outlines[:, :, 1] * size), 0.0)
    points[0, :, 0] = x + rx * 0.85 * outlines[0, :, 0]
    points[0, :, 1] = np.maximum(y + ry * 0.85 * outlines[0, :, 1], 0.0)
    points[:, :, 2] = z
    colours = np.concatenate([[0.55 * light], gain])[:, None] * (np.asarray(colour) * np.asarray(pen.style.light.tint))
    pen.solid.polygons(points, colours, VEGETATION)


def tree(pen: Pen, x: float, z: float, height: float, key: int) -> None:
    """Draw a tree on a trunk."""
    rng = keyed(pen.style.seed, "tree", key)
    leaves = vary(rng, pen.style.leaves, 0.22)
    if rng.random() < pen.style.dry_leaves:
        leaves = mix(leaves, (0.62, 0.40, 0.12), rng.uniform(0.3, 0.9))
    shape, width = rng.random(), rng.uniform(0.28, 0.42) * height
    bark = pen.facing(vary(rng, (0.30, 0.24, 0.19), 0.2), 0, 0.3, -0.9)
    trunk = height * (0.12 if shape > 0.8 else rng.uniform(0.28, 0.4))
    radius = 0.018 * height + 0.04
    pen.solid.limb((x, 0, z), (x, trunk * 1.4, z), radius * 1.2, bark, VEGETATION, radius * 0.8)
    pen.cast_shadow(x - width * 0.5, x + width * 0.5, z - width * 0.5, z + width * 0.5, trunk + height * 0.3)
    if shape > 0.8:
        for step in range(4):
            y = trunk + (height - trunk) * (step + 0.5) / 4
            crown(pen, x, y, z, width * (0.8 - 0.19 * step), height * 0.17, mix(leaves, (0.1, 0.2, 0.1), 0.3), key + step)
        return
    middle = (trunk + height) / 2
    if pen.pixels(height, z) > 40:
        for _ in range(3):
            dx, dy = rng.uniform(-0.5, 0.5) * width, rng.uniform(-0.25, 0.3) * (height - trunk)
            crown(pen, x + dx, middle + dy, z, width * 0.62, (height - trunk) * 0.33, leaves, key + rng.randrange(99))
    crown(pen, x, middle, z, width * 0.85, (height - trunk) * 0.48, leaves, key)


def hedge(pen: Pen, x: float, z0: float, z1: float, height: float, key: int) -> None:
    """Draw a row of bushes along the street, far end first."""
    rng = keyed(pen.style.seed, "hedge", key)
    leaves = vary(rng, pen.style.leaves, 0.2)
    z, step = z1 - height * 0.4, height * 0.7
    pen.solid.side_face(x, z0, z1, 0, height * 0.75, pen.facing(leaves, 0, 0.2, 0), VEGETATION)
    while z > max(z0, pen.camera.z_m):
        crown(pen, x, height * 0.48, z, height * 0.62, height * rng.uniform(0.48, 0.56), leaves, key + int(z))
        z -= step * max(1.0, (z - pen.camera.z_m) / 50)
