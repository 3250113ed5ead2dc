"""Poles and what hangs on them: lamps, traffic lights, traffic signs; and bollards."""

from __future__ import annotations

import math
import random

from cascadert.classes import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN
from cascadert.scenes.display import LIT, Colour
from cascadert.scenes.pen import Pen
from cascadert.scenes.rng import keyed, vary

_RED: Colour = (0.80, 0.10, 0.10)
_WHITE: Colour = (0.93, 0.93, 0.91)
_BLUE: Colour = (0.10, 0.28, 0.66)
_YELLOW: Colour = (0.93, 0.76, 0.12)
_BLACK: Colour = (0.07, 0.07, 0.08)


def _steel(pen: Pen, key: str) -> Colour:
    rng = keyed(pen.style.seed, "steel", key)
    base = rng.choice(((0.50, 0.51, 0.52), (0.34, 0.35, 0.36), (0.16, 0.20, 0.18), (0.62, 0.62, 0.61)))
    return pen.facing(vary(rng, base, 0.12), 0, 0.2, -0.95)


def pole(pen: Pen, x: float, z: float, height: float, radius: float, key: str) -> None:
    """Draw a round pole with a lighter flank."""
    colour = _steel(pen, key)
    pen.solid.limb((x, 0, z), (x, height, z), radius, colour, POLE, radius * 0.75)
    if pen.pixels(radius, z) > 0.8:
        lighter = (colour[0] * 1.25, colour[1] * 1.25, colour[2] * 1.25)
        pen.solid.limb((x + radius * 0.3, 0, z), (x + radius * 0.25, height, z), radius * 0.25, lighter, POLE)
    pen.cast_shadow(x - radius, x + radius, z - radius, z + radius, height)


def lamp_size(seed: int) -> tuple[float, float]:
    """Height of the street's lamps and their reach over the road, metres."""
    rng = keyed(seed, "lamp")
    return rng.uniform(6.0, 9.0), rng.uniform(0.8, 2.2)


def lamp(pen: Pen, x: float, z: float, side: int, key: str) -> None:
    """Draw a street lamp that leans over the road."""
    height, reach = lamp_size(pen.style.seed)
    pole(pen, x, z, height, 0.085, key)
    colour = _steel(pen, key)
    tip = (x - side * reach, height + 0.35, z)
    pen.solid.limb((x, height - 0.1, z), tip, 0.05, colour, POLE)
    glow = (1.0, 0.9, 0.65) if pen.style.light.lamps_on else colour
    pen.solid.limb(tip, (tip[0] - side * 0.7, tip[1] - 0.03, z), 0.08, glow, POLE | LIT)


def bollard(pen: Pen, x: float, z: float, key: str) -> None:
    """Draw a knee-high post."""
    pen.solid.limb((x, 0, z), (x, 0.9, z), 0.06, _steel(pen, key), POLE)
    pen.solid.limb((x, 0.72, z), (x, 0.80, z), 0.062, _WHITE, POLE)


def traffic_light(pen: Pen, x: float, z: float, side: int, over_road: bool, key: str) -> None:
    """Draw a signal on a pole, and a second one on an arm over the road if asked."""
    cycle = (pen.time_s + keyed(pen.style.seed, "phase", key).uniform(0, 30)) % 30.0
    state = 2 if cycle < 14 else 1 if cycle < 17 else 0
    height = 5.6 if over_road else 3.4
    pole(pen, x, z, height, 0.09, key)
    _signal(pen, x - side * 0.22, 2.45, z - 0.1, 1.0, state)
    if over_road:
        tip = x - side * 4.2
        pen.solid.limb((x, height - 0.15, z), (tip, height, z), 0.06, _steel(pen, key), POLE)
        _signal(pen, tip, height - 0.6, z - 0.1, 1.15, state)


def _signal(pen: Pen, x: float, y: float, z: float, size: float, state: int) -> None:
    s = pen.solid
    s.box_face(x - 0.17 * size, x + 0.17 * size, y, y + 0.95 * size, z, _BLACK, TRAFFIC_LIGHT)
    lamps = ((1.25, 0.22, 0.15), (1.25, 0.85, 0.2), (0.25, 1.15, 0.55))
    for i, colour in enumerate(lamps):
        lit = colour if i == state else (colour[0] * 0.16, colour[1] * 0.16, colour[2] * 0.16)
        s.disc((x, y + (0.79 - 0.31 * i) * size, z), 0.115 * size, lit, TRAFFIC_LIGHT | (LIT if i == state else 0), 9)


