"""What stands where, and when: the street is endless, and every object keeps its identity over the frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from cascadert.scenes.camera import Camera
from cascadert.scenes.furniture import big_sign, bollard, lamp, sign_post, traffic_light
from cascadert.scenes.lots import Lot, draw_lot, lot_extent
from cascadert.scenes.pen import Pen
from cascadert.scenes.people import bicycle, motorcycle, pedestrian
from cascadert.scenes.plants import tree
from cascadert.scenes.rng import keyed
from cascadert.scenes.style import LOOKAHEAD_M, Style
from cascadert.scenes.vehicles import SHAPES, draw_vehicle

BLOCK_M = 96.0
CROSS_STREET_M = 11.0


@dataclass(frozen=True)
class Item:
    """An object with the box that it stands in, and how to draw it."""

    x0: float
    x1: float
    z0: float
    z1: float
    draw: Callable[[Pen], None]


def _at(x: float, z: float, draw: Callable[[Pen], None], reach: float = 0.4) -> Item:
    return Item(x - reach, x + reach, z - reach, z + reach, draw)


def far_to_near(items: list[Item], camera: Camera) -> list[Item]:
    """Sort into painter's order: by z where the boxes do not overlap along the street, else outer before inner."""
    if not items:
        return []
    x0, x1, z0, z1 = (np.array(v) for v in zip(*((i.x0, i.x1, i.z0, i.z1) for i in items), strict=True))
    gap = 1e-6
    away = np.where((x0 <= camera.x_m) & (x1 >= camera.x_m), 0.0, np.minimum(abs(x0 - camera.x_m), abs(x1 - camera.x_m)))
    further = z0[:, None] >= z1[None, :] - gap
    overlap = ~(further | further.T)
    middle = z0 + z1
    outer = (away[:, None] > away[None, :]) | ((away[:, None] == away[None, :]) & (middle[:, None] > middle[None, :]))
    behind = further | (overlap & outer)
    order = np.lexsort((-middle, -behind.sum(axis=1)))
    return [items[i] for i in order]


def cross_streets(style: Style, z: float) -> list[tuple[float, float]]:
    """Cross streets near `z` (start, end)."""
    first = int(math.floor((z - 20) / BLOCK_M))
    last = int(math.floor((z + LOOKAHEAD_M) / BLOCK_M))
    return [_cross_street(k) for k in range(first, last + 1) if _has_cross_street(style, k)]


def _has_cross_street(style: Style, block: int) -> bool:
    return keyed(style.seed, "cross", block).random() < 0.25 + 0.5 * style.urban


def _cross_street(block: int) -> tuple[float, float]:
    return ((block + 1) * BLOCK_M - CROSS_STREET_M, (block + 1) * BLOCK_M)


def standing(style: Style, clutter: float, block: int) -> Iterator[Item]:
    """Yield what stands in street block `block` and never moves along the street, except vehicles' parking spots."""
    for side in (-1, 1):
        yield from _lots(style, block, side)
        yield from _kerbside(style, clutter, block, side)
        yield from _parked(style, block, side)
        yield from _groups(style, clutter, block, side)
    if _has_cross_street(style, block):
        yield from _signals(style, clutter, block)


def _lots(style: Style, block: int, side: int) -> Iterator[Item]:
    rng = keyed(style.seed, "lots", block, side)
    z, end = block * BLOCK_M, (block + 1) * BLOCK_M
    if _has_cross_street(style, block):
        end -= CROSS_STREET_M + 2.0
    if _has_cross_street(style, block - 1):
        z += 2.0
    front = style.layout.frontage(side)
    index = 0
    while end - z > 1.0:
        length = min(rng.uniform(9, 26), end - z)
        if end - z - length < 8:
            length = end - z
        weights = (0.3 + 2.4 * style.urban, 1.3 - style.urban, 0.15 + 0.9 * style.greenery, 0.3)
        kind = rng.choices(("building", "house", "park", "wall"), weights=weights)[0]
        lot = Lot(kind, side, z, z + length, block * 64 + index)
        far = front + side * 14.0
        yield Item(min(front, far), max(front, far), z, z + length, partial(_lot, lot))
        z, index = z + length, index + 1


