"""A list of polygons in world coordinates: filled far to near, then projected, shaded by distance and painted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cascadert.classes import PERSON, RIDER
from cascadert.scenes.camera import NEAR_M, Camera

Colour = tuple[float, float, float]
Point = tuple[float, float, float]

# Odd, so that the middle sample of each pixel is its centre: labels are taken there, colours are averaged.
OVERSAMPLING = 3

# Added to a label for surfaces without texture of their own (glass, far things); gone from the finished labels.
SMOOTH = 32
# Added to a label for what shines by itself; gone from the finished labels.
LIT = 64
CLASS_BITS = SMOOTH - 1


class Lighting(Protocol):
    """How bright it is in places of the street."""

    def gain(self, points: NDArray[np.float64], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the factors `[P, 3]` for surfaces at `points` `[P, 3]` with `codes` (label and flags) `[P]`."""


@lru_cache(maxsize=64)
def unit_circle(corners: int, turn: float = 0.0) -> tuple[tuple[float, float], ...]:
    """Corners of a regular polygon of radius 1, the first at angle `turn`."""
    angles = [turn + 2.0 * math.pi * i / corners for i in range(corners)]
    return tuple((math.cos(a), math.sin(a)) for a in angles)


# Corners of a round end, as angles from the axis.
_CAP = (-math.pi / 2, -math.pi / 5, math.pi / 5, math.pi / 2)


