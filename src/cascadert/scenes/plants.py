"""Trees, bushes and hedges: heaps of leaf blobs, dark below, light towards the sun."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import VEGETATION
from cascadert.scenes.camera import NEAR_M
from cascadert.scenes.display import Colour
from cascadert.scenes.pen import Pen
from cascadert.scenes.rng import keyed, mix, vary

_CORNERS = 8
# A mass of leaves: centre across and up, half-axes across and up, in metres.
Mass = tuple[float, float, float, float]


def _outlines(count: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(7)
    angle = (np.arange(_CORNERS) + rng.uniform(-0.3, 0.3, (count, _CORNERS))) * 2 * np.pi / _CORNERS
    radius = rng.uniform(0.6, 1.2, (count, _CORNERS))
    return np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=2)


def _places(count: int) -> NDArray[np.float64]:
    """Columns: across and up in the unit disc, size, own brightness. Big blobs first, leaves later."""
    rng = np.random.default_rng(11)
    angle, away = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0.0, 0.85, count))
    size = rng.uniform(0.7, 1.2, count)
    return np.column_stack([np.cos(angle) * away, np.sin(angle) * away, size, rng.normal(0, 0.12, count)])


# Shared by all plants; a plant starts reading at a place of its own.
_OUTLINES = _outlines(128)
_PLACES = _places(2048)
_MOST_BLOBS = 520


def foliage(pen: Pen, z: float, masses: list[Mass], colour: Colour, key: int) -> None:
    """Draw masses of leaves in the upright plane at `z`, with as many blobs as their size in the picture deserves."""
    centre = np.array(masses)
    extent = float(centre[:, 2:].max()) * 2
    if not _in_picture(pen, z, centre):
        return
    size_px = pen.pixels(extent, z)
    count = int(min(_MOST_BLOBS, max(4, size_px * 0.9)))
    each = np.resize(np.arange(len(masses)), count)
    first = key * 37 % (len(_PLACES) - _MOST_BLOBS)
    places = _PLACES[first : first + count].copy()
    # Later blobs are smaller, so that a tree that comes nearer gains detail without changing its shape.
    rank = np.arange(count)
    core = np.clip(rank // len(masses), 0, 6) / 6
    size = places[:, 2] * np.maximum(0.62 * (1 + rank / (3 * len(masses))) ** -0.5, 0.055)
    places[:, :2] *= (0.25 + 0.75 * core)[:, None]
    x, y = centre[each, 0] + centre[each, 2] * places[:, 0], centre[each, 1] + centre[each, 3] * places[:, 1]
    middle, half = centre[:, :2].mean(axis=0), np.ptp(centre[:, :2], axis=0) / 2 + centre[:, 2:].mean(axis=0)
    light, sun = pen.style.light, pen.style.light.sun
    shade = 0.30 * (y - middle[1]) / half[1] + 0.20 * places[:, 1] + 0.28 * sun[0] * (x - middle[0]) / half[0]
    shade = shade + places[:, 3] + 0.04
    order = np.argsort(shade + np.where(rank < 3 * len(masses), -1.0, 0.0), kind="stable")
    outlines = _OUTLINES[(order + key) % len(_OUTLINES)]
    points = np.empty((count, _CORNERS, 3))
    radius = size[order, None] * centre[each[order], 2][:, None]
    points[:, :, 0] = x[order, None] + outlines[:, :, 0] * radius
    points[:, :, 1] = np.maximum(y[order, None] + outlines[:, :, 1] * radius * 0.85, 0.0)
    points[:, :, 2] = z
    bright = (light.ambient + light.direct * 0.6) * np.clip(0.86 + 0.75 * shade[order], 0.35, 1.5)
    pen.solid.polygons(points, bright[:, None] * np.asarray(pen.lit(colour, 1.0)), VEGETATION)


def _in_picture(pen: Pen, z: float, centre: NDArray[np.float64]) -> bool:
    """Whether any blob of the masses `[M, 4]` may show: they reach less than twice the half-axes."""
    if z - pen.camera.z_m <= NEAR_M:
        return False
    reach = 2.0 * centre[:, 2]
    return pen.camera.sees(float((centre[:, 0] - reach).min()), float((centre[:, 0] + reach).max()), z, z)


def tree(pen: Pen, x: float, z: float, height: float, key: int) -> None:
    """Draw a tree on a trunk."""
    rng = keyed(pen.style.seed, "tree", key)
    leaves = vary(rng, pen.style.leaves, 0.22)
    if rng.random() < pen.style.dry_leaves:
        leaves = mix(leaves, (0.62, 0.40, 0.12), rng.uniform(0.3, 0.9))
    conifer, width = rng.random() > 0.82, rng.uniform(0.24, 0.36) * height
    trunk = height * (0.12 if conifer else rng.uniform(0.28, 0.4))
    _trunk(pen, x, z, trunk * 1.5, 0.018 * height + 0.04, vary(rng, (0.30, 0.24, 0.19), 0.2))
    pen.cast_shadow(x - width * 0.5, x + width * 0.5, z - width * 0.5, z + width * 0.5, trunk + height * 0.3)
    tall = height - trunk
    if conifer:
        steps = [(x, trunk + tall * (i + 0.4) / 5, width * (0.85 - 0.17 * i), tall * 0.14) for i in range(5)]
        foliage(pen, z, steps, mix(leaves, (0.10, 0.20, 0.12), 0.4), key)
        return
    masses = [(x, trunk + tall * 0.5, width * 0.8, tall * 0.4)]
    for _ in range(rng.randrange(2, 6)):
        dx, dy = rng.uniform(-0.7, 0.7) * width, rng.uniform(-0.2, 0.28) * tall
        masses.append((x + dx, trunk + tall * 0.5 + dy, width * 0.5, tall * 0.25))
    foliage(pen, z, masses, leaves, key)


def _trunk(pen: Pen, x: float, z: float, height: float, radius: float, bark: Colour) -> None:
    lit = pen.facing(bark, 0, 0.3, -0.9)
    pen.solid.limb((x, 0, z), (x, height, z), radius * 1.2, lit, VEGETATION, radius * 0.8)
    shaded = mix(lit, (0, 0, 0), 0.35)
    aside = -0.5 * radius if pen.style.light.sun[0] > 0 else 0.5 * radius
    pen.solid.limb((x + aside, 0, z), (x + aside * 0.8, height, z), radius * 0.6, shaded, VEGETATION, radius * 0.3)


def hedge(pen: Pen, x: float, z0: float, z1: float, height: float, key: int) -> None:
    """Draw a row of bushes along the street, far end first."""
    rng = keyed(pen.style.seed, "hedge", key)
    leaves = vary(rng, pen.style.leaves, 0.2)
    pen.solid.side_face(x, z0, z1, 0, height * 0.75, pen.facing(leaves, 0, 0.2, 0), VEGETATION)
    z, nearest = z1 - height * 0.4, max(z0, pen.camera.z_m)
    while z > nearest:
        tall = height * rng.uniform(0.44, 0.54)
        foliage(pen, z, [(x, tall, height * 0.55, tall * 0.9)], leaves, key + int(z))
        z -= height * 0.8 * max(1.0, (z - pen.camera.z_m) / 30)
