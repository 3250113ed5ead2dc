"""What an object needs to draw itself: the polygon list, the camera, the light and the shadows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cascadert.scenes.camera import Camera
from cascadert.scenes.display import Colour, DisplayList
from cascadert.scenes.style import Style


@dataclass(frozen=True)
class Pen:
    """Handed to every object.

    Attributes:
        camera: The view.
        style: The street's look.
        time_s: Time of the frame.
        solid: Receives the object's polygons.
        shadows: Receives dark ground polygons; the red of their colour is the brightness that is left.
    """

    camera: Camera
    style: Style
    time_s: float
    solid: DisplayList = field(default_factory=DisplayList)
    shadows: DisplayList = field(default_factory=DisplayList)

    def lit(self, colour: Colour, brightness: float) -> Colour:
        """A surface's colour under this street's light."""
        tint = self.style.light.tint
        return (colour[0] * brightness * tint[0], colour[1] * brightness * tint[1], colour[2] * brightness * tint[2])

    def facing(self, colour: Colour, x: float, y: float, z: float) -> Colour:
        """The colour of a surface with normal (x, y, z)."""
        return self.lit(colour, self.style.light.on(x, y, z))

    def pixels(self, metres: float, z: float) -> float:
        """How many pixels `metres` at `z` cover."""
        return metres * self.camera.pixels_per_metre(z)

    def contact_shadow(self, x0: float, x1: float, z0: float, z1: float, left: float = 0.4) -> None:
        """Darken the ground under an object."""
        cx, cz, rx, rz = (x0 + x1) / 2, (z0 + z1) / 2, (x1 - x0) / 2, (z1 - z0) / 2
        outline = [(cx + rx * a, 0.0, cz + rz * b) for a, b in _ROUNDED]
        self.shadows.polygon(outline, (left, left, left), 0)

    def cast_shadow(self, x0: float, x1: float, z0: float, z1: float, height: float) -> None:
        """Darken the ground where a box of `height` metres stands in the sun's way."""
        light = self.style.light
        if light.direct < 0.2:
            return
        if self.pixels(height, (z0 + z1) / 2) < 5:
            return
        reach = height / max(light.sun[1], 0.3)
        dx, dz = -light.sun[0] * reach, -light.sun[2] * reach
        # The outline of a rectangle swept along (dx, dz): a is the side that trails, b the one that leads.
        xa, xb = (x0, x1) if dx > 0 else (x1, x0)
        za, zb = (z0, z1) if dz > 0 else (z1, z0)
        outline = ((xa, za), (xb, za), (xb + dx, za + dz), (xb + dx, zb + dz), (xa + dx, zb + dz), (xa, zb))
        left = light.shadow
        self.shadows.polygon([(x, 0.0, z) for x, z in outline], (left, left, left), 0)


def _squared(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


# Outline of a rounded unit square.
_ROUNDED = tuple((_squared(math.cos(a * math.pi / 8)), _squared(math.sin(a * math.pi / 8))) for a in range(16))