def _lot(lot: Lot, pen: Pen) -> None:
    left, right = lot_extent(pen, lot)
    if pen.camera.sees(left - 4, right + 4, lot.z0, lot.z1):
        draw_lot(pen, lot)


def _kerbside(style: Style, clutter: float, block: int, side: int) -> Iterator[Item]:
    rng = keyed(style.seed, "kerb", block, side)
    layout = style.layout
    x = layout.road_edge(side) + side * (0.6 if layout.verge_m == 0 else layout.verge_m / 2)
    z = block * BLOCK_M + rng.uniform(2, 10)
    spacing = rng.uniform(7, 13)
    index = 0
    while z < (block + 1) * BLOCK_M - CROSS_STREET_M - 3:
        key = f"{block}.{side}.{index}"
        if style.street_trees and rng.random() < 0.8:
            height = rng.uniform(4.5, 10)
            yield _at(x + side * 0.3, z, partial(tree, x=x + side * 0.3, z=z, height=height, key=block * 50 + index * 2 + side))
        elif index % 3 == 0:
            yield _at(x, z, partial(lamp, x=x, z=z, side=side, key=key))
        post = z + spacing * 0.4
        if rng.random() < 0.16 * clutter:
            draw = partial(big_sign, side=side) if rng.random() < 0.15 else sign_post
            yield _at(x, post, partial(draw, x=x, z=post, key=key))
        z, index = z + spacing * rng.uniform(0.9, 1.1), index + 1


def _parked(style: Style, block: int, side: int) -> Iterator[Item]:
    layout = style.layout
    if not (layout.parking_right if side > 0 else layout.parking_left):
        return
    rng = keyed(style.seed, "parked", block, side)
    z, end = block * BLOCK_M + 4.0, (block + 1) * BLOCK_M - CROSS_STREET_M - 8
    x = layout.road_edge(side) - side * 1.05
    heading = 1 if side > 0 else -1
    index = 0
    while z < end:
        kind = rng.choices(("sedan", "hatch", "suv", "van", "lorry"), weights=(4, 4, 3, 1.2, 0.3))[0]
        length = SHAPES[kind].length
        if rng.random() < 0.25 + 0.5 * style.traffic:
            yield _vehicle(kind, x + rng.uniform(-0.1, 0.1), z + length / 2, heading, f"parked.{block}.{side}.{index}")
        z, index = z + length + rng.uniform(0.7, 1.6), index + 1


def _vehicle(kind: str, x: float, z: float, heading: int, key: str) -> Item:
    shape = SHAPES[kind]
    half = shape.width / 2
    draw = partial(draw_vehicle, kind=kind, x=x, z=z, heading=heading, key=key)
    return Item(x - half, x + half, z - shape.length / 2, z + shape.length / 2, draw)


def _groups(style: Style, clutter: float, block: int, side: int) -> Iterator[Item]:
    """Yield knots of small objects: people who wait, parked two-wheelers, posts and signs."""
    rng = keyed(style.seed, "group", block, side)
    layout = style.layout
    kerb, front = layout.sidewalk_inner(side), layout.frontage(side)
    for g in range(2):
        z, present = block * BLOCK_M + rng.uniform(6, 80), rng.random() < 0.35 + 0.25 * clutter
        local = keyed(style.seed, "knot", block, side, g)
        if not present or clutter == 0:
            continue
        for i in range(round(clutter * local.uniform(1, 6))):
            px, pz = local.uniform(kerb + side * 0.4, front - side * 0.5), z + local.gauss(0, 1.8)
            draw = partial(pedestrian, x=px, z=pz, key=f"{block}.{side}.{g}.{i}", speed_x=0.0, speed_z=0.0)
            yield _at(px, pz, draw)
        yield from _rack(style, local, clutter, (block, side, g), z + local.uniform(3, 6))
        if local.random() < 0.5:
            for i in range(round(4 * clutter)):
                bx, bz = kerb + side * 0.25, z - 6 + 1.5 * i
                yield _at(bx, bz, partial(bollard, x=bx, z=bz, key=f"{block}.{side}.{g}"), 0.1)
        if local.random() < 0.7:
            yield _at(kerb + side * 0.5, z, partial(sign_post, x=kerb + side * 0.5, z=z, key=f"g{block}.{side}.{g}"))


