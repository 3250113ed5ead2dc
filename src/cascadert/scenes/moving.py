"""What moves: traffic on endless belts, walkers, riders, and people on zebra crossings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

from cascadert.scenes.identity import instance_id, of_side
from cascadert.scenes.items import Item, item_at, vehicle_item
from cascadert.scenes.people import bicycle, motorcycle, pedestrian
from cascadert.scenes.rng import keyed
from cascadert.scenes.standing import BLOCK_M, cross_streets
from cascadert.scenes.style import LOOKAHEAD_M, Style


def moving(style: Style, clutter: float, time_s: float, camera_z: float) -> Iterator[Item]:
    """Yield everything that moves."""
    yield from _traffic(style, time_s, camera_z)
    yield from _walkers(style, clutter, time_s, camera_z)
    yield from _riders(style, clutter, time_s, camera_z)
    yield from _crossing(style, clutter, time_s, camera_z)


def _belt(
    style: Style, name: str, spacing: float, speed: float, time_s: float, camera_z: float
) -> Iterator[tuple[int, str, float]]:
    """Yield (number, key, z) of the objects of an endless belt that are in view: no two ever meet."""
    moved = speed * time_s
    first = math.ceil((camera_z - 15 - moved) / spacing)
    last = math.floor((camera_z + LOOKAHEAD_M - moved) / spacing)
    for k in range(first, last + 1):
        key = f"{name}.{k}"
        yield k, key, k * spacing + moved + keyed(style.seed, "belt", key).uniform(-0.2, 0.2) * spacing


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
        for k, key, z in _belt(style, f"ahead.{lane}", max(spacing, 20.0), speed, time_s, camera_z):
            if own and z < camera_z + 11:
                continue
            yield vehicle_item(_kind(style, key), layout.lane_centre(lane), z, 1, key, instance_id("ahead", k, lane))
    for lane in range(layout.lanes_oncoming):
        for k, key, z in _belt(style, f"oncoming.{lane}", max(spacing, 20.0), -ego, time_s, camera_z):
            identity = instance_id("oncoming", k, lane)
            yield vehicle_item(_kind(style, key), layout.oncoming_centre(lane), z, -1, key, identity)
    if layout.tram:
        for track, heading in ((1.65, 1), (-1.65, -1)):
            for k, key, z in _belt(style, f"tram.{heading}", 95.0, heading * 7.0, time_s, camera_z):
                for car in range(keyed(style.seed, "cars", key).choice((2, 3))):
                    identity = instance_id("tram", k, of_side(heading))
                    yield vehicle_item("tram", track, z + car * 10.7, heading, key, identity)


def _walkers(style: Style, clutter: float, time_s: float, camera_z: float) -> Iterator[Item]:
    if clutter == 0:
        return
    layout = style.layout
    for side in (-1, 1):
        inner, outer = layout.sidewalk_inner(side), layout.frontage(side)
        for lane, speed in enumerate((1.3, -1.2)):
            name = f"walk.{side}.{lane}"
            for k, key, z in _belt(style, name, 26.0 / (0.4 + clutter), speed, time_s, camera_z):
                rng = keyed(style.seed, "walkers", key)
                middle = rng.uniform(inner + side * 0.5, outer - side * 0.6)
                for i in range(rng.choices((1, 2, 3), weights=(5, 3, 1))[0]):
                    x, at = middle + i * 0.62 * side, z + rng.uniform(-0.4, 0.4)
                    if abs(x) > abs(outer) - 0.2:
                        x = middle - i * 0.62 * side
                    draw = partial(pedestrian, x=x, z=at, key=f"{key}.{i}", speed_x=0.0, speed_z=speed)
                    yield item_at(x, at, draw, 0.3, instance_id("walk", k, of_side(side), lane, i))


def _riders(style: Style, clutter: float, time_s: float, camera_z: float) -> Iterator[Item]:
    if clutter == 0:
        return
    layout = style.layout
    right = layout.road_right - 2.2 * layout.parking_right - 0.45
    left = layout.road_left + 2.2 * layout.parking_left + 0.45
    for name, x, speed in (("right", right, 4.5), ("left", left, -4.2)):
        for k, key, z in _belt(style, f"ride.{name}", 46.0 / (0.2 + clutter), speed, time_s, camera_z):
            if z < camera_z + 4.5:
                continue
            rng = keyed(style.seed, "rider", key)
            draw = motorcycle if rng.random() < 0.45 else bicycle
            angle = math.copysign(math.pi / 2, speed) + rng.uniform(-0.15, 0.15)
            ride = partial(draw, x=x, z=z, angle=angle, key=key, rider=True)
            yield item_at(x, z, ride, 0.5, instance_id("ride", k, int(name == "right")))


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
                identity = instance_id("crossing", round(end / BLOCK_M), int(name == "b"), i)
                at, key = z + rng.uniform(-1.2, 1.2), f"{name}{int(start)}.{i}"
                if rng.random() < 0.2:
                    draw = partial(bicycle, x=x, z=at, angle=0.0 if side > 0 else math.pi, key=key, rider=True)
                    yield item_at(x, at, draw, 0.6, identity)
                    continue
                person = partial(pedestrian, x=x, z=at, key=key, speed_x=0.0 if still else side * pace, speed_z=0.0)
                yield item_at(x, at, person, 0.3, identity)