def sign_post(pen: Pen, x: float, z: float, key: str) -> None:
    """Draw one to three signs on a thin pole."""
    rng = keyed(pen.style.seed, "sign", key)
    top = rng.uniform(2.5, 3.2)
    pole(pen, x, z, top, 0.04, key)
    y = top - 0.28
    for _ in range(rng.choices((1, 2, 3), weights=(6, 3, 1))[0]):
        y -= _sign(pen, rng, x, y, z - 0.05)


def big_sign(pen: Pen, x: float, z: float, side: int, key: str) -> None:
    """Draw a direction board on two poles."""
    rng = keyed(pen.style.seed, "board", key)
    wide, low, high = rng.uniform(1.6, 3.0), rng.uniform(2.0, 2.6), rng.uniform(3.4, 4.4)
    outer = x + side * wide
    for at in (x + side * wide * 0.2, x + side * wide * 0.8):
        pole(pen, at, z, high, 0.06, key)
    face = pen.facing(rng.choice((_BLUE, (0.08, 0.36, 0.22), _YELLOW, _WHITE)), 0, 0, -1)
    ink = _WHITE if face[0] < 0.5 else _BLACK
    z -= 0.08
    pen.solid.box_face(x, outer, low, high, z, ink, TRAFFIC_SIGN)
    pen.solid.box_face(x + side * 0.06, outer - side * 0.06, low + 0.06, high - 0.06, z, face, TRAFFIC_SIGN)
    y = low + 0.3
    while y < high - 0.3:
        end = x + side * wide * rng.uniform(0.5, 0.85)
        pen.solid.box_face(x + side * 0.3, end, y, y + 0.16, z, ink, TRAFFIC_SIGN)
        y += 0.42


def _sign(pen: Pen, rng: random.Random, x: float, y: float, z: float) -> float:
    """Draw one sign centred at (x, y); return the height it took."""
    s, label = pen.solid, TRAFFIC_SIGN
    bright = pen.style.light.on(0, 0, -1)

    def lit(colour: Colour) -> Colour:
        return pen.lit(colour, 0.4 + 0.6 * bright)

    kind = rng.choice(("ban", "limit", "order", "warn", "yield", "stop", "blue", "priority", "plate"))
    up, r = math.pi / 2, 0.33
    if kind in ("ban", "limit"):
        s.disc((x, y, z), r, lit(_RED), label, 14)
        s.disc((x, y, z), r * 0.74, lit(_WHITE), label, 14)
        if kind == "limit":
            s.box_face(x - 0.12, x - 0.02, y - 0.12, y + 0.12, z, lit(_BLACK), label)
            s.box_face(x + 0.03, x + 0.13, y - 0.12, y + 0.12, z, lit(_BLACK), label)
    elif kind == "order":
        s.disc((x, y, z), r, lit(_BLUE), label, 14)
        s.limb((x, y - 0.18, z), (x + rng.choice((-0.14, 0, 0.14)), y + 0.18, z), 0.05, lit(_WHITE), label)
    elif kind in ("warn", "yield"):
        turn = up if kind == "warn" else -up
        s.disc((x, y, z), r * 1.2, lit(_RED), label, 3, turn)
        s.disc((x, y, z), r * 0.72, lit(_WHITE), label, 3, turn)
        if kind == "warn":
            s.limb((x, y - 0.1, z), (x, y + 0.12, z), 0.035, lit(_BLACK), label)
    elif kind == "stop":
        s.disc((x, y, z), r * 1.05, lit(_WHITE), label, 8, math.pi / 8)
        s.disc((x, y, z), r * 0.95, lit(_RED), label, 8, math.pi / 8)
        s.box_face(x - 0.2, x + 0.2, y - 0.06, y + 0.06, z, lit(_WHITE), label)
    elif kind == "blue":
        s.box_face(x - 0.3, x + 0.3, y - 0.3, y + 0.3, z, lit(_WHITE), label)
        s.box_face(x - 0.28, x + 0.28, y - 0.28, y + 0.28, z, lit(_BLUE), label)
        s.disc((x, y - 0.05, z), 0.16, lit(_WHITE), label, 3, up)
    elif kind == "priority":
        s.disc((x, y, z), r * 1.1, lit(_WHITE), label, 4, 0)
        s.disc((x, y, z), r * 0.8, lit(_YELLOW), label, 4, 0)
    else:
        s.box_face(x - 0.34, x + 0.34, y - 0.16, y + 0.16, z, lit(_WHITE), label)
        s.box_face(x - 0.26, x + 0.26, y - 0.05, y + 0.05, z, lit(_BLACK), label)
        return 0.42
    return 0.74
