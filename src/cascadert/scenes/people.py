"""Pedestrians, and riders with their bicycles and motorcycles."""

from __future__ import annotations

import math
import random

from cascadert.classes import BICYCLE, MOTORCYCLE, PERSON, RIDER
from cascadert.scenes.display import LIT, Colour, Point, unit_circle
from cascadert.scenes.pen import Pen
from cascadert.scenes.rng import keyed, mix, vary

_CLOTHES: tuple[Colour, ...] = (
    (0.14, 0.15, 0.18), (0.20, 0.24, 0.38), (0.55, 0.16, 0.15), (0.78, 0.77, 0.74), (0.35, 0.37, 0.36),
    (0.25, 0.36, 0.26), (0.72, 0.58, 0.28), (0.40, 0.28, 0.22), (0.30, 0.45, 0.62), (0.62, 0.40, 0.52),
)  # fmt: skip
_SKIN: tuple[Colour, ...] = ((0.86, 0.66, 0.54), (0.70, 0.50, 0.38), (0.45, 0.30, 0.22), (0.92, 0.74, 0.62))
_HAIR: tuple[Colour, ...] = ((0.10, 0.08, 0.07), (0.30, 0.20, 0.12), (0.60, 0.48, 0.28), (0.55, 0.54, 0.53))


def _outfit(pen: Pen, rng: random.Random) -> tuple[Colour, Colour, Colour, Colour]:
    brightness = pen.style.light.on(0, 0.3, -0.95)
    top = pen.lit(vary(rng, rng.choice(_CLOTHES), 0.25), brightness)
    trousers = pen.lit(vary(rng, rng.choice(_CLOTHES[:5]), 0.25), brightness * 0.9)
    skin = pen.lit(rng.choice(_SKIN), brightness)
    hair = pen.lit(rng.choice(_HAIR), brightness)
    return top, trousers, skin, hair


def pedestrian(pen: Pen, x: float, z: float, key: str, speed_x: float, speed_z: float) -> None:
    """Draw a person; `speed_x`, `speed_z` in m/s set the pose (both 0: standing)."""
    rng = keyed(pen.style.seed, "person", key)
    tall = rng.gauss(1.72, 0.09) if rng.random() < 0.88 else rng.uniform(1.0, 1.4)
    top, trousers, skin, hair = _outfit(pen, rng)
    pace = math.hypot(speed_x, speed_z)
    phase = 2 * math.pi * (pen.time_s * 0.9 + rng.random())
    across = 0.20 * tall * abs(speed_x) / pace if pace else 0.0
    swing = (across + (0.03 if pace else 0.0)) * math.sin(phase)
    stance = 0.05 * tall * (1.0 - 0.5 * bool(speed_x))
    pen.contact_shadow(x - 0.28, x + 0.28, z - 0.2, z + 0.2, 0.55)
    pen.cast_shadow(x - 0.15, x + 0.15, z - 0.1, z + 0.1, tall)
    s, hip = pen.solid, 0.50 * tall
    if pen.pixels(tall, z) < 13:
        _distant(pen, (x, z), tall, (top, trousers, hair))
        return
    for side in (-1, 1):
        lift = 0.04 * tall * max(0.0, math.sin(phase * 1.0 + side)) if pace else 0.0
        foot = (x + side * (stance + swing), 0.03 + lift, z)
        s.capsule((x + side * 0.045 * tall, hip, z), foot, 0.05 * tall, trousers, PERSON, 0.032 * tall)
        s.limb(foot, (foot[0] + 0.05, foot[1], z), 0.03 * tall, (0.07, 0.06, 0.06), PERSON)
    skirt = rng.random() < 0.15
    if skirt:
        s.polygon(
            (
                (x - 0.07 * tall, hip * 1.15, z),
                (x + 0.07 * tall, hip * 1.15, z),
                (x + 0.13 * tall, hip * 0.55, z),
                (x - 0.13 * tall, hip * 0.55, z),
            ),
            trousers,
            PERSON,
        )
    _upper(pen, (x, z), tall, swing, (top, skin, hair), rng, away=speed_z > 0)


def _distant(pen: Pen, at: tuple[float, float], tall: float, colours: tuple[Colour, Colour, Colour]) -> None:
    """A person of a few pixels."""
    (x, z), (top, trousers, hair), s = at, colours, pen.solid
    s.box_face(x - 0.07 * tall, x + 0.07 * tall, 0, 0.48 * tall, z, trousers, PERSON)
    s.box_face(x - 0.13 * tall, x + 0.13 * tall, 0.46 * tall, 0.82 * tall, z, top, PERSON)
    s.disc((x, 0.9 * tall, z), 0.07 * tall, hair, PERSON, 6)