def _rack(
    style: Style, rng: object, clutter: float, where: tuple[int, int, int], z: float
) -> Iterator[Item]:
    block, side, g = where
    local = keyed(style.seed, "rack", *where)
    del rng
    layout = style.layout
    wheels, angle = local.choice((bicycle, bicycle, motorcycle)), local.uniform(-0.6, 0.6)
    far = local.random() < 0.5
    x = (layout.frontage(side) - side * 1.0) if far else (layout.sidewalk_inner(side) + side * 1.0)
    for i in range(round(clutter * local.uniform(0, 5))):
        bz = z + i * local.uniform(0.55, 0.75)
        draw = partial(wheels, x=x, z=bz, angle=angle + local.uniform(-0.15, 0.15), key=f"{block}.{side}.{g}.{i}")
        yield _at(x, bz, draw, 0.27)


def _signals(style: Style, clutter: float, block: int) -> Iterator[Item]:
    if clutter == 0:
        return
    start, end = _cross_street(block)
    layout = style.layout
    for side, z in ((1, start - 5.0), (-1, start - 5.0), (1, end + 4.8), (-1, end + 4.8)):
        x = layout.road_edge(side) + side * 0.5
        draw = partial(traffic_light, x=x, z=z, side=side, over_road=side > 0, key=str(block))
        yield _at(x, z, draw, 0.2)


def moving(style: Style, clutter: float, time_s: float, camera_z: float) -> Iterator[Item]:
    """Yield everything that moves."""
    yield from _traffic(style, time_s, camera_z)
    yield from _walkers(style, clutter, time_s, camera_z)
    yield from _riders(style, clutter, time_s, camera_z)
    yield from _crossing(style, clutter, time_s, camera_z)


def _belt(
    style: Style, name: str, spacing: float, speed: float, time_s: float, camera_z: float
) -> Iterator[tuple[str, float]]:
    """Yield (key, z) of the objects of an endless belt that are in view: no two ever meet."""
    moved = speed * time_s
    first = math.ceil((camera_z - 15 - moved) / spacing)
    last = math.floor((camera_z + LOOKAHEAD_M - moved) / spacing)
    for k in range(first, last + 1):
        key = f"{name}.{k}"
        yield key, k * spacing + moved + keyed(style.seed, "belt", key).uniform(-0.2, 0.2) * spacing


def _kind(style: Style, key: str) -> str:
    rng = keyed(style.seed, "kind", key)
    kinds = ("sedan", "hatch", "suv", "van", "truck", "lorry", "bus")
    return rng.choices(kinds, weights=(4, 4, 3, 1.2, 1.0, 0.8, 1.2))[0]


def _traffic(style: Style, time_s: float, camera_z: float) -> Iterator[Item]:
    layout, ego = style.layout, style.speed_mps
    spacing = 62.0 - 42.0 * style.traffic
    for lane in range(layout.lanes_ahead):
        own = lane == layout.ego_lane
        speed = ego if own else ego * (1.12 - 0.16 * lane)
        for key, z in _belt(style, f"ahead.{lane}", max(spacing, 20.0), speed, time_s, camera_z):
            if own and z < camera_z + 11:
                continue
            yield _vehicle(_kind(style, key), layout.lane_centre(lane), z, 1, key)
    for lane in range(layout.lanes_oncoming):
        for key, z in _belt(style, f"oncoming.{lane}", max(spacing, 20.0), -ego, time_s, camera_z):
            yield _vehicle(_kind(style, key), layout.oncoming_centre(lane), z, -1, key)
    if layout.tram:
        for track, heading in ((1.65, 1), (-1.65, -1)):
            for key, z in _belt(style, f"tram.{heading}", 95.0, heading * 7.0, time_s, camera_z):
                for car in range(keyed(style.seed, "cars", key).choice((2, 3))):
                    yield _vehicle("tram", track, z + car * 10.7, heading, key)


