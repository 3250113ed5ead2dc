"""Cars, vans, trucks, buses and trams: a side profile extruded across the street, with glass, wheels and lights."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property

from cascadert.classes import BUS, CAR, TRAIN, TRUCK
from cascadert.scenes.display import LIT, Colour, Point, unit_circle
from cascadert.scenes.pen import Pen
from cascadert.scenes.rng import keyed, mix, vary

_GLASS: Colour = (0.10, 0.12, 0.14)
_TYRE: Colour = (0.07, 0.07, 0.08)


@dataclass(frozen=True)
class Shape:
    """A side view in metres: `outline` from the lower rear corner over the roof to the lower front corner.

    Attributes:
        label: Class id.
        length: Rear to front.
        width: Across.
        outline: Points (from rear, up).
        parts: Per outline edge: b body, g glass.
        panes: Side windows, each a polygon of (from rear, up).
        wheels: Wheel centres from the rear.
        wheel: Wheel radius.
    """

    label: int
    length: float
    width: float
    outline: tuple[tuple[float, float], ...]
    parts: str
    panes: tuple[tuple[tuple[float, float], ...], ...]
    wheels: tuple[float, ...]
    wheel: float = 0.32

    @cached_property
    def belt(self) -> float:
        """Height above which the body narrows."""
        return 0.6 * max(y for _, y in self.outline)

    def inset(self, up: float) -> float:
        """How much narrower each side is at height `up`: cabins lean inwards."""
        lean = 0.30 if self.label == CAR else 0.05
        return lean * max(0.0, up - self.belt)


def _row(start: float, stop: float, count: int, low: float, high: float) -> tuple[tuple[tuple[float, float], ...], ...]:
    step = (stop - start) / count
    return tuple(
        (
            (start + i * step + 0.05, low),
            (start + i * step + 0.05, high),
            (start + (i + 1) * step - 0.05, high),
            (start + (i + 1) * step - 0.05, low),
        )
        for i in range(count)
    )


SHAPES: dict[str, Shape] = {
    "sedan": Shape(
        CAR, 4.6, 1.8,
        ((0, 0.28), (0, 0.85), (0.5, 0.98), (1.2, 1.42), (2.7, 1.45), (3.4, 0.98), (4.4, 0.8), (4.6, 0.6), (4.6, 0.28)),
        "bbgbgbbb",
        (
            ((0.8, 0.98), (1.32, 1.34), (1.98, 1.37), (1.98, 0.98)),
            ((2.08, 0.98), (2.08, 1.37), (2.62, 1.37), (3.2, 0.98)),
        ),
        (0.85, 3.7),
    ),
    "hatch": Shape(
        CAR, 4.1, 1.75,
        ((0, 0.28), (0.02, 0.95), (0.45, 1.45), (2.3, 1.5), (3.15, 1.02), (3.95, 0.84), (4.1, 0.6), (4.1, 0.28)),
        "bgbgbbb",
        (((0.45, 1.0), (0.7, 1.38), (1.45, 1.41), (1.45, 1.0)), ((1.55, 1.0), (1.55, 1.41), (2.22, 1.41), (2.9, 1.0))),
        (0.7, 3.3),
    ),
    "suv": Shape(
        CAR, 4.7, 1.9,
        ((0, 0.35), (0, 1.08), (0.35, 1.66), (2.8, 1.72), (3.5, 1.12), (4.55, 1.0), (4.7, 0.75), (4.7, 0.35)),
        "bgbgbbb",
        (
            ((0.4, 1.12), (0.6, 1.58), (1.75, 1.61), (1.75, 1.12)),
            ((1.87, 1.12), (1.87, 1.61), (2.7, 1.62), (3.25, 1.12)),
        ),
        (0.85, 3.75), 0.37,
    ),
    "van": Shape(
        CAR, 5.0, 1.95,
        ((0, 0.35), (0, 1.1), (0.12, 1.95), (3.7, 2.0), (4.5, 1.15), (4.95, 0.95), (5.0, 0.35)),
        "bgbgbb",
        (((2.9, 1.15), (2.9, 1.8), (3.65, 1.8), (4.2, 1.15)), ((0.4, 1.2), (0.4, 1.8), (2.7, 1.8), (2.7, 1.2))),
        (0.95, 4.0), 0.34,
    ),
    "truck": Shape(
        TRUCK, 8.4, 2.45,
        ((0, 0.6), (0, 3.4), (6.1, 3.4), (6.1, 2.7), (7.9, 2.7), (8.35, 1.55), (8.4, 0.45)),
        "bbbbgb",
        (((6.7, 1.6), (6.7, 2.4), (7.7, 2.4), (8.0, 1.6)),),
        (1.4, 2.5, 7.2), 0.5,
    ),
    "lorry": Shape(
        TRUCK, 6.4, 2.3,
        ((0, 0.6), (0, 1.5), (4.2, 1.5), (4.2, 2.75), (5.9, 2.75), (6.35, 1.6), (6.4, 0.45)),
        "bbbbgb",
        (((4.7, 1.6), (4.7, 2.45), (5.7, 2.45), (6.05, 1.6)),),
        (1.2, 5.3), 0.45,
    ),
    "bus": Shape(
        BUS, 11.5, 2.5,
        ((0, 0.35), (0, 1.5), (0.1, 2.7), (0.2, 3.05), (11.3, 3.05), (11.45, 2.7), (11.5, 1.2), (11.5, 0.35)),
        "bgbbbgb",
        _row(0.5, 10.0, 6, 1.45, 2.6) + _row(10.1, 11.3, 1, 0.6, 2.6),
        (2.6, 8.8), 0.48,
    ),
    "tram": Shape(
        TRAIN, 10.5, 2.55,
        ((0, 0.3), (0, 1.4), (0.35, 2.9), (0.6, 3.35), (9.9, 3.35), (10.15, 2.9), (10.5, 1.4), (10.5, 0.3)),
        "bgbbbgb",
        _row(0.8, 9.7, 6, 1.5, 2.7),
        (1.8, 3.2, 7.4, 8.8), 0.3,
    ),
}  # fmt: skip

_PAINTS: tuple[Colour, ...] = (
    (0.82, 0.83, 0.84), (0.12, 0.12, 0.13), (0.46, 0.48, 0.50), (0.60, 0.62, 0.64), (0.45, 0.07, 0.07),
    (0.10, 0.17, 0.36), (0.13, 0.27, 0.20), (0.68, 0.58, 0.32), (0.22, 0.24, 0.28), (0.70, 0.28, 0.08),
    (0.30, 0.44, 0.60),
)  # fmt: skip
_FLEETS: tuple[Colour, ...] = (
    (0.75, 0.16, 0.12), (0.84, 0.70, 0.16), (0.16, 0.34, 0.62), (0.82, 0.82, 0.80), (0.18, 0.45, 0.30),
    (0.75, 0.45, 0.12),
)  # fmt: skip


def draw_vehicle(pen: Pen, kind: str, x: float, z: float, heading: int, key: str) -> None:
    """Draw a vehicle centred at (x, z), driving along the street (`heading` 1) or against it (-1)."""
    shape = SHAPES[kind]
    rng = keyed(pen.style.seed, "paint", key)
    fleet = shape.label in (BUS, TRAIN)
    paint = vary(rng, rng.choice(_FLEETS if fleet else _PAINTS), 0.15)
    if shape.label == TRAIN:
        paint = vary(keyed(pen.style.seed, "tram"), keyed(pen.style.seed, "tram").choice(_FLEETS), 0.1)
    half = shape.width / 2
    z0, z1 = z - shape.length / 2, z + shape.length / 2
    pen.cast_shadow(x - half, x + half, z0, z1, shape.outline[len(shape.outline) // 2][1])
    pen.contact_shadow(x - half - 0.12, x + half + 0.12, z0 - 0.15, z1 + 0.15)
    body = _Body(pen, shape, x, z, heading, paint, rng, parked=key.startswith("parked"))
    body.draw()


class _Body:
    """One vehicle while it is drawn."""

    def __init__(
        self,
        pen: Pen,
        shape: Shape,
        x: float,
        z: float,
        heading: int,
        paint: Colour,
        rng: random.Random,
        parked: bool,
    ) -> None:
        self.pen, self.shape, self.heading, self.paint, self.rng = pen, shape, heading, paint, rng
        self.x0, self.x1 = x - shape.width / 2, x + shape.width / 2
        self.start = z - heading * shape.length / 2
        self.detail = pen.pixels(shape.width, z - shape.length / 2) > 9
        light = pen.style.light
        self.glass = mix(_GLASS, mix(light.horizon, light.zenith, 0.4), 0.28)
        self.parked = parked
        self.pane_label = shape.label
        if light.lamps and shape.label in (BUS, TRAIN):
            self.glass, self.pane_label = (
                mix(self.glass, (0.95, 0.90, 0.72), 0.35 + 0.4 * light.lamps),
                shape.label | LIT,
            )

    def z(self, along: float) -> float:
        """World z of a point `along` metres from the rear."""
        return self.start + self.heading * along

    def draw(self) -> None:
        """Draw far faces, then near faces, then the visible side."""
        camera, pen_light = self.pen.camera, self.pen.style.light
        edges = list(zip(self.shape.outline, self.shape.outline[1:], self.shape.parts, strict=False))
        low, high = self.shape.outline[0][1], min(p[1] for p in self.shape.outline)
        near = min(self.z(0), self.z(self.shape.length))
        self.pen.solid.box_face(
            self.x0 + 0.1, self.x1 - 0.1, 0.12, max(low, high) + 0.05, near + 0.5, _TYRE, self.shape.label
        )
        for start, end, part in sorted(edges, key=lambda e: -(self.z(e[0][0]) + self.z(e[1][0]))):
            self._edge(start, end, part)
        near_side = self.x0 if self.x0 > camera.x_m else self.x1 if self.x1 < camera.x_m else None
        if near_side is not None:
            self._side(near_side)
        if self.detail:
            self._end()
        elif pen_light.lamps and not self.parked:
            self._far_lights()

    def _edge(self, start: tuple[float, float], end: tuple[float, float], part: str) -> None:
        along, up = end[0] - start[0], end[1] - start[1]
        length = math.hypot(along, up)
        normal = (0.0, along / length, -self.heading * up / length)
        middle_y = (start[1] + end[1]) / 2
        middle_z = (self.z(start[0]) + self.z(end[0])) / 2
        toward = normal[1] * (self.pen.camera.y_m - middle_y) + normal[2] * (self.pen.camera.z_m - middle_z)
        if toward <= 0:
            return
        body = self.pen.facing(self.paint, *normal)
        label = self.shape.label
        self.pen.solid.polygon(self._span(start, end, 0.0), body, label)
        if part == "g":
            gloss = mix(self.glass, self.pen.style.light.horizon, 0.2 * max(0.0, normal[1]))
            self.pen.solid.polygon(self._span(start, end, 0.09), gloss, self.pane_label)

    def _span(self, start: tuple[float, float], end: tuple[float, float], inset: float) -> tuple[Point, ...]:
        za, zb = self.z(start[0]), self.z(end[0])
        dy = (end[1] - start[1]) * inset * 0.6
        dz = (zb - za) * inset * 0.6
        a, b = self.shape.inset(start[1] + dy), self.shape.inset(end[1] - dy)
        x0, x1 = self.x0 + inset * self.shape.width, self.x1 - inset * self.shape.width
        return (
            (x0 + a, start[1] + dy, za + dz), (x0 + b, end[1] - dy, zb - dz),
            (x1 - b, end[1] - dy, zb - dz), (x1 - a, start[1] + dy, za + dz),
        )  # fmt: skip

    def _side(self, x: float) -> None:
        pen, shape = self.pen, self.shape
        normal = -1.0 if x == self.x0 else 1.0
        label = shape.label
        body = pen.facing(self.paint, normal, 0.15, 0)

        def on_side(outline: tuple[tuple[float, float], ...]) -> list[Point]:
            return [(x - normal * shape.inset(y), y, self.z(a)) for a, y in outline]

        pen.solid.polygon(on_side(shape.outline), body, label)
        if not self.detail:
            for pane in shape.panes[:2]:
                pen.solid.polygon(on_side(pane), self.glass, self.pane_label)
            return
        low, end = shape.outline[0][1], shape.length
        middle = low + 0.45 * (shape.belt - low)
        for top, share in ((middle, 0.22), (low + 0.14, 0.65)):
            band = ((0.0, low), (0.0, top), (end, top), (end, low))
            pen.solid.polygon(on_side(band), mix(body, (0.04, 0.04, 0.05), share), label)
        for pane in shape.panes:
            pen.solid.polygon(on_side(pane), self.glass, self.pane_label)
            low_half = tuple((a, y if y < shape.belt * 1.25 else y - 0.5 * (y - pane[0][1])) for a, y in pane)
            pen.solid.polygon(on_side(low_half), mix(self.glass, (0, 0, 0), 0.3), self.pane_label)
        if label == CAR:
            self._doors(x, normal, body)
        for wheel in shape.wheels:
            self._wheel(x, wheel, body)

    def _doors(self, x: float, normal: float, body: Colour) -> None:
        """Gaps between the doors, handles and the mirror."""
        pen, shape, label = self.pen, self.shape, self.shape.label
        low, dark = shape.outline[0][1] + 0.14, mix(body, (0, 0, 0), 0.5)
        for pane in shape.panes:
            for along in {pane[0][0], pane[-1][0]}:
                pen.solid.side_face(x, self.z(along) - 0.012, self.z(along) + 0.012, low, shape.belt, dark, label)
            grip = self.z((pane[0][0] * 3 + pane[-1][0]) / 4)
            pen.solid.side_face(x, grip - 0.09, grip + 0.09, shape.belt - 0.12, shape.belt - 0.07, dark, label)
        front = self.z(max(a for pane in shape.panes for a, _ in pane) - 0.25)
        outer = x + normal * 0.18
        pen.solid.box_face(min(x, outer), max(x, outer), shape.belt + 0.08, shape.belt + 0.24, front, dark, label)

    def _wheel(self, x: float, along: float, body: Colour) -> None:
        z, radius, label = self.z(along), self.shape.wheel, self.shape.label
        for size, colour in (
            (1.18, mix(body, (0, 0, 0), 0.7)),
            (1.0, _TYRE),
            (0.58, self.pen.lit((0.5, 0.5, 0.52), 0.8)),
        ):
            r = radius * size
            self.pen.solid.polygon(
                [(x, max(0.0, radius + r * up), z + r * along_street) for along_street, up in unit_circle(14)],
                colour,
                label,
            )

    def _lamp_colour(self) -> tuple[Colour, int]:
        """Colour of the lights at the end that faces the camera, and the flag of what shines."""
        pen, light, shining = self.pen, self.pen.style.light, 0 if self.parked else LIT
        if light.lamps and self.parked:
            return ((0.40, 0.05, 0.05) if self.heading > 0 else (0.6, 0.6, 0.6)), 0
        if self.heading > 0:
            braking = keyed(pen.style.seed, "brake", int(pen.time_s), round(self.x0)).random() < 0.3
            dim = (0.95, 0.08, 0.06) if light.lamps else (0.62, 0.05, 0.05)
            return ((1.3, 0.1, 0.06) if braking else dim), shining
        return ((1.4, 1.35, 1.2) if light.lamps_on else (0.86, 0.87, 0.85)), shining

    def _far_lights(self) -> None:
        """The lights of a vehicle of a few pixels, within its outline."""
        colour, shining = self._lamp_colour()
        z, wide = self.z(0.0 if self.heading > 0 else self.shape.length), self.x1 - self.x0
        low = self.shape.outline[0][1] if self.heading > 0 else self.shape.outline[-1][1]
        for x in (self.x0 + 0.05 * wide, self.x1 - 0.25 * wide):
            self.pen.solid.box_face(x, x + 0.2 * wide, low + 0.05, low + 0.28, z, colour, self.shape.label | shining)

    def _end(self) -> None:
        """Lights, bumper and number plate of the end that faces the camera."""
        pen, shape = self.pen, self.shape
        along = 0.0 if self.heading > 0 else shape.length
        z = self.z(along) - 0.02
        low = shape.outline[0][1] if self.heading > 0 else shape.outline[-1][1]
        top = shape.outline[1][1] if self.heading > 0 else shape.outline[-2][1]
        top = min(top, 1.4) if shape.label != CAR else top
        label, wide = shape.label, self.x1 - self.x0
        pen.solid.box_face(self.x0, self.x1, low, low + 0.16, z, mix(pen.lit(self.paint, 0.5), _TYRE, 0.6), label)
        for x in (self.x0 + 0.16, self.x1 - 0.16 - 0.12 * wide):
            colour, shining = self._lamp_colour()
            pen.solid.box_face(x, x + 0.12 * wide, top - 0.24, top - 0.08, z, colour, label | shining)
        middle = (self.x0 + self.x1) / 2
        pen.solid.box_face(
            middle - 0.26, middle + 0.26, low + 0.24, low + 0.36, z, pen.lit((0.9, 0.9, 0.86), 0.9), label
        )
        if self.heading < 0 and shape.label == CAR:
            pen.solid.box_face(middle - 0.5, middle + 0.5, low + 0.18, low + 0.32, z, (0.06, 0.06, 0.07), label)
        if shape.label == TRUCK and self.heading > 0 and shape.outline[1][1] > 2:
            pen.solid.box_face(
                middle - 0.03, middle + 0.03, low, shape.outline[1][1], z, pen.lit((0.2, 0.2, 0.2), 1), label
            )
        for x in (self.x0 + 0.08, self.x1 - 0.32):
            pen.solid.box_face(x, x + 0.24, 0.0, low + 0.02, z + 0.3, _TYRE, label)