def _upper(
    pen: Pen,
    at: tuple[float, float],
    tall: float,
    swing: float,
    colours: tuple[Colour, Colour, Colour],
    rng: random.Random,
    away: bool,
) -> None:
    (x, z), (top, skin, hair), s = at, colours, pen.solid
    hip, neck = 0.47 * tall, 0.83 * tall
    dark = mix(top, (0, 0, 0), 0.3)
    broad = 0.115 * tall * rng.uniform(0.9, 1.15)
    for side in (-1, 1):
        shoulder = (x + side * broad, neck - 0.03 * tall, z)
        hand = (x + side * (broad + 0.03 * tall) - side * swing * 0.8, 0.46 * tall, z)
        s.capsule(shoulder, hand, 0.035 * tall, dark, PERSON, 0.024 * tall)
        s.disc(hand, 0.026 * tall, skin, PERSON, 6)
    s.polygon(
        (
            (x - broad * 0.85, hip, z), (x - broad, neck - 0.05 * tall, z), (x - broad * 0.5, neck, z),
            (x + broad * 0.5, neck, z), (x + broad, neck - 0.05 * tall, z), (x + broad * 0.85, hip, z),
        ),
        top, PERSON,
    )  # fmt: skip
    s.polygon(
        ((x, hip, z), (x + broad * 0.3, neck, z), (x + broad, neck - 0.05 * tall, z), (x + broad * 0.85, hip, z)),
        mix(top, (0, 0, 0), 0.14), PERSON,
    )  # fmt: skip
    bag = rng.random()
    pack = pen.lit(vary(rng, rng.choice(_CLOTHES), 0.3), pen.style.light.ambient)
    if bag < 0.3 and away:
        s.box_face(x - broad * 0.7, x + broad * 0.7, hip + 0.06 * tall, neck - 0.04 * tall, z, pack, PERSON)
    elif bag < 0.4:
        s.box_face(x + broad, x + broad + 0.16, 0.33 * tall, 0.47 * tall, z, pack, PERSON)
    s.limb((x, neck - 0.02, z), (x, neck + 0.04 * tall, z), 0.028 * tall, skin, PERSON)
    s.disc((x, 0.925 * tall, z), 0.068 * tall, hair, PERSON, 12)
    if away:
        return
    s.disc((x + 0.012 * tall * (1 if swing > 0 else -1), 0.91 * tall, z), 0.052 * tall, skin, PERSON, 8)


# A bicycle's frame: crank, saddle, steering head and the two hubs, as (along, up).
_CRANK, _SADDLE, _HEAD, _REAR, _FRONT = (0.0, 0.30), (-0.17, 0.88), (0.38, 0.90), (-0.52, 0.34), (0.52, 0.34)
_TUBES = (
    (_REAR, _CRANK), (_REAR, _SADDLE), (_CRANK, _SADDLE), (_CRANK, _HEAD), (_SADDLE, _HEAD), (_HEAD, _FRONT),
)  # fmt: skip
_MOTORCYCLES: tuple[Colour, ...] = (
    (0.6, 0.1, 0.1), (0.1, 0.2, 0.5), (0.1, 0.1, 0.11), (0.75, 0.75, 0.75), (0.15, 0.4, 0.3), (0.8, 0.4, 0.1),
)  # fmt: skip
_HULL = ((-0.85, 0.75), (-0.75, 0.9), (-0.1, 0.82), (0.25, 0.98), (0.5, 0.9), (0.45, 0.45), (0.0, 0.28), (-0.45, 0.35))


class _Frame:
    """Maps (along the wheels, up, to the side) of a two-wheeler to the world."""

    def __init__(self, x: float, z: float, angle: float) -> None:
        self.x, self.z, self.cos, self.sin = x, z, math.cos(angle), math.sin(angle)

    def at(self, along: float, up: float, side: float = 0.0) -> Point:
        return (self.x + along * self.cos + side * self.sin, up, self.z + along * self.sin - side * self.cos)

    def ring(self, along: float, radius: float, width: float, corners: int = 12) -> list[Point]:
        """A wheel; seen end on it keeps its tyre's width."""
        flat = (1.0 - abs(self.cos)) * width
        points = []
        for c, v in unit_circle(corners):
            px, py, pz = self.at(along + radius * c, radius + radius * v)
            points.append((px + flat * c, py, pz))
        return points


