import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.errors import SourceError
from cascadert.jetson.fit import nearest, plan_fit
from cascadert.spec import FrameSpec

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))
FITS = st.sampled_from(["resize", "letterbox"])


def frame(height: int, width: int, fit: str) -> FrameSpec:
    return FrameSpec(height=height, width=width, fit=fit)


@given(source=SIZES, target=SIZES, fit=FITS)
def test_frames_have_the_bundles_size_and_labels_the_sources(source, target, fit):
    plan = plan_fit("x", source, frame(*target, fit))
    assert plan.apply(np.full((*source, 3), 7, np.uint8)).shape == (*target, 3)
    assert plan.invert(np.zeros(target, np.uint8)).shape == source


@given(source=SIZES, target=SIZES)
def test_letterbox_margins_never_reach_the_labels(source, target):
    plan = plan_fit("x", source, frame(*target, "letterbox"))
    margin = plan.apply(np.full((*source, 3), 200, np.uint8))[..., 0] == 0
    labels = np.where(margin, 99, 3).astype(np.uint8)
    assert set(np.unique(plan.invert(labels))) == {3}
    np.testing.assert_array_equal(plan.ignore_margins(labels), np.where(margin, 255, 3))


@given(source=SIZES, target=SIZES)
def test_letterbox_touches_two_opposite_sides_and_is_centred(source, target):
    plan = plan_fit("x", source, frame(*target, "letterbox"))
    assert any(scaled == size for scaled, size in zip(plan.scaled, target, strict=True))
    for corner, scaled, size in zip(plan.corner, plan.scaled, target, strict=True):
        assert corner in (0, (size - scaled) // 2)
        assert 0 <= corner <= size - scaled


@given(target=SIZES, more=st.tuples(st.integers(0, 9), st.integers(0, 9)), seed=st.integers(0, 99))
def test_crop_keeps_the_very_pixels_and_ignores_what_it_cut_off(target, more, seed):
    source = target[0] + more[0], target[1] + more[1]
    plan = plan_fit("x", source, frame(*target, "crop"))
    image = np.random.default_rng(seed).integers(0, 255, (*source, 3), np.uint8)
    back = plan.invert(plan.apply(image)[..., 0])
    seen = back != 255
    assert seen.sum() == target[0] * target[1]
    np.testing.assert_array_equal(back[seen], image[..., 0][seen])


@given(source=SIZES, target=SIZES, fit=FITS)
def test_labels_of_the_source_go_where_its_pixels_go(source, target, fit):
    plan = plan_fit("x", source, frame(*target, fit))
    margin = plan.apply(np.full((*source, 3), 200, np.uint8))[..., 0] == 0
    np.testing.assert_array_equal(plan.apply_to_labels(np.full(source, 3, np.uint8)), np.where(margin, 255, 3))


@given(target=SIZES, more=st.tuples(st.integers(0, 9), st.integers(0, 9)), seed=st.integers(0, 99))
def test_cropped_labels_are_those_of_the_pixels_that_stay(target, more, seed):
    source = target[0] + more[0], target[1] + more[1]
    plan = plan_fit("x", source, frame(*target, "crop"))
    labels = np.random.default_rng(seed).integers(0, 19, source, np.uint8)
    image = np.stack([labels] * 3, axis=-1)
    np.testing.assert_array_equal(plan.apply_to_labels(labels), plan.apply(image)[..., 0])


@given(size=SIZES, factor=st.integers(1, 4), seed=st.integers(0, 99))
def test_labels_survive_enlarging_by_whole_numbers(size, factor, seed):
    """A frame `factor` times larger than its source: every source pixel gets back a label of its own area."""
    plan = plan_fit("x", size, frame(size[0] * factor, size[1] * factor, "resize"))
    labels = np.random.default_rng(seed).integers(0, 19, size, np.uint8)
    np.testing.assert_array_equal(plan.invert(labels.repeat(factor, 0).repeat(factor, 1)), labels)


@given(source=st.integers(1, 300), scaled=st.integers(1, 300))
def test_nearest_is_the_pixel_under_the_centre(source, scaled):
    indices = nearest(source, scaled)
    assert indices.min() >= 0
    assert indices.max() < scaled
    centres = (np.arange(source) + 0.5) * scaled / source
    assert (np.abs(indices + 0.5 - centres) <= 0.5 + 1e-9).all()


def test_the_very_size_goes_through_untouched():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for fit in ("none", "resize", "letterbox", "crop"):
        plan = plan_fit("x", (2, 4), frame(2, 4, fit))
        assert plan.apply(image) is image
        np.testing.assert_array_equal(plan.invert(image[..., 0]), image[..., 0])
        np.testing.assert_array_equal(plan.apply_to_labels(image[..., 0]), image[..., 0])


def test_resize_is_bilinear():
    plan = plan_fit("x", (1, 2), frame(1, 4, "resize"))
    image = np.array([[[0] * 3, [100] * 3]], np.uint8)
    assert plan.apply(image)[0, :, 0].tolist() == [0, 25, 75, 100]


def test_another_size_is_refused_by_default():
    message = r"clip/7.jpg: is 8x6 pixels where the bundle takes 4x3 \(width x height\); .*frame.fit"
    with pytest.raises(SourceError, match=message):
        plan_fit("clip/7.jpg", (6, 8), frame(3, 4, "none"))


def test_nothing_is_cropped_from_something_smaller():
    with pytest.raises(SourceError, match=r"7.jpg: is 8x2 pixels, too small to crop 4x3 .*letterbox"):
        plan_fit("7.jpg", (2, 8), frame(3, 4, "crop"))
