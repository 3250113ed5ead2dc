import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.classes import CAMVID, CITYSCAPES
from cascadert.geometry import Grid
from cascadert.jetson.heat import entropy_heat, scores_to_pixels
from cascadert.jetson.overlay import OverlayOptions, colourise, draw_overlay

GRID = Grid(120, 160, (40, 40), (40, 40))
WHITE, YELLOW = [255, 255, 255], [255, 214, 10]


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


def test_labels_become_their_colours():
    colours = colourise(np.array([[0, 8], [10, 255]], np.uint8), CITYSCAPES)
    assert colours.tolist() == [[[128, 64, 128], [107, 142, 35]], [[70, 130, 180], [0, 0, 0]]]


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_blending_is_the_weighted_mean(image, opacity):
    labels = np.full((120, 160), 3, np.uint8)
    drawn = draw_overlay(image, labels, CAMVID, grid=GRID, options=OverlayOptions(opacity))
    mean = image * (1 - opacity) + np.array(CAMVID.palette[3]) * opacity
    assert np.abs(drawn - mean).max() <= 0.5


def test_ignored_pixels_stay_as_they_are(image):
    drawn = draw_overlay(image, np.full((120, 160), 255, np.uint8), CAMVID, grid=GRID)
    np.testing.assert_array_equal(drawn, image)


def test_the_input_is_left_alone(image):
    before = image.copy()
    draw_overlay(image, np.zeros((120, 160), np.uint8), CAMVID, grid=GRID, refined=[[0]], caption="x")
    np.testing.assert_array_equal(image, before)


def test_refined_blocks_are_outlined_and_others_are_not(image):
    ignored = np.full((120, 160), 255, np.uint8)
    drawn = draw_overlay(image, ignored, CAMVID, grid=GRID, refined=[[5]])
    changed = (drawn != image).any(axis=2)
    assert changed[40:80, 40:80].any()
    changed[40:80, 40:80] = False
    assert not changed.any()
    assert drawn[41, 60].tolist() == drawn[60, 41].tolist() == drawn[78, 60].tolist() == WHITE
    np.testing.assert_array_equal(drawn[45:75, 45:75], image[45:75, 45:75])


def test_a_later_decision_is_drawn_inside_an_earlier_one(image):
    ignored = np.full((120, 160), 255, np.uint8)
    drawn = draw_overlay(image, ignored, CAMVID, grid=GRID, refined=[[5], [5]])
    column = drawn[40:50, 60].tolist()
    assert column.index(WHITE) < column.index(YELLOW)


def test_lines_grow_with_the_picture():
    def width(size: int) -> int:
        grid = Grid(size, size, (size, size), (size, size))
        labels = np.full((size, size), 255, np.uint8)
        drawn = draw_overlay(np.full((size, size, 3), 90, np.uint8), labels, CAMVID, grid=grid, refined=[[0]])
        return int((drawn[: size // 2, size // 2] == WHITE).all(axis=1).sum())

    assert [width(size) for size in (200, 1024)] == [1, 3]


def test_a_caption_stays_in_its_strip(image):
    ignored = np.full((120, 160), 255, np.uint8)
    drawn = draw_overlay(image, ignored, CAMVID, grid=GRID, caption="frame 7")
    assert (drawn[:15] != image[:15]).any()
    np.testing.assert_array_equal(drawn[40:], image[40:])


def test_the_end_of_a_long_caption_is_what_stays(image):
    ignored = np.full((120, 160), 255, np.uint8)
    long, longer = (draw_overlay(image, ignored, CAMVID, grid=GRID, caption="x" * n + " 31.4 ms") for n in (40, 90))
    np.testing.assert_array_equal(long, longer)


def test_a_legend_names_the_classes_that_appear(image):
    labels = np.full((120, 160), 255, np.uint8)
    labels[:60] = 3
    drawn = draw_overlay(image, labels, CAMVID, grid=GRID, options=OverlayOptions(opacity=0, legend=True))
    assert (drawn[100:] == CAMVID.palette[3]).all(axis=2).any()
    assert not (drawn[100:] == CAMVID.palette[0]).all(axis=2).any()


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    block=st.integers(1, 9),
    text=st.text(max_size=40),
    legend=st.booleans(),
)
def test_any_picture_can_be_drawn_on(size, block, text, legend):
    block = min(block, *size)
    grid = Grid(*size, (block, block), (block, block))
    drawn = draw_overlay(
        np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8), CAMVID,
        grid=grid, refined=[range(grid.size), [0]], caption=text, options=OverlayOptions(legend=legend),
    )  # fmt: skip
    assert drawn.shape == (*size, 3)
    assert drawn.dtype == np.uint8


class TestHeat:
    def test_zero_is_black_and_the_most_is_bright(self):
        heat = entropy_heat(np.array([[0.0, 2.0, 4.0, 9.0]]), most_bits=4.0)
        assert heat[0, 0].tolist() == [0, 0, 4]
        assert heat[0, 2].tolist() == heat[0, 3].tolist() == [252, 255, 164]
        brightness = entropy_heat(np.linspace(0, 4, 256)[np.newaxis], 4.0)[0].astype(float) @ [0.299, 0.587, 0.114]
        assert (np.diff(brightness) > -1).all()

    def test_it_is_matplotlibs_inferno(self):
        colormaps = pytest.importorskip("matplotlib").colormaps
        values = np.linspace(0, 1, 256)
        expected = colormaps["inferno"](values)[:, :3] * 255
        assert np.abs(entropy_heat(values[np.newaxis], 1.0)[0] - expected).max() < 6

    def test_scores_lie_where_their_blocks_do(self):
        grid = Grid(4, 6, (2, 2), (2, 2))
        scores = np.array([0.9, 0.5, 0.25, -np.inf], np.float32)
        pixels = scores_to_pixels(scores, np.array([7, 0, 5, 1], np.int32), grid)
        assert pixels.tolist() == [[0.5, 0.5, 0, 0, 0, 0]] * 2 + [[0, 0, 0, 0, 0.25, 0.25]] * 2
        second = scores_to_pixels(scores, np.array([7, 0, 5, 1], np.int32), grid, camera=1)
        np.testing.assert_array_equal(second[:2, 2:4], np.float32(0.9))
        assert second.sum() == pytest.approx(3.6)
