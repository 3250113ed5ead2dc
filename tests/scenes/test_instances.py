import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.classes import BICYCLE, CAR, MOTORCYCLE, PERSON, RIDER, TRAIN
from cascadert.scenes import Scene, SceneOptions, clip, render
from cascadert.scenes.frame import FRAMES_PER_S, camera_of
from cascadert.scenes.identity import _PLACES, instance_id
from cascadert.scenes.relight import relit
from cascadert.scenes.style import style_of
from cascadert.scenes.world import items_in_view

OPTIONS = SceneOptions(160, 320, clutter=3.0, instances=True)


@pytest.fixture(scope="module")
def streets() -> list[Scene]:
    return [render(seed, 50 + seed, OPTIONS) for seed in range(12)]


def ids_of(scene: Scene) -> dict[int, int]:
    """The class of each instance; fails where one has two."""
    assert scene.instances is not None
    pairs = np.unique(np.stack([scene.instances.ravel(), scene.labels.ravel()]), axis=1).T.tolist()
    found = {number: label for number, label in pairs if number}
    assert len(found) == len([number for number, _ in pairs if number]), "an instance has two classes"
    return found


def test_things_have_ids_and_nothing_else_has(streets: list[Scene]) -> None:
    for scene in streets:
        assert scene.instances is not None
        assert scene.instances.dtype == np.int32
        assert np.array_equal(scene.instances > 0, scene.labels >= PERSON)
    seen = {label for scene in streets for label in ids_of(scene).values()}
    assert seen == set(range(PERSON, BICYCLE + 1))


def test_an_id_has_one_class_in_every_frame_of_its_street() -> None:
    for seed in (3, 5):
        classes: dict[int, int] = {}
        for index in range(0, 45, 15):
            for number, label in ids_of(render(seed, index, OPTIONS)).items():
                assert classes.setdefault(number, label) == label


def test_a_rider_comes_right_after_the_vehicle_below(streets: list[Scene]) -> None:
    riders = 0
    for scene in streets:
        found = ids_of(scene)
        for number in (n for n, label in found.items() if label == RIDER):
            assert found.get(number - 1, BICYCLE) in (BICYCLE, MOTORCYCLE)
            riders += number - 1 in found
    assert riders > 5


def test_occlusion_splits_keep_the_id(streets: list[Scene]) -> None:
    """Some object shows in two pieces with another object between them, under one id."""
    split = 0
    for scene in streets:
        ids = scene.instances
        assert ids is not None
        for row in ids[75:120:5]:
            runs = [number for number, _ in itertools.groupby(row.tolist()) if number]
            split += len(runs) - len(set(runs))
    assert split > 10


@pytest.mark.parametrize("seed", [2, 9, 31])
def test_no_two_objects_of_a_street_share_an_id(seed: int) -> None:
    """Only the cars of one tram do."""
    keys: dict[int, str] = {}
    style = style_of(seed)
    for index in range(0, 600, 15):
        camera = camera_of(style, index / FRAMES_PER_S, 96, 192)
        for item in items_in_view(style, 4.0, index / FRAMES_PER_S, camera):
            if item.instance:
                keywords = item.draw.keywords  # type: ignore[attr-defined]
                name = f"{item.draw.func.__name__} {keywords['key']}"  # type: ignore[attr-defined]
                assert keys.setdefault(item.instance, name) == name
    assert len(set(keys.values())) == len(keys) > 300


@given(st.data())
def test_ids_are_unique_positive_and_fit_31_bits(data: st.DataObject) -> None:
    kinds = st.sampled_from(sorted(_PLACES))

    def place() -> tuple[str, int, tuple[int, ...]]:
        kind = data.draw(kinds)
        number = data.draw(st.integers(-500_000, 500_000))
        return kind, number, tuple(data.draw(st.integers(0, size - 1)) for size in _PLACES[kind])

    (a, i, at), (b, j, to) = place(), place()
    first, second = instance_id(a, i, *at), instance_id(b, j, *to)
    assert 0 < first < 2**31
    assert (first == second) == ((a, i, at) == (b, j, to))


def test_a_place_beyond_the_table_is_an_error() -> None:
    with pytest.raises(IndexError, match="parked"):
        instance_id("parked", 0, 1, 32)


def test_ids_do_not_depend_on_light_rain_or_size() -> None:
    day = render(3, 20, OPTIONS).instances
    night = render(3, 20, SceneOptions(160, 320, 3.0, "night", 1.0, instances=True)).instances
    fine = render(3, 20, SceneOptions(480, 960, 3.0, instances=True)).instances
    assert day is not None
    assert night is not None
    assert fine is not None
    assert np.array_equal(day, night)
    assert (fine[1::3, 1::3] == day).mean() > 0.97
    assert relit(style_of(3), "night", 1.0).layout == style_of(3).layout


def test_the_cars_of_a_tram_are_one_train() -> None:
    seed = next(s for s in range(100) if style_of(s).layout.tram)
    style = style_of(seed)
    items = items_in_view(style, 0.0, 0.0, camera_of(style, 0.0, 96, 192))
    trams = [i for i in items if getattr(i.draw, "keywords", {}).get("kind") == "tram"]
    assert len(trams) > len({i.instance for i in trams}) > 0
    labels = {label for scene in clip(seed, 1, OPTIONS) for label in ids_of(scene).values()}
    assert labels & {TRAIN, CAR}
