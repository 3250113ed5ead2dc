"""What stands in the street, block by block: lots, trees, posts, parked cars, and knots of small objects."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from cascadert.scenes.furniture import big_sign, bollard, lamp, lamp_size, sign_post, traffic_light
from cascadert.scenes.identity import instance_id, of_side
from cascadert.scenes.items import Item, item_at, vehicle_item
from cascadert.scenes.lots import Lot, draw_lot, lot_extent
from cascadert.scenes.pen import Pen
from cascadert.scenes.people import bicycle, motorcycle, pedestrian
from cascadert.scenes.plants import tree
from cascadert.scenes.rng import keyed
from cascadert.scenes.style import LOOKAHEAD_M, Style
from cascadert.scenes.vehicles import SHAPES

BLOCK_M = 96.0
CROSS_STREET_M = 11.0


def cross_streets(style: Style, z: float) -> list[tuple[float, float]]:
    """Cross streets near `z` (start, end)."""
    first = math.floor((z - 20) / BLOCK_M)
    last = math.floor((z + LOOKAHEAD_M) / BLOCK_M)
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
        weights = (0.3 + 2.2 * style.urban, 1.6 - 1.1 * style.urban, 0.2 + 1.2 * style.greenery, 0.3)
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
            yield item_at(
                x + side * 0.3,
                z,
                partial(tree, x=x + side * 0.3, z=z, height=height, key=block * 50 + index * 2 + side),
            )
        elif index % 3 == 0:
            yield item_at(x, z, partial(lamp, x=x, z=z, side=side, key=key))
        post = z + spacing * 0.4
        dice = keyed(style.seed, "post", key)
        if dice.random() < 0.16 * clutter:
            draw = partial(big_sign, side=side) if dice.random() < 0.15 else sign_post
            yield item_at(x, post, partial(draw, x=x, z=post, key=key))
        z, index = z + spacing * rng.uniform(0.9, 1.1), index + 1


def lamps_near(style: Style, z: float) -> list[tuple[float, float, float]]:
    """Where the street lamps near `z` shine from, also those out of the picture."""
    height, reach = lamp_size(style.seed)
    first, last = math.floor((z - 30) / BLOCK_M), math.floor((z + 150) / BLOCK_M)
    lamps = []
    for block in range(first, last + 1):
        for side in (-1, 1):
            for item in _kerbside(style, 0.0, block, side):
                draw = item.draw
                if isinstance(draw, partial) and draw.func is lamp:
                    lamps.append((draw.keywords["x"] - side * (reach + 0.4), height + 0.3, draw.keywords["z"]))
    return [place for place in lamps if z - 30 < place[2] < z + 150]


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
            key, identity = f"parked.{block}.{side}.{index}", instance_id("parked", block, of_side(side), index)
            yield vehicle_item(kind, x + rng.uniform(-0.1, 0.1), z + length / 2, heading, key, identity)
        z, index = z + length + rng.uniform(0.7, 1.6), index + 1


def _groups(style: Style, clutter: float, block: int, side: int) -> Iterator[Item]:
    """Yield knots of small objects: people who wait, parked two-wheelers, posts and signs."""
    rng = keyed(style.seed, "group", block, side)
    layout = style.layout
    kerb, front = layout.sidewalk_inner(side), layout.frontage(side)
    for g in range(2):
        z, present = block * BLOCK_M + rng.uniform(6, 80), rng.random() < 0.45 + 0.25 * clutter
        local = keyed(style.seed, "knot", block, side, g)
        if not present or clutter == 0:
            continue
        for i in range(round(clutter * local.uniform(1, 6))):
            px, pz = local.uniform(kerb + side * 0.4, front - side * 0.5), z + local.gauss(0, 1.8)
            draw = partial(pedestrian, x=px, z=pz, key=f"{block}.{side}.{g}.{i}", speed_x=0.0, speed_z=0.0)
            yield item_at(px, pz, draw, instance=instance_id("waiting", block, of_side(side), g, i))
        yield from _rack(style, clutter, (block, side, g), z + local.uniform(3, 6))
        if local.random() < 0.5:
            for i in range(round(4 * clutter)):
                bx, bz = kerb + side * 0.25, z - 6 + 1.5 * i
                yield item_at(bx, bz, partial(bollard, x=bx, z=bz, key=f"{block}.{side}.{g}"), 0.1)
        if local.random() < 0.7:
            yield item_at(
                kerb + side * 0.5, z, partial(sign_post, x=kerb + side * 0.5, z=z, key=f"g{block}.{side}.{g}")
            )


def _rack(style: Style, clutter: float, where: tuple[int, int, int], z: float) -> Iterator[Item]:
    block, side, g = where
    local = keyed(style.seed, "rack", *where)
    layout = style.layout
    wheels, angle = local.choice((bicycle, bicycle, bicycle, motorcycle, motorcycle)), local.uniform(-0.6, 0.6)
    far = local.random() < 0.5
    x = (layout.frontage(side) - side * 1.0) if far else (layout.sidewalk_inner(side) + side * 1.0)
    for i in range(round(clutter * local.uniform(1, 9))):
        bz = z + i * local.uniform(0.55, 0.75)
        draw = partial(wheels, x=x, z=bz, angle=angle + local.uniform(-0.15, 0.15), key=f"{block}.{side}.{g}.{i}")
        yield item_at(x, bz, draw, 0.27, instance_id("rack", block, of_side(side), g, i))


def _signals(style: Style, clutter: float, block: int) -> Iterator[Item]:
    if clutter == 0:
        return
    start, end = _cross_street(block)
    layout = style.layout
    for side, z in ((1, start - 5.0), (-1, start - 5.0), (1, end + 4.8), (-1, end + 4.8)):
        x = layout.road_edge(side) + side * 0.5
        draw = partial(traffic_light, x=x, z=z, side=side, over_road=side > 0, key=str(block))
        yield item_at(x, z, draw, 0.2)