def _walkers(style: Style, clutter: float, time_s: float, camera_z: float) -> Iterator[Item]:
    if clutter == 0:
        return
    layout = style.layout
    for side in (-1, 1):
        inner, outer = layout.sidewalk_inner(side), layout.frontage(side)
        for lane, speed in enumerate((1.3, -1.2)):
            name = f"walk.{side}.{lane}"
            for key, z in _belt(style, name, 26.0 / (0.4 + clutter), speed, time_s, camera_z):
                rng = keyed(style.seed, "walkers", key)
                middle = rng.uniform(inner + side * 0.5, outer - side * 0.6)
                for i in range(rng.choices((1, 2, 3), weights=(5, 3, 1))[0]):
                    x, at = middle + i * 0.62 * side, z + rng.uniform(-0.4, 0.4)
                    if abs(x) > abs(outer) - 0.2:
                        x = middle - i * 0.62 * side
                    draw = partial(pedestrian, x=x, z=at, key=f"{key}.{i}", speed_x=0.0, speed_z=speed)
                    yield _at(x, at, draw, 0.3)


def _riders(style: Style, clutter: float, time_s: float, camera_z: float) -> Iterator[Item]:
    if clutter == 0:
        return
    layout = style.layout
    right = layout.road_right - 2.2 * layout.parking_right - 0.55
    left = layout.road_left + 2.2 * layout.parking_left + 0.55
    for name, x, speed in (("right", right, 4.5), ("left", left, -4.2)):
        for key, z in _belt(style, f"ride.{name}", 40.0 / (0.2 + clutter), speed, time_s, camera_z):
            rng = keyed(style.seed, "rider", key)
            draw = motorcycle if rng.random() < 0.3 else bicycle
            angle = math.copysign(math.pi / 2, speed) + rng.uniform(-0.15, 0.15)
            yield _at(x, z, partial(draw, x=x, z=z, angle=angle, key=key, rider=True), 0.5)


def _crossing(style: Style, clutter: float, time_s: float, camera_z: float) -> Iterator[Item]:
    """Yield people on zebra crossings: they have left our lane when we arrive."""
    if clutter == 0:
        return
    layout = style.layout
    for start, end in cross_streets(style, camera_z):
        for name, z in (("a", start - 2.7), ("b", end + 2.7)):
            rng = keyed(style.seed, "zebra", name, int(start))
            seconds = (z - camera_z) / style.speed_mps
            for i in range(round(clutter * rng.uniform(0, 4))):
                side, pace = rng.choice((-1, 1)), rng.uniform(1.2, 1.7)
                lead = rng.uniform(2.5, 7.0)
                path = layout.road_right - layout.road_left + 3.0
                walked = min(max((path / pace + lead - seconds) * pace, 0.0), path)
                x = (layout.road_left - 1.5 + walked) if side > 0 else (layout.road_right + 1.5 - walked)
                still = walked in (0.0, path)
                at, key = z + rng.uniform(-1.2, 1.2), f"{name}{int(start)}.{i}"
                if rng.random() < 0.2:
                    draw = partial(bicycle, x=x, z=at, angle=0.0 if side > 0 else math.pi, key=key, rider=True)
                    yield _at(x, at, draw, 0.6)
                    continue
                person = partial(pedestrian, x=x, z=at, key=key, speed_x=0.0 if still else side * pace, speed_z=0.0)
                yield _at(x, at, person, 0.3)


def items_in_view(style: Style, clutter: float, time_s: float, camera: Camera) -> list[Item]:
    """Return every object that the camera may see, in painter's order."""
    first = int(math.floor((camera.z_m - 14) / BLOCK_M))
    last = int(math.floor((camera.z_m + LOOKAHEAD_M) / BLOCK_M))
    items = [item for block in range(first, last + 1) for item in standing(style, clutter, block)]
    items += moving(style, clutter, time_s, camera.z_m)
    seen = [
        i
        for i in items
        if i.z1 > camera.z_m + 1.0
        and i.z0 < camera.z_m + LOOKAHEAD_M
        and camera.sees(i.x0 - 4, i.x1 + 4, i.z0, i.z1)
    ]
    return far_to_near(seen, camera)
