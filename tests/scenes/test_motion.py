"""What moves does so smoothly: in the world, and in the picture. Positions are checked at 15 Hz."""

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest

from cascadert.classes import BUS, CAR, TRUCK
from cascadert.scenes import FRAMES_PER_S, SceneOptions, render
from cascadert.scenes.camera import Camera
from cascadert.scenes.frame import camera_of
from cascadert.scenes.items import Item
from cascadert.scenes.style import style_of
from cascadert.scenes.vehicles import draw_vehicle
from cascadert.scenes.world import items_in_view

STREETS = range(60, 84)


@dataclass(frozen=True)
class View:
    """What can be counted in one frame, by id (the first car of a tram), and from where it is seen."""

    camera: Camera
    things: dict[int, Item]


def view(seed: int, index: int, clutter: float = 1.0) -> View:
    style, time_s = style_of(seed), index / FRAMES_PER_S
    camera = camera_of(style, time_s, 192, 384)
    things: dict[int, Item] = {}
    for item in sorted(items_in_view(style, clutter, time_s, camera), key=lambda i: i.z0):
        if item.instance:
            things.setdefault(item.instance, item)
    return View(camera, things)


def what(item: Item, keyword: str) -> object:
    return item.draw.keywords.get(keyword)  # type: ignore[attr-defined]


def centre(item: Item) -> np.ndarray:
    return np.array(((item.x0 + item.x1) / 2, (item.z0 + item.z1) / 2))


@pytest.fixture(scope="module")
def clips() -> list[list[View]]:
    return [[view(seed, 100 + index) for index in range(8)] for seed in STREETS]


def test_nothing_jumps_and_each_kind_keeps_its_speed(clips: list[list[View]]) -> None:
    speeds = defaultdict(list)
    for seed, frames in zip(STREETS, clips, strict=True):
        for a, b in itertools.pairwise(frames):
            for number in a.things.keys() & b.things.keys():
                item = a.things[number]
                if what(item, "kind") == "tram":
                    continue
                step = (centre(b.things[number]) - centre(item)) * FRAMES_PER_S
                key = str(what(item, "key"))
                if key.startswith("parked"):
                    assert np.allclose(step, 0)
                elif item.draw.func is draw_vehicle:  # type: ignore[attr-defined]
                    assert step[0] == pytest.approx(0, abs=1e-6), "vehicles keep their lane"
                    assert 0.79 < abs(step[1]) / style_of(seed).speed_mps < 1.13
                else:
                    kind = "rides" if what(item, "rider") else "walks" if what(item, "speed_x") is not None else "rests"
                    speeds[kind].append(float(np.hypot(*step)))
    assert max(speeds["rests"]) < 1e-6
    assert 1.0 < max(speeds["walks"]) <= 1.7 + 1e-6
    assert 4.0 < max(speeds["rides"]) <= 4.5 + 1e-6


def test_vehicles_do_not_pass_through_each_other(clips: list[list[View]]) -> None:
    pairs = 0
    for frame in clips:
        vehicles = [i for i in frame[0].things.values() if i.draw.func is draw_vehicle]  # type: ignore[attr-defined]
        for a, b in itertools.combinations(vehicles, 2):
            assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.z1 <= b.z0 or b.z1 <= a.z0
            pairs += 1
    assert pairs > 300


def test_nothing_appears_or_vanishes_inside_the_picture(clips: list[list[View]]) -> None:
    """Save riders within 6 m and trams beside us, which the default frames lose, and what is almost out of sight."""
    kept = 0
    for frames in clips:
        for a, b in itertools.pairwise(frames):
            for here, there in ((a, b), (b, a)):
                for number, item in here.things.items():
                    kept += number in there.things
                    if number in there.things or what(item, "kind") == "tram":
                        continue
                    ahead = item.z0 - here.camera.z_m
                    near_rider = bool(what(item, "rider")) and ahead < 6
                    assert (
                        near_rider
                        or ahead > 175
                        or not here.camera.sees(item.x0, item.x1, item.z0, item.z1)
                        or (columns_shown(here.camera, item) < 4)
                    )
    assert kept > 5000


def columns_shown(camera: Camera, item: Item) -> float:
    left, right = camera.columns(*(np.array([v]) for v in (item.x0, item.x1, item.z0, item.z1)))
    return float(min(right[0], camera.width) - max(left[0], 0))


@pytest.mark.parametrize("seed", [61, 64, 70])
def test_in_the_picture_vehicles_move_as_their_boxes_do(seed: int) -> None:
    """Where a vehicle is whole in both frames, its centroid moves as the projection of its box, to 1.5 pixels."""
    options = SceneOptions(192, 384, clutter=0.0, instances=True)
    checked = 0
    frames = [(render(seed, index, options), view(seed, index, 0.0)) for index in (40, 41, 42)]
    for (scene_a, a), (scene_b, b) in itertools.pairwise(frames):
        for number in a.things.keys() & b.things.keys():
            found = [centroid(s.instances, number) for s in (scene_a, scene_b) if s.instances is not None]
            if None in found or what(a.things[number], "kind") == "tram":
                continue
            (x0, y0, size0), (x1, y1, size1) = found  # type: ignore[misc]
            if abs(size0 - size1) > 0.06 * size0:
                continue
            (px0, py0), (px1, py1) = (projected(v.camera, v.things[number]) for v in (a, b))
            assert abs((x1 - x0) - (px1 - px0)) < 1.5
            assert abs((y1 - y0) - (py1 - py0)) < 1.5
            checked += 1
    assert checked >= 2
    assert {CAR, TRUCK, BUS} & set(np.unique(frames[0][0].labels).tolist())


def centroid(ids: np.ndarray, number: int) -> tuple[float, float, int] | None:
    """Centre and size in pixels of an object of at least 40 that does not touch the border."""
    y, x = np.nonzero(ids == number)
    if len(x) < 40 or x.min() == 0 or x.max() == ids.shape[1] - 1 or y.max() == ids.shape[0] - 1:
        return None
    return float(x.mean()), float(y.mean()), len(x)


def projected(camera: Camera, item: Item) -> tuple[float, float]:
    x, z = centre(item)
    pixels, _ = camera.project(np.array([(x, 0.8, max(z, camera.z_m + 2))]))
    return float(pixels[0, 0]), float(pixels[0, 1])
