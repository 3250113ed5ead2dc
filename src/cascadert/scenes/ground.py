"""The ground: terrain, sidewalks, roadway, cross streets and paint."""

from __future__ import annotations

import numpy as np

from cascadert.classes import ROAD, SIDEWALK, TERRAIN
from cascadert.scenes.camera import FAR_M, NEAR_M
from cascadert.scenes.display import Colour, DisplayList
from cascadert.scenes.pen import Pen
from cascadert.scenes.rng import mix

# Distances ahead at which long strips get a corner, dense where the picture is: the street may bend.
_CUTS = np.concatenate([[NEAR_M], np.geomspace(2.0, FAR_M * 6, 26)])


def draw_ground(pen: Pen, crossings: list[tuple[float, float]]) -> DisplayList:
    """Return the ground's polygons, to be painted without haze (the finish adds it row by row).

    Args:
        pen: What to draw with.
        crossings: Start and end of each cross street along the street.
    """
    out, style, layout = DisplayList(), pen.style, pen.style.layout
    top = pen.style.light.on(0, 1, 0)
    road, paving = pen.lit(style.asphalt, top), pen.lit(style.paving, top)
    grass, curb = pen.lit(style.grass, top), pen.lit(mix(style.paving, (0.8, 0.8, 0.78), 0.5), top)
    _strip(out, pen, -3000, 3000, grass, TERRAIN)
    for side in (-1, 1):
        inner, outer = layout.sidewalk_inner(side), layout.frontage(side)
        _strip(out, pen, inner, outer, paving, SIDEWALK)
        edge = layout.road_edge(side)
        _strip(out, pen, edge, edge + side * 0.22, curb, SIDEWALK)
    for start, end in crossings:
        for side in (-1, 1):
            for a, b in ((start - 2.6, start), (end, end + 2.6)):
                _quad(out, layout.road_edge(side), layout.frontage(side) + side * 40, a, b, paving, SIDEWALK)
    _strip(out, pen, layout.road_left, layout.road_right, road, ROAD)
    for start, end in crossings:
        _quad(out, -60, 60, start, end, road, ROAD)
    white = pen.lit(mix((0.92, 0.92, 0.90), style.asphalt, style.paint_wear), top)
    _marks(out, pen, white, crossings)
    if layout.tram:
        _rails(out, pen, mix(road, (0.2, 0.2, 0.22), 0.55), mix(road, paving, 0.35))
    return out


def _strip(out: DisplayList, pen: Pen, x0: float, x1: float, colour: Colour, label: int) -> None:
    z = pen.camera.z_m + _CUTS
    points = np.zeros((len(z) - 1, 4, 3))
    points[:, 0, 0] = points[:, 1, 0] = x0
    points[:, 2, 0] = points[:, 3, 0] = x1
    points[:, 0, 2] = points[:, 3, 2] = z[:-1]
    points[:, 1, 2] = points[:, 2, 2] = z[1:]
    out.polygons(points, np.asarray(colour), label)


def _quad(out: DisplayList, x0: float, x1: float, z0: float, z1: float, colour: Colour, label: int) -> None:
    out.polygon(((x0, 0, z0), (x0, 0, z1), (x1, 0, z1), (x1, 0, z0)), colour, label)


def _dashes(out: DisplayList, pen: Pen, x: float, colour: Colour, gaps: list[tuple[float, float]]) -> None:
    period, length = 9.0, 4.0
    start = np.floor(pen.camera.z_m / period) * period
    for z in start + period * np.arange(14):
        if not any(a - 4 < z + length and z < b + 4 for a, b in gaps):
            _quad(out, x - 0.07, x + 0.07, z, z + length, colour, ROAD)


def _line(out: DisplayList, pen: Pen, x: float, colour: Colour, gaps: list[tuple[float, float]]) -> None:
    step = 5.0
    start = np.floor(pen.camera.z_m / step) * step
    for z in start + step * np.arange(26):
        if not any(a - 4 < z + step and z < b + 4 for a, b in gaps):
            _quad(out, x - 0.07, x + 0.07, z, z + step, colour, ROAD)


def _marks(out: DisplayList, pen: Pen, white: Colour, crossings: list[tuple[float, float]]) -> None:
    layout = pen.style.layout
    for lane in range(1, layout.lanes_ahead):
        _dashes(out, pen, layout.median_m / 2 + lane * layout.lane_m, white, crossings)
    for lane in range(1, layout.lanes_oncoming):
        _dashes(out, pen, -layout.median_m / 2 - lane * layout.lane_m, white, crossings)
    if layout.median_m:
        _line(out, pen, layout.median_m / 2, white, crossings)
        _line(out, pen, -layout.median_m / 2, white, crossings)
    elif layout.lanes_oncoming:
        (_line if layout.lanes_ahead > 1 else _dashes)(out, pen, 0.0, white, crossings)
    if layout.parking_right:
        _dashes(out, pen, layout.road_right - 2.2, white, crossings)
    if layout.parking_left:
        _dashes(out, pen, layout.road_left + 2.2, white, crossings)
    for start, end in crossings:
        for z in (start - 4.2, end + 1.2):
            x = layout.road_left + 0.5
            while x < layout.road_right - 0.5:
                _quad(out, x, x + 0.5, z, z + 3.0, white, ROAD)
                x += 1.0
        _quad(out, layout.median_m / 2, layout.road_right, start - 6.0, start - 5.6, white, ROAD)


def _rails(out: DisplayList, pen: Pen, steel: Colour, bed: Colour) -> None:
    for track in (-1.65, 1.65):
        _strip(out, pen, track - 1.2, track + 1.2, bed, ROAD)
        for rail in (-0.72, 0.72):
            _strip(out, pen, track + rail - 0.05, track + rail + 0.05, steel, ROAD)
