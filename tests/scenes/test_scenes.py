import itertools

import numpy as np
import pytest

from cascadert.classes import (
    BICYCLE,
    CAR,
    CLASS_NAMES,
    PALETTE,
    PERSON,
    POLE,
    RIDER,
    ROAD,
    SKY,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
)
from cascadert.errors import SceneError
from cascadert.scenes import Scene, SceneOptions, clip, render

SMALL = SceneOptions(height=128, width=256)
HARD = (POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, PERSON, RIDER, BICYCLE)


@pytest.fixture(scope="module")
def streets() -> list[Scene]:
    return [render(seed, 4, SMALL) for seed in range(30)]


def share(scene: Scene, *classes: int) -> float:
    return float(np.isin(scene.labels, classes).mean())


def test_the_same_request_gives_the_same_bits_and_another_seed_another_street() -> None:
    first, again, other = render(5, 7, SMALL), render(5, 7, SMALL), render(6, 7, SMALL)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()
    assert (first.labels != other.labels).mean() > 0.1
    assert np.abs(first.image.astype(int) - other.image).mean() > 10


def test_a_frame_does_not_depend_on_the_frames_before_it() -> None:
    frames = list(clip(3, 4, SMALL))
    assert len(frames) == 4
    alone = render(3, 3, SMALL)
    assert np.array_equal(frames[3].image, alone.image)
    assert np.array_equal(frames[3].labels, alone.labels)


def test_every_class_occurs_and_nothing_else(streets: list[Scene]) -> None:
    assert len(CLASS_NAMES) == len(PALETTE) == 19
    found = set(np.unique(np.stack([s.labels for s in streets])).tolist())
    assert found == set(range(19))


def test_large_regions_and_small_objects_both_occur(streets: list[Scene]) -> None:
    assert np.mean([share(s, ROAD) for s in streets]) > 0.2
    hard = [share(s, *HARD) for s in streets]
    assert 0.01 < np.mean(hard) < 0.15


def test_streets_differ_in_light_and_colour(streets: list[Scene]) -> None:
    means = np.array([s.image.reshape(-1, 3).mean(axis=0) for s in streets])
    assert np.all(means.std(axis=0) > 8)
    assert np.all((means > 25) & (means < 230))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (97, 131), (200, 90), (64, 640), (135, 241)])
def test_any_size(height: int, width: int) -> None:
    scene = render(2, 3, SceneOptions(height, width))
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert scene.labels.shape == (height, width)
    assert scene.labels.dtype == np.uint8
    assert scene.labels.max() < 19


@pytest.mark.parametrize(("height", "width"), [(1024, 40), (40, 1024)])
def test_extreme_shapes_keep_the_sky_above_the_ground(height: int, width: int) -> None:
    labels = render(3, 0, SceneOptions(height, width)).labels
    assert not (labels[height * 2 // 3 :] == SKY).any()


def test_the_view_is_the_same_at_another_resolution() -> None:
    coarse, fine = render(8, 5, SMALL), render(8, 5, SceneOptions(384, 768))
    assert (fine.labels[1::3, 1::3] == coarse.labels).mean() > 0.97


def test_clutter_adds_small_objects_and_leaves_the_street() -> None:
    shares = []
    for clutter in (0.0, 1.0, 4.0):
        scenes = [render(seed, 0, SceneOptions(128, 256, clutter)) for seed in range(40, 45)]
        shares.append(np.mean([share(s, PERSON, RIDER, BICYCLE, TRAFFIC_SIGN, TRAFFIC_LIGHT) for s in scenes]))
    assert shares[0] == 0.0
    assert shares[2] > 2 * shares[1] > 0
    bare, full = render(40, 0, SceneOptions(128, 256, 0.0)), render(40, 0, SceneOptions(128, 256, 4.0))
    untouched = ~np.isin(full.labels, (*HARD, 17))
    assert (bare.labels == full.labels)[untouched].mean() > 0.98


def test_the_camera_and_the_traffic_move_little_by_little() -> None:
    for seed in (1, 2, 3):
        frames = list(clip(seed, 3, SMALL))
        changed = [(a.labels != b.labels).mean() for a, b in itertools.pairwise(frames)]
        assert all(0.001 < c < 0.25 for c in changed)
    far = render(1, 400, SMALL)
    assert (far.labels != render(1, 0, SMALL).labels).mean() > 0.1


def test_pictures_agree_with_labels(streets: list[Scene]) -> None:
    """Leaves are green or autumnal (blue least); labels that are moved sideways make sky and road less uniform."""
    leaves = np.concatenate([s.image[s.labels == VEGETATION] for s in streets]).astype(int)
    assert (leaves[:, 2] <= leaves[:, 1] + 8).mean() > 0.8

    def spread(scene: Scene, shift: int) -> float:
        """Mean deviation of brightness inside sky and cars, with the labels moved sideways by `shift` pixels."""
        labels = np.roll(scene.labels, shift, axis=1)
        grey = scene.image.mean(axis=2)
        return float(sum(grey[labels == c].std() for c in (SKY, ROAD) if (labels == c).sum() > 200))

    exact = sum(spread(s, 0) for s in streets)
    assert exact < sum(spread(s, 3) for s in streets)
    assert exact < sum(spread(s, -3) for s in streets)
    assert any(share(s, CAR) > 0.05 for s in streets)


def test_edges_in_the_picture_lie_on_the_edges_of_the_labels() -> None:
    """Along the border of the sky the picture's gradient is strongest exactly where the label changes."""
    scene = render(4, 30, SceneOptions(256, 512, 0.0))
    grey = scene.image.astype(float).mean(axis=2)
    step = np.abs(np.diff(grey, axis=0))
    border = (scene.labels[:-1] == SKY) & (scene.labels[1:] != SKY)
    rows, columns = np.nonzero(border)
    inside = (rows > 3) & (rows < 250)
    rows, columns = rows[inside], columns[inside]
    strength = [float(np.median(step[rows + k, columns])) for k in (-3, -2, 0, 2, 3)]
    assert int(np.argmax(strength)) == 2
    assert strength[2] > 3 * max(strength[0], strength[4])


@pytest.mark.parametrize("field", ["height", "width"])
@pytest.mark.parametrize("value", [0, -5, 31, 4097, 100.5, 128.0])
def test_a_bad_size_is_refused(field: str, value: float) -> None:
    with pytest.raises(SceneError, match=rf"SceneOptions\.{field} = {value}: .*from 32 to 4096"):
        SceneOptions(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.1, 4.5, float("nan")])
def test_bad_clutter_is_refused(value: float) -> None:
    with pytest.raises(SceneError, match=r"SceneOptions\.clutter = .*: outside the range; give a number from 0"):
        SceneOptions(clutter=value)


def test_a_negative_frame_is_refused() -> None:
    with pytest.raises(SceneError, match="scene frame index -1: negative; give 0 or more"):
        render(0, -1)
    with pytest.raises(SceneError, match="scene clip of -2 frames: a negative number; give 0 or more"):
        list(clip(0, -2))
