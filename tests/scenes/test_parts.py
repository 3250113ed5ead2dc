import itertools

import numpy as np
import pytest
from PIL import Image

from cascadert.classes import CAR, PERSON
from cascadert.scenes.camera import Camera
from cascadert.scenes.display import OVERSAMPLING, SMOOTH, DisplayList
from cascadert.scenes.frame import camera_of
from cascadert.scenes.items import Item, far_to_near
from cascadert.scenes.moving import moving
from cascadert.scenes.style import style_of
from cascadert.scenes.world import items_in_view

CAMERA = Camera(
    width=90, height=60, focal_px=90.0, centre_px=45.0, horizon_px=30.0, x_m=0.0, y_m=1.5, z_m=10.0, bend=0.0
)


def nothing(pen: object) -> None:
    del pen


def test_projection_of_known_points() -> None:
    pixels, depth = CAMERA.project(np.array([(0.0, 1.5, 20.0), (1.0, 0.5, 20.0), (-2.0, 0.0, 25.0)]))
    assert np.allclose(pixels, [(45, 30), (54, 39), (33, 39)])
    assert depth.tolist() == [10, 10, 15]


def test_a_planted_rectangle_fills_exactly_its_pixels() -> None:
    """A face 10 m ahead, 1 m = 9 pixels: columns 45 to 62, rows 21 to 43, and nothing beside them."""
    planted = DisplayList()
    planted.box_face(0.0, 2.0, 0.0, 2.5, 20.0, (1.0, 0.5, 0.0), PERSON)
    canvas = Image.new("RGBX", (90 * OVERSAMPLING, 60 * OVERSAMPLING), (0, 0, 0, 10))
    planted.paint(canvas, CAMERA, OVERSAMPLING)
    labels = np.asarray(canvas.resize((90, 60), Image.Resampling.NEAREST))[:, :, 3]
    expected = np.full((60, 90), 10)
    expected[21:44, 45:63] = PERSON
    wrong = labels != expected
    # The lower edge lies half-way through row 43, where either label is right.
    wrong[43] = False
    assert not wrong.any()
    colour = np.asarray(canvas.reduce(OVERSAMPLING))[30, 50, :3]
    assert colour.tolist() == [255, 128, 0]


def test_blocks_and_single_polygons_keep_their_order() -> None:
    listed = DisplayList()
    face = ((-2.0, 0.0, 20.0), (-2.0, 3.0, 20.0), (2.0, 3.0, 20.0), (2.0, 0.0, 20.0))
    for label in (1, 2, 3):
        listed.polygon(face, (0, 0, 0), label)
        if label == 2:
            listed.polygons(np.array([face, face]), np.zeros(3), 9)
    canvas = Image.new("RGBX", (270, 180))
    listed.paint(canvas, CAMERA, OVERSAMPLING)
    assert canvas.getpixel((135, 90))[3] == 3


@pytest.mark.parametrize("seed", range(6))
def test_far_objects_are_drawn_before_near_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = [Item(x, x + 1, z, z + 1, nothing) for x, z in itertools.product(range(-20, 20, 4), range(12, 60, 6))]
    shuffled = [items[i] for i in rng.permutation(len(items))]
    ordered = far_to_near(shuffled, CAMERA)
    assert sorted(map(id, ordered)) == sorted(map(id, items))
    assert all(a.z0 >= b.z0 for a, b in itertools.pairwise(ordered))


def test_a_long_object_beside_others_is_drawn_by_its_side() -> None:
    wall = Item(8.0, 9.0, 12.0, 60.0, nothing)
    person = Item(6.0, 6.5, 40.0, 40.5, nothing)
    behind = Item(12.0, 13.0, 20.0, 21.0, nothing)
    assert far_to_near([person, behind, wall], CAMERA) == [behind, wall, person]


def test_objects_keep_their_identity_while_they_move() -> None:
    style = style_of(3)

    def places(time_s: float) -> dict[str, float]:
        camera_z = camera_of(style, time_s, 96, 192).z_m
        return {i.draw.keywords["key"]: i.z0 for i in moving(style, 1.0, time_s, camera_z)}  # type: ignore[attr-defined]

    before, after = places(2.0), places(2.0 + 1 / 15)
    common = before.keys() & after.keys()
    assert len(common) > 0.9 * len(before)
    steps = np.array([after[k] - before[k] for k in common])
    assert 0.05 < np.abs(steps).max() < 1.5


def test_what_is_in_view_does_not_include_what_is_behind() -> None:
    style = style_of(1)
    camera = camera_of(style, 0.0, 96, 192)
    items = items_in_view(style, 1.0, 0.0, camera)
    assert len(items) > 20
    assert all(i.z1 > camera.z_m for i in items)


def test_the_texture_flag_is_no_class() -> None:
    assert SMOOTH > CAR
    assert SMOOTH & (SMOOTH - 1) == 0
    assert SMOOTH >= 19