class DisplayList:
    """Polygons in painter's order. Colours are 0 to 1 before haze; labels are class ids."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._sizes: list[int] = []
        self._colours: list[Colour] = []
        self._labels: list[int] = []
        # Ready-made blocks, each with the number of points and of polygons that were added singly before it.
        self._blocks: list[tuple[int, int, tuple[NDArray[np.float64], ...]]] = []
        # Objects that were begun, each with the number of polygons that were added singly before it.
        self._begun: list[tuple[int, int]] = [(0, 0)]

    def begin(self, instance: int) -> None:
        """What is added from now on belongs to the object `instance`, or to none (0)."""
        if instance != self._begun[-1][1]:
            self._begun.append((len(self._sizes), instance))

    def polygon(self, points: Sequence[Point], colour: Colour, label: int) -> None:
        """Add one polygon."""
        self._points.extend(points)
        self._sizes.append(len(points))
        self._colours.append(colour)
        self._labels.append(label)

    def polygons(
        self, points: NDArray[np.float64], colours: NDArray[np.float64], label: int | NDArray[np.int64]
    ) -> None:
        """Add `P` polygons of `V` corners each: points `[P, V, 3]`, colours `[P, 3]`, one label or `[P]`."""
        count, corners = points.shape[:2]
        if count == 0:
            return
        block = (
            points.reshape(-1, 3),
            np.full(count, float(corners)),
            np.broadcast_to(colours, (count, 3)),
            np.full(count, label, dtype=np.float64),
            np.zeros(count),
        )
        self._blocks.append((len(self._points), len(self._sizes), block))

    def limb(
        self, start: Point, end: Point, radius: float, colour: Colour, label: int, end_radius: float | None = None
    ) -> None:
        """Add a straight thick line that faces the camera: a limb, a pole, a tube."""
        across, up = end[0] - start[0], end[1] - start[1]
        length = math.hypot(across, up)
        nx, ny = (-up / length, across / length) if length > 1e-6 else (1.0, 0.0)
        last = radius if end_radius is None else end_radius
        self.polygon(
            (
                (start[0] + nx * radius, start[1] + ny * radius, start[2]),
                (end[0] + nx * last, end[1] + ny * last, end[2]),
                (end[0] - nx * last, end[1] - ny * last, end[2]),
                (start[0] - nx * radius, start[1] - ny * radius, start[2]),
            ),
            colour,
            label,
        )

    def capsule(
        self, start: Point, end: Point, radius: float, colour: Colour, label: int, end_radius: float | None = None
    ) -> None:
        """Add a straight thick line with round ends that faces the camera: a limb of a body."""
        last = radius if end_radius is None else end_radius
        turn = math.atan2(end[1] - start[1], end[0] - start[0])
        points = [
            (start[0] - radius * math.cos(turn + a), start[1] - radius * math.sin(turn + a), start[2]) for a in _CAP
        ]
        points += [(end[0] + last * math.cos(turn + a), end[1] + last * math.sin(turn + a), end[2]) for a in _CAP]
        self.polygon(points, colour, label)

    def box_face(self, x0: float, x1: float, y0: float, y1: float, z: float, colour: Colour, label: int) -> None:
        """Add an upright rectangle that faces along the street."""
        self.polygon(((x0, y0, z), (x0, y1, z), (x1, y1, z), (x1, y0, z)), colour, label)

    def side_face(self, x: float, z0: float, z1: float, y0: float, y1: float, colour: Colour, label: int) -> None:
        """Add an upright rectangle that runs along the street."""
        self.polygon(((x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)), colour, label)

    def disc(
        self, centre: Point, radius: float, colour: Colour, label: int, corners: int = 10, turn: float = 0.0
    ) -> None:
        """Add a regular polygon that faces along the street."""
        x, y, z = centre
        circle = unit_circle(corners, turn)
        self.polygon([(x + radius * across, y + radius * up, z) for across, up in circle], colour, label)

    def _arrays(self) -> tuple[NDArray[np.float64], ...]:
        """Join the single polygons and the blocks in the order in which they were added."""
        singles = (
            _triples(self._points),
            np.array(self._sizes, dtype=np.float64),
            _triples(self._colours),
            np.array(self._labels, dtype=np.float64),
            self._instances(),
        )
        parts: list[tuple[NDArray[np.float64], ...]] = []
        points, polygons = 0, 0
        for points_before, polygons_before, block in self._blocks:
            cuts = ((points, points_before), *((polygons, polygons_before),) * 4)
            parts.append(tuple(a[start:end] for a, (start, end) in zip(singles, cuts, strict=True)))
            parts.append(block)
            points, polygons = points_before, polygons_before
        parts.append((singles[0][points:], *(a[polygons:] for a in singles[1:])))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _instances(self) -> NDArray[np.float64]:
        """Ids of the single polygons."""
        starts, ids = np.array(self._begun).T
        return np.repeat(ids.astype(np.float64), np.diff(starts, append=len(self._sizes)))

    def paint(
        self,
        image: Image.Image,
        camera: Camera,
        scale: int,
        haze_per_m: float = 0.0,
        haze: Colour = (1, 1, 1),
        lighting: Lighting | None = None,
        ids: Image.Image | None = None,
    ) -> None:
        """Project every polygon and paint it on `image`, which is `scale` times as fine as the camera's picture.

        A four-band image takes colour and label as its four bytes; a one-band image the red of the colour. `ids`, a
        32-bit image of the same size, takes the id of each object; nothing else is painted on it, so it is right where
        `image` has the label of an object.
        """
        if not self._sizes and not self._blocks:
            return
        points, sizes, colours, labels, instances = self._arrays()
        pixels, depth = camera.project(points)
        counts = sizes.astype(np.int64)
        starts = np.cumsum(counts) - counts
        keep = _inside(pixels, depth, starts, camera)
        mean_depth = np.maximum(np.add.reduceat(depth, starts) / sizes, NEAR_M)
        if lighting is not None:
            middles = np.add.reduceat(points, starts) / sizes[:, None]
            colours = colours * lighting.gain(middles, labels.astype(np.uint8))
        clear = np.exp(-haze_per_m * mean_depth)[:, None]
        shaded = colours * clear + np.asarray(haze) * (1.0 - clear)
        red, green, blue = np.clip(shaded * 255.0 + 0.5, 0, 255).astype(np.int64).T
        packed = red | green << 8 | blue << 16 | labels.astype(np.int64) << 24
        inks = red if image.getbands() == ("L",) else packed
        samples = np.clip(pixels * scale - 0.5, -1e6, 1e6)
        _fill(image, samples, sizes[keep], np.repeat(keep, counts), inks[keep])
        if ids is not None:
            kinds = labels.astype(np.int64) & CLASS_BITS
            keep &= (instances > 0) & (kinds >= PERSON)
            numbers = instances.astype(np.int64) + (kinds == RIDER)
            _fill(ids, samples, sizes[keep], np.repeat(keep, counts), numbers[keep])


def _triples(rows: list[tuple[float, float, float]]) -> NDArray[np.float64]:
    """Rows of three as an array `[P, 3]`; several times as fast as `np.array`."""
    return np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=3 * len(rows)).reshape(-1, 3)


def _inside(
    pixels: NDArray[np.float64], depth: NDArray[np.float64], starts: NDArray[np.int64], camera: Camera
) -> NDArray[np.bool_]:
    left, top = np.minimum.reduceat(pixels, starts).T
    right, bottom = np.maximum.reduceat(pixels, starts).T
    seen: NDArray[np.bool_] = (right >= 0) & (left <= camera.width) & (bottom >= 0) & (top <= camera.height)
    # Specks that no sample would hit for sure are left out.
    seen &= np.maximum(right - left, bottom - top) > 1.2 / OVERSAMPLING
    return seen & (np.maximum.reduceat(depth, starts) > NEAR_M)


def _fill(
    image: Image.Image,
    pixels: NDArray[np.float64],
    sizes: NDArray[np.float64],
    kept: NDArray[np.bool_],
    inks: NDArray[np.int64],
) -> None:
    flat = pixels[kept].ravel().tolist()
    ends = np.cumsum(sizes.astype(np.int64)) * 2
    starts = ends - sizes.astype(np.int64) * 2
    # The core that `ImageDraw.polygon` calls: looking at its arguments takes a third of the time of a small polygon.
    core = ImageDraw.Draw(image).draw
    polygon, ready = core.draw_polygon, core.draw_ink
    for start, end, ink in zip(starts.tolist(), ends.tolist(), inks.tolist(), strict=True):
        polygon(flat[start:end], ready(ink), 1)