def bicycle(pen: Pen, x: float, z: float, angle: float, key: str, rider: bool = False) -> None:
    """Draw a bicycle whose wheels point along `angle` (0: across the view, pi/2: away), with or without a rider."""
    rng = keyed(pen.style.seed, "bike", key)
    f, s = _Frame(x, z, angle), pen.solid
    brightness = pen.style.light.on(0, 0.4, -0.9)
    paint = pen.lit(vary(rng, rng.choice(_CLOTHES), 0.4), brightness)
    tyre = (0.08, 0.08, 0.09)
    ground = pen.lit(pen.style.asphalt, 0.8)
    reach = 0.55 + 0.35 * abs(f.cos)
    across, along_street = reach * abs(f.cos) + 0.1, reach * abs(f.sin) + 0.15
    pen.contact_shadow(x - across, x + across, z - along_street, z + along_street, 0.6)
    wheels = sorted((-0.52, 0.52), key=lambda a: -f.at(a, 0)[2])
    for along in wheels:
        s.polygon(f.ring(along, 0.34, 0.045), tyre, BICYCLE)
        s.polygon(f.ring(along, 0.285, 0.0), mix(ground, tyre, 0.35), BICYCLE)
    for start, end in _TUBES:
        s.limb(f.at(*start), f.at(*end), 0.026, paint, BICYCLE)
    s.limb(f.at(-0.28, 0.96), f.at(-0.05, 0.96), 0.045, tyre, BICYCLE)
    s.limb(f.at(0.36, 1.02, -0.28), f.at(0.36, 1.02, 0.28), 0.024, tyre, BICYCLE)
    if rng.random() < 0.3:
        s.limb(f.at(0.45, 0.9, -0.15), f.at(0.45, 0.9, 0.15), 0.11, pen.lit((0.35, 0.28, 0.2), brightness), BICYCLE)
    if rider:
        _rider(pen, f, rng, seat=(-0.16, 1.0), bars=(0.36, 1.06), pedal=0.3, cadence=1.1)


def motorcycle(pen: Pen, x: float, z: float, angle: float, key: str, rider: bool = False) -> None:
    """Draw a motorcycle or scooter, with or without a rider."""
    rng = keyed(pen.style.seed, "moto", key)
    f, s = _Frame(x, z, angle), pen.solid
    brightness = pen.style.light.on(0, 0.4, -0.9)
    paint = pen.lit(vary(rng, rng.choice(_MOTORCYCLES), 0.2), brightness)
    dark: Colour = (0.08, 0.08, 0.09)
    across, along_street = 0.3 + 0.8 * abs(f.cos), 0.2 + 0.8 * abs(f.sin)
    pen.contact_shadow(x - across, x + across, z - along_street, z + along_street, 0.5)
    for along in sorted((-0.68, 0.68), key=lambda a: -f.at(a, 0)[2]):
        s.polygon(f.ring(along, 0.31, 0.10), dark, MOTORCYCLE)
        s.polygon([(px, py + 0.14, pz) for px, py, pz in f.ring(along, 0.17, 0.0)], (0.3, 0.3, 0.31), MOTORCYCLE)
    wide = 0.11
    for side in (-wide, wide):
        s.polygon([f.at(a, y, side) for a, y in _HULL], paint, MOTORCYCLE)
    s.limb(f.at(-0.75, 0.75), f.at(0.45, 0.85), wide, mix(paint, dark, 0.3), MOTORCYCLE)
    s.limb(f.at(0.35, 1.0), f.at(0.68, 0.31), 0.05, (0.4, 0.4, 0.42), MOTORCYCLE)
    s.limb(f.at(-0.75, 0.88), f.at(0.0, 0.85), 0.07, dark, MOTORCYCLE)
    s.limb(f.at(0.32, 1.08, -0.36), f.at(0.32, 1.08, 0.36), 0.035, dark, MOTORCYCLE)
    s.limb(f.at(0.1, 0.35, 0.2), f.at(-0.8, 0.42, 0.2), 0.035, (0.55, 0.55, 0.56), MOTORCYCLE)
    if abs(f.sin) > 0.5:
        _tail(pen, f, paint)
    if f.sin > 0.5:
        s.disc(f.at(-0.87, 0.78), 0.07, (0.7, 0.06, 0.05), MOTORCYCLE | LIT * rider, 6)
    elif f.sin < -0.5:
        s.disc(f.at(0.55, 0.95), 0.1, (0.95, 0.95, 0.88), MOTORCYCLE | LIT * rider, 8)
    if rider:
        _rider(pen, f, rng, seat=(-0.25, 0.95), bars=(0.32, 1.1), pedal=0.42, cadence=0.0)


