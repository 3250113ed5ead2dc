import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.errors import SceneError
from cascadert.scenes import SPLITS, SceneOptions, Split, frame_of_split, render

numbers = st.integers(0, 99_999)


@given(number=numbers)
def test_train_and_val_are_the_frames_that_the_recipes_train_on(number: int) -> None:
    """As in recipes/street_data.py: seeds from 100,000 and 200,000, frame seed * 37 % 450, default options."""
    for split, first in (("train", 100_000), ("val", 200_000)):
        frame = frame_of_split(split, number)  # type: ignore[arg-type]
        assert frame.seed == first + number
        assert frame.index == frame.seed * 37 % 450
        assert frame.options == SceneOptions(height=384, width=768)


@given(a=numbers, b=numbers, one=st.sampled_from(SPLITS), other=st.sampled_from(SPLITS))
def test_no_street_occurs_twice(a: int, b: int, one: Split, other: Split) -> None:
    same = frame_of_split(one, a).seed == frame_of_split(other, b).seed
    assert same == ((one, a) == (other, b))


def test_the_shifted_split_is_night_and_rain() -> None:
    frames = [frame_of_split("shift", number) for number in range(300)]
    looks = [(f.options.light, f.options.rain > 0) for f in frames]
    assert {look: looks.count(look) for look in set(looks)} == {
        ("night", False): 100,
        ("day", True): 100,
        ("night", True): 100,
    }
    rains = [f.options.rain for f in frames if f.options.rain]
    assert min(rains) >= 0.4
    assert max(rains) <= 1.0
    assert np.std(rains) > 0.1


@pytest.mark.parametrize("split", SPLITS)
def test_frames_take_their_size_and_clutter_from_the_options(split: Split) -> None:
    frame = frame_of_split(split, 7, SceneOptions(64, 128, 2.0, "dusk", 0.2, instances=True))
    options = frame.options
    assert (options.height, options.width, options.clutter, options.instances) == (64, 128, 2.0, True)
    assert options.light != "dusk"
    assert options.rain != 0.2
    scene = frame.render()
    assert np.array_equal(scene.image, render(frame.seed, frame.index, options).image)


@pytest.mark.parametrize("number", [-1, 100_000])
def test_a_number_outside_the_split_is_refused(number: int) -> None:
    with pytest.raises(SceneError, match=rf"frame {number} of scene split val: outside the split; give 0 to 99999"):
        frame_of_split("val", number)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(SceneError, match="scene split 'test': no such split; give one of train, val, shift"):
        frame_of_split("test", 0)  # type: ignore[arg-type]
