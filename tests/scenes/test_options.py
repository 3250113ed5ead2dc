import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.errors import SceneError
from cascadert.scenes import LIGHTS, LightName, SceneOptions, render
from cascadert.scenes.relight import relit
from cascadert.scenes.style import style_of

lights = st.sampled_from(LIGHTS)
rains = st.floats(0, 1)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64),
    index=st.integers(0, 10_000),
    light=lights,
    rain=rains,
    clutter=st.sampled_from((0.0, 1.0, 4.0)),
    height=st.integers(32, 90),
    width=st.integers(32, 120),
)
def test_light_and_rain_change_no_label_and_the_same_request_gives_the_same_bits(
    seed: int, index: int, light: LightName, rain: float, clutter: float, height: int, width: int
) -> None:
    plain = render(seed, index, SceneOptions(height, width, clutter))
    options = SceneOptions(height, width, clutter, light, rain, instances=True)
    scene, again = render(seed, index, options), render(seed, index, options)
    assert np.array_equal(scene.labels, plain.labels)
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert np.array_equal(scene.image, again.image)
    assert scene.instances is not None
    assert again.instances is not None
    assert np.array_equal(scene.instances, again.instances)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("rain", [0.0, 1.0])
def test_labels_do_not_depend_on_light_and_rain_at_full_size(light: LightName, rain: float) -> None:
    seed = 7 + LIGHTS.index(light)
    plain = render(seed, 90, SceneOptions(clutter=3.0))
    assert np.array_equal(render(seed, 90, SceneOptions(clutter=3.0, light=light, rain=rain)).labels, plain.labels)


@given(st.floats(allow_nan=True).filter(lambda r: not 0 <= r <= 1))
def test_rain_outside_the_range_is_refused(rain: float) -> None:
    with pytest.raises(SceneError, match=r"SceneOptions\.rain = .*: outside the range; give a number from 0 \(dry\)"):
        SceneOptions(rain=rain)


@given(st.text().filter(lambda name: name not in LIGHTS))
def test_an_unknown_light_is_refused(name: str) -> None:
    with pytest.raises(SceneError, match=r"no such light; give one of as-seeded, day, dusk, night"):
        SceneOptions(light=name)  # type: ignore[arg-type]


def test_what_is_no_number_is_refused_too() -> None:
    with pytest.raises(SceneError, match=r"SceneOptions\.rain = 'hard'"):
        SceneOptions(rain="hard")  # type: ignore[arg-type]
    with pytest.raises(SceneError, match=r"SceneOptions\.height = True"):
        SceneOptions(height=True)


@given(st.integers(0, 2**32))
def test_day_changes_dusk_alone_and_nothing_but_light_changes(seed: int) -> None:
    style = style_of(seed)
    assert relit(style, "as-seeded", 0.0) is style
    day = relit(style, "day", 0.0)
    assert not day.light.dusk
    assert day.light.plain
    assert (day == style) != style.light.dusk
    night = relit(style, "night", 0.7)
    assert (night.layout, night.urban, night.speed_mps) == (style.layout, style.urban, style.speed_mps)


def test_dusk_keeps_the_sky_of_a_street_at_dusk_and_lights_its_lamps() -> None:
    dusky = next(s for s in range(200) if style_of(s).light.dusk)
    seeded, asked = style_of(dusky).light, relit(style_of(dusky), "dusk", 0.0).light
    assert (asked.zenith, asked.horizon) == (seeded.zenith, seeded.horizon)
    assert asked.lamps > seeded.lamps == 0