def _tail(pen: Pen, f: _Frame, paint: Colour) -> None:
    """The mudguard and panniers, or the fork and shield, of a motorcycle seen end on."""
    x, _, z = f.at(-0.86 if f.sin > 0 else 0.72, 0.0)
    s, dark = pen.solid, mix(paint, (0.05, 0.05, 0.05), 0.55)
    s.polygon(((x - 0.10, 0.5, z), (x - 0.16, 0.9, z), (x + 0.16, 0.9, z), (x + 0.10, 0.5, z)), paint, MOTORCYCLE)
    s.polygon(((x - 0.08, 0.5, z), (x - 0.09, 0.66, z), (x + 0.09, 0.66, z), (x + 0.08, 0.5, z)), dark, MOTORCYCLE)
    s.box_face(x - 0.08, x + 0.08, 0.52, 0.64, z, pen.lit((0.85, 0.85, 0.8), 0.9), MOTORCYCLE)


def _rider(
    pen: Pen,
    f: _Frame,
    rng: random.Random,
    seat: tuple[float, float],
    bars: tuple[float, float],
    pedal: float,
    cadence: float,
) -> None:
    top, trousers, skin, hair = _outfit(pen, rng)
    s, turn = pen.solid, 2 * math.pi * (pen.time_s * cadence + rng.random()) if cadence else 0.0
    lean = rng.uniform(0.05, 0.3)
    shoulder = (seat[0] + lean + 0.05, seat[1] + 0.53)
    head = (shoulder[0] + 0.08, shoulder[1] + 0.24)
    far = -1 if f.cos > 0 else 1
    for side in (far, -far):
        a = turn + (math.pi if side > 0 else 0.0)
        reach = 0.17 if cadence else 0.0
        foot = f.at(0.02 + reach * math.cos(a), pedal + reach * math.sin(a), side * 0.13)
        knee = f.at(0.22 + 0.08 * math.cos(a), 0.72 + 0.1 * math.sin(a), side * 0.16)
        s.capsule(f.at(seat[0], seat[1], side * 0.1), knee, 0.085, trousers, RIDER, 0.06)
        s.capsule(knee, foot, 0.06, trousers, RIDER, 0.045)
        s.capsule(foot, (foot[0] + 0.05, foot[1], foot[2]), 0.045, (0.07, 0.06, 0.06), RIDER)
        hand = f.at(bars[0], bars[1], side * 0.24)
        s.capsule(
            f.at(shoulder[0], shoulder[1] - 0.03, side * 0.19), hand, 0.052, mix(top, (0, 0, 0), 0.25), RIDER, 0.04
        )
    thick = 0.13 + 0.08 * abs(f.sin)
    hip, neck = f.at(seat[0], seat[1] - 0.06), f.at(*shoulder)
    s.polygon(
        [
            (hip[0] - thick * 0.8, hip[1], hip[2]), (neck[0] - thick, neck[1] - 0.07, neck[2]),
            (neck[0] - thick * 0.5, neck[1] + 0.03, neck[2]), (neck[0] + thick * 0.5, neck[1] + 0.03, neck[2]),
            (neck[0] + thick, neck[1] - 0.07, neck[2]), (hip[0] + thick * 0.8, hip[1], hip[2]),
        ],
        top, RIDER,
    )  # fmt: skip
    shade = mix(top, (0, 0, 0), 0.3)
    s.polygon(
        (hip, (neck[0] + thick * 0.2, neck[1], neck[2]), (neck[0] + thick, neck[1] - 0.07, neck[2]),
         (hip[0] + thick * 0.8, hip[1], hip[2])),
        shade, RIDER,
    )  # fmt: skip
    s.limb(f.at(*shoulder), f.at(head[0] - 0.02, head[1] - 0.05), 0.05, skin, RIDER)
    helmet = vary(rng, rng.choice(((0.12, 0.12, 0.13), (0.8, 0.8, 0.8), (0.6, 0.12, 0.1))), 0.2)
    s.disc(f.at(*head), 0.13, pen.lit(helmet, 0.9) if not cadence or rng.random() < 0.5 else hair, RIDER, 14)
    if f.sin < 0.3:
        x, y, z = f.at(head[0] + 0.03, head[1] - 0.04)
        s.disc((x, y, z), 0.085, skin if cadence else (0.1, 0.1, 0.12), RIDER, 8)
