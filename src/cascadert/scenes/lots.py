"""What lines the street: buildings, houses with gardens, parks, walls and fences."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cascadert.classes import BUILDING, FENCE, WALL
from cascadert.scenes.display import LIT, SMOOTH, Colour
from cascadert.scenes.pen import Pen
from cascadert.scenes.plants import hedge, tree
from cascadert.scenes.rng import keyed, mix, vary

FLOOR_M = 3.1
_DEPTH_M = 14.0


@dataclass(frozen=True)
class Lot:
    """A piece of street front on `side` (-1 left, 1 right) from `z0` to `z1`."""

    kind: str
    side: int
    z0: float
    z1: float
    key: int


def lot_extent(pen: Pen, lot: Lot) -> tuple[float, float]:
    """Positions across the street that a lot covers, left first."""
    front = pen.style.layout.frontage(lot.side)
    back = front + lot.side * _DEPTH_M
    return (front, back) if lot.side > 0 else (back, front)


def draw_lot(pen: Pen, lot: Lot) -> None:
    """Draw a lot, back to front."""
    rng = keyed(pen.style.seed, "lot", lot.side, lot.key)
    front = pen.style.layout.frontage(lot.side)
    if lot.kind == "building":
        _building(pen, lot, rng, front, rng.choice((2, 3, 4, 4, 5, 5, 6, 8)))
    elif lot.kind == "house":
        _house(pen, lot, rng, front)
    elif lot.kind == "wall":
        _trees_behind(pen, lot, rng, front + lot.side * 4)
        _wall(pen, lot, rng, front, rng.uniform(1.6, 3.4))
    else:
        _park(pen, lot, rng, front)


def _building(pen: Pen, lot: Lot, rng: random.Random, front: float, floors: int) -> None:
    colour = vary(rng, rng.choice(pen.style.facades), 0.12)
    height = floors * FLOOR_M + rng.uniform(0.4, 1.6)
    back = front + lot.side * _DEPTH_M
    end = pen.facing(colour, 0, 0, -1)
    pen.solid.box_face(front, back, 0, height, lot.z0, end, BUILDING | SMOOTH)
    if rng.random() < 0.4 and pen.pixels(FLOOR_M, lot.z0) > 6:
        _end_windows(pen, lot, rng, front, floors, end)
    pen.cast_shadow(min(front, back), max(front, back), lot.z0, lot.z1, height)
    _facade(pen, lot, rng, front, height, floors, colour)
    if rng.random() < 0.35:
        _roof(pen, lot, front, height, vary(rng, (0.45, 0.26, 0.20), 0.3))


def _end_windows(pen: Pen, lot: Lot, rng: random.Random, front: float, floors: int, wall: Colour) -> None:
    glass = mix(wall, (0.12, 0.14, 0.18), 0.75)
    for floor in range(floors):
        for column in range(3):
            x = front + lot.side * (2.0 + 3.4 * column)
            y = floor * FLOOR_M + 1.0
            pen.solid.box_face(x, x + lot.side * 1.1, y, y + 1.5, lot.z0, glass, BUILDING | SMOOTH)


def _strips(pen: Pen, z0: float, z1: float) -> list[float]:
    """Cut a long face so that each part has its own haze; nearest part last."""
    cuts = [z1]
    while cuts[-1] > z0:
        ahead = max(cuts[-1] - pen.camera.z_m, 0.0)
        cuts.append(max(z0, cuts[-1] - max(4.0, 0.25 * ahead)))
    return cuts


def _face(pen: Pen, x: float, z0: float, z1: float, y0: float, y1: float, colour: Colour, label: int) -> None:
    cuts = _strips(pen, z0, z1)
    for far, near in pairwise(cuts):
        pen.solid.side_face(x, near, far, y0, y1, colour, label)


def _facade(pen: Pen, lot: Lot, rng: random.Random, x: float, height: float, floors: int, colour: Colour) -> None:
    normal = -float(lot.side)
    lit = pen.facing(colour, normal, 0, 0)
    _face(pen, x, lot.z0, lot.z1, 0, height, lit, BUILDING)
    _face(pen, x, lot.z0, lot.z1, 0, 0.7, mix(lit, (0.1, 0.1, 0.1), 0.35), BUILDING)
    trim = mix(lit, (0.9, 0.9, 0.86), rng.uniform(0.2, 0.6))
    _face(pen, x, lot.z0, lot.z1, height - 0.5, height, trim, BUILDING)
    if rng.random() < 0.5:
        for floor in range(1, floors):
            _face(pen, x, lot.z0, lot.z1, floor * FLOOR_M - 0.1, floor * FLOOR_M + 0.1, trim, BUILDING)
    shop = rng.random() < 0.25 + 0.5 * pen.style.urban
    if pen.pixels(FLOOR_M, max(lot.z0, pen.camera.z_m + 2)) > 5:
        _windows(pen, lot, rng, x, floors, lit, trim, first=1 if shop else 0)
        if shop:
            _shop(pen, lot, rng, x, lit)


def _windows(
    pen: Pen, lot: Lot, rng: random.Random, x: float, floors: int, lit: Colour, trim: Colour, first: int
) -> None:
    bay = rng.uniform(1.9, 3.4)
    wide = bay * (0.94 if rng.random() < 0.2 else rng.uniform(0.38, 0.62))
    tall, sill = rng.uniform(1.2, 2.1), rng.uniform(0.6, 0.95)
    bays = int((lot.z1 - lot.z0 - 0.8) // bay)
    if bays < 1 or floors <= first:
        return
    margin = (lot.z1 - lot.z0 - bays * bay) / 2
    z = lot.z1 - margin - bay * (np.arange(bays) + 0.5)
    z, y = (a.ravel() for a in np.meshgrid(z, (np.arange(first, floors)) * FLOOR_M + sill))
    order = np.argsort(-z, kind="stable")
    z, y = z[order], y[order]
    dice = np.random.default_rng(rng.getrandbits(64)).random((len(z), 2))
    light = pen.style.light
    sky = np.asarray(mix(light.horizon, light.zenith, 0.5))
    dark = np.array((0.10, 0.12, 0.15))
    glass = dark + (sky - dark) * (0.1 + 0.5 * dice[:, :1] ** 2)
    warm = dice[:, 1] < (0.35 if light.lamps_on else 0.03)
    glass[warm] = (0.95, 0.80, 0.50)
    if light.lamps:
        glass[warm] *= (0.45 + 0.55 * dice[warm, :1]) * np.array((1.0, 0.95, 0.8)) ** (4 * dice[warm, :1])
    frame = 0.13
    step = lot.side * -0.02
    pen.solid.polygons(_rects(x + step, z, y, wide / 2 + frame, -frame, tall + frame), np.asarray(trim), BUILDING)
    pen.solid.polygons(_rects(x + step, z, y, wide / 2, 0.0, tall), glass, BUILDING | SMOOTH | LIT * warm)
    if pen.pixels(0.08, max(lot.z0, pen.camera.z_m + 4)) > 0.6:
        pen.solid.polygons(_rects(x + step, z, y, 0.04, 0.0, tall), np.asarray(trim), BUILDING)
        shade = np.asarray(mix(lit, (0.0, 0.0, 0.0), 0.3))
        pen.solid.polygons(_rects(x + step, z, y, wide / 2 + 0.2, -0.28, -0.12), shade, BUILDING)


def _rects(
    x: float, z: NDArray[np.float64], y: NDArray[np.float64], half: float, low: float, high: float
) -> NDArray[np.float64]:
    points = np.empty((len(z), 4, 3))
    points[:, :, 0] = x
    points[:, :2, 2], points[:, 2:, 2] = (z - half)[:, None], (z + half)[:, None]
    points[:, (0, 3), 1], points[:, (1, 2), 1] = (y + low)[:, None], (y + high)[:, None]
    return points


def _shop(pen: Pen, lot: Lot, rng: random.Random, x: float, lit: Colour) -> None:
    z, out = lot.z1 - 0.5, -lot.side * 0.03
    while z - 3.0 > lot.z0:
        wide = rng.uniform(2.6, 5.0)
        near = max(z - wide, lot.z0 + 0.4)
        glass = mix((0.10, 0.11, 0.13), vary(rng, (0.6, 0.55, 0.45), 0.5), rng.uniform(0.05, 0.6))
        shining = 0
        if pen.style.light.lamps and keyed(pen.style.seed, "open", lot.side, lot.key, round(z)).random() < 0.6:
            glass, shining = mix(glass, (1.0, 0.86, 0.62), 0.55 + 0.3 * pen.style.light.lamps), LIT
        pen.solid.side_face(x + out, near, z, 0.35, 2.5, glass, BUILDING | SMOOTH | shining)
        pen.solid.side_face(x + out, near, near + 0.9, 0.1, 2.4, mix(glass, (0, 0, 0), 0.5), BUILDING)
        sign = pen.facing(_bright(rng), -lot.side, 0.3, 0)
        if rng.random() < 0.7:
            pen.solid.side_face(x + out * 2, near, z, 2.5, 3.1, sign, BUILDING | SMOOTH)
        if rng.random() < 0.35:
            reach = x - lot.side * 1.2
            pen.solid.polygon(((x, 3.0, z), (x, 3.0, near), (reach, 2.4, near), (reach, 2.4, z)), sign, BUILDING)
            pen.solid.polygon(((x, 3.0, near), (reach, 2.4, near), (x, 2.4, near)), mix(sign, lit, 0.4), BUILDING)
        z = near - rng.uniform(0.3, 0.8)


def _bright(rng: random.Random) -> Colour:
    base = rng.choice(
        ((0.7, 0.15, 0.12), (0.15, 0.3, 0.6), (0.1, 0.4, 0.25), (0.85, 0.75, 0.2), (0.85, 0.84, 0.8), (0.2, 0.2, 0.22))
    )
    return vary(rng, base, 0.25)


def _roof(pen: Pen, lot: Lot, front: float, height: float, colour: Colour) -> None:
    ridge, rise = front + lot.side * _DEPTH_M / 2, 3.2
    gable = pen.facing(colour, 0, 0, -1)
    back = front + lot.side * _DEPTH_M
    pen.solid.polygon(
        ((front, height, lot.z0), (ridge, height + rise, lot.z0), (back, height, lot.z0)), gable, BUILDING
    )
    eave = front - lot.side * 0.3
    slope = pen.facing(colour, -lot.side * 0.5, 0.8, 0)
    cuts = _strips(pen, lot.z0, lot.z1)
    for far, near in pairwise(cuts):
        pen.solid.polygon(
            (
                (eave, height - 0.1, near),
                (ridge, height + rise, near),
                (ridge, height + rise, far),
                (eave, height - 0.1, far),
            ),
            slope,
            BUILDING,
        )


def _house(pen: Pen, lot: Lot, rng: random.Random, front: float) -> None:
    setback = rng.uniform(3.0, 6.0)
    gap = rng.uniform(1.0, 2.5)
    inner = Lot(lot.kind, lot.side, lot.z0 + gap, lot.z1 - gap, lot.key)
    if rng.random() < 0.6:
        tree(pen, front + lot.side * rng.uniform(8, 12), lot.z1 - 0.5, rng.uniform(6, 11), lot.key * 5)
    colour = vary(rng, rng.choice(pen.style.facades), 0.15)
    floors = rng.choice((1, 2, 2, 3))
    height = floors * FLOOR_M + 0.3
    x = front + lot.side * setback
    pen.solid.box_face(x, x + lot.side * _DEPTH_M, 0, height, inner.z0, pen.facing(colour, 0, 0, -1), BUILDING | SMOOTH)
    _end_windows(pen, inner, rng, x, floors, pen.facing(colour, 0, 0, -1))
    _facade(pen, inner, rng, x, height, floors, colour)
    _roof(pen, inner, x, height, vary(rng, (0.44, 0.25, 0.20), 0.35))
    pen.cast_shadow(min(x, x + lot.side * 8), max(x, x + lot.side * 8), inner.z0, inner.z1, height + 1)
    for i in range(rng.randrange(3)):
        z = rng.uniform(lot.z0 + 1, lot.z1 - 1)
        tree(pen, front + lot.side * rng.uniform(1.2, 2.5), z, rng.uniform(2.5, 6), lot.key * 5 + i + 1)
    _boundary(pen, lot, rng, front)


def _park(pen: Pen, lot: Lot, rng: random.Random, front: float) -> None:
    places = sorted(
        ((rng.uniform(lot.z0, lot.z1), rng.uniform(1.5, 16.0)) for _ in range(rng.randrange(3, 8))), reverse=True
    )
    hedge(pen, front + lot.side * 17, lot.z0, lot.z1, 3.0, lot.key)
    for i, (z, away) in enumerate(places):
        tree(pen, front + lot.side * away, z, rng.uniform(5, 13), lot.key * 9 + i)
    if rng.random() < 0.85:
        _boundary(pen, lot, rng, front)


def _trees_behind(pen: Pen, lot: Lot, rng: random.Random, x: float) -> None:
    z = lot.z1 - 2
    while z > lot.z0:
        tree(pen, x + lot.side * rng.uniform(0, 5), z, rng.uniform(5, 10), lot.key * 9 + int(z) % 7)
        z -= rng.uniform(3, 7)


def _boundary(pen: Pen, lot: Lot, rng: random.Random, x: float) -> None:
    kind = rng.choice(("fence", "fence", "fence", "hedge", "wall", "none"))
    if kind == "fence":
        _fence(pen, lot, rng, x, rng.uniform(0.9, 1.8))
    elif kind == "hedge":
        hedge(pen, x + lot.side * 0.5, lot.z0, lot.z1, rng.uniform(0.9, 1.9), lot.key)
    elif kind == "wall":
        _wall(pen, lot, rng, x, rng.uniform(0.8, 1.6))


def _wall(pen: Pen, lot: Lot, rng: random.Random, x: float, height: float) -> None:
    base = rng.choice(((0.60, 0.58, 0.55), (0.52, 0.33, 0.27), (0.72, 0.70, 0.66), (0.45, 0.44, 0.44)))
    colour = vary(rng, base, 0.15)
    lit = pen.facing(colour, -lot.side, 0, 0)
    pen.cast_shadow(x, x + 0.3, lot.z0, lot.z1, height)
    pen.solid.box_face(x, x + lot.side * 0.3, 0, height, lot.z0, pen.facing(colour, 0, 0, -1), WALL)
    _face(pen, x, lot.z0, lot.z1, 0, height, lit, WALL)
    _face(pen, x, lot.z0, lot.z1, height - 0.14, height, mix(lit, (0.9, 0.9, 0.9), 0.35), WALL)
    posts = rng.uniform(3, 6)
    z = lot.z1
    while z > lot.z0:
        pen.solid.side_face(x - lot.side * 0.02, z - 0.35, z, 0, height + 0.1, mix(lit, (0, 0, 0), 0.18), WALL)
        z -= posts


def _fence(pen: Pen, lot: Lot, rng: random.Random, x: float, height: float) -> None:
    base = rng.choice(
        ((0.86, 0.85, 0.82), (0.16, 0.17, 0.17), (0.44, 0.30, 0.18), (0.18, 0.30, 0.22), (0.55, 0.56, 0.57))
    )
    lit = pen.facing(vary(rng, base, 0.1), -lot.side, 0, 0)
    behind = mix(pen.lit(pen.style.leaves, 0.55), lit, 0.25)
    _face(pen, x, lot.z0, lot.z1, 0, height, behind, FENCE)
    z, gap = lot.z1, rng.choice((0.16, 0.25, 0.4))
    near = max(lot.z0, pen.camera.z_m + 1.0)
    if near >= lot.z1:
        return
    count = int((lot.z1 - near) / gap)
    z_all: NDArray[np.float64] = lot.z1 - gap * np.arange(count, dtype=np.float64)
    z_all = z_all[gap * pen.camera.focal_px * abs(x - pen.camera.x_m) / (z_all - pen.camera.z_m) ** 2 > 0.5]
    pickets = _rects(x, z_all, np.zeros(len(z_all)), gap * 0.22, 0.0, height)
    pen.solid.polygons(pickets, np.asarray(lit), FENCE)
    for y in (height * 0.2, height * 0.88):
        _face(pen, x, lot.z0, z, y - 0.05, y + 0.05, lit, FENCE)
