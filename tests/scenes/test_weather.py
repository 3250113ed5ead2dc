import numpy as np
import pytest
from numpy.typing import NDArray

from cascadert.classes import BUILDING, ROAD, SKY
from cascadert.scenes import LightName, Scene, SceneOptions, render
from cascadert.scenes.camera import Camera
from cascadert.scenes.display import LIT
from cascadert.scenes.glow import box, halos, shining
from cascadert.scenes.night import StreetLight
from cascadert.scenes.relight import relit
from cascadert.scenes.style import style_of
from cascadert.scenes.wet import mirror

STREETS = (3, 8, 14, 27)
CAMERA = Camera(
    width=90, height=90, focal_px=90.0, centre_px=45.0, horizon_px=30.0, x_m=0.0, y_m=1.5, z_m=10.0, bend=0.0
)


@pytest.fixture(scope="module")
def looks() -> dict[tuple[str, float], list[Scene]]:
    wanted: tuple[tuple[LightName, float], ...] = (
        ("day", 0.0),
        ("dusk", 0.0),
        ("night", 0.0),
        ("day", 1.0),
        ("night", 1.0),
    )
    return {
        (light, rain): [render(s, 60, SceneOptions(160, 320, light=light, rain=rain)) for s in STREETS]
        for light, rain in wanted
    }


def brightness(scenes: list[Scene], *labels: int) -> float:
    return float(np.mean([s.image[np.isin(s.labels, labels) if labels else ...].mean() for s in scenes]))


def noise(scene: Scene) -> float:
    """Deviation from pixel to pixel in the sky, which is smooth."""
    step = np.diff(scene.image[:, :, 1].astype(int), axis=1)
    return float(np.median(np.abs(step[(scene.labels[:, 1:] == SKY) & (scene.labels[:, :-1] == SKY)])))


def test_it_gets_darker_from_day_to_night(looks: dict[tuple[str, float], list[Scene]]) -> None:
    day, dusk, night = (looks[light, 0.0] for light in ("day", "dusk", "night"))
    assert brightness(day) > brightness(dusk) + 20
    assert brightness(dusk) > brightness(night) + 10
    assert brightness(night, SKY) < 45
    assert 25 < brightness(night, ROAD) < 130, "our headlights keep the road legible"
    # Lamps, windows and headlights are as bright as by day.
    assert np.mean([(s.image.max(axis=2) > 220).mean() for s in night]) > 0.002


def test_the_sensor_starves_at_night(looks: dict[tuple[str, float], list[Scene]]) -> None:
    def colourful(scenes: list[Scene]) -> float:
        spread = [np.ptp(s.image.astype(int), axis=2).mean() for s in scenes]
        return float(np.mean(spread))

    day, night = looks["day", 0.0], looks["night", 0.0]
    assert np.mean([noise(s) for s in night]) > 1.4 * np.mean([noise(s) for s in day])
    assert colourful(night) < colourful(day)


def test_rain_takes_contrast_and_darkens_the_road(looks: dict[tuple[str, float], list[Scene]]) -> None:
    dry, wet = looks["day", 0.0], looks["day", 1.0]
    assert np.mean([s.image.std() for s in wet]) < np.mean([s.image.std() for s in dry])
    assert brightness(wet, ROAD) < brightness(dry, ROAD)


def test_a_bright_column_is_mirrored_below_its_foot_on_the_road_alone() -> None:
    """A light of 6 rows that stands on row 50 is seen on rows 50 to 56; the rain's ripples smear it up and down."""
    codes = np.full((90, 90), ROAD, dtype=np.uint8)
    codes[:51] = SKY
    planes = np.full((3, 90, 90), 20.0, dtype=np.float32)
    planes[:, 39:51, 42:48] = 250
    depth = np.linspace(90, 3, 90, dtype=np.float32)
    before = planes.copy()
    mirror(planes, codes, depth, CAMERA, 1.0)
    assert np.array_equal(planes[:, :51], before[:, :51])
    below = planes[0, 52:, :]
    assert below[:9, 43:47].mean() > 60
    assert below[:9, 60:].mean() < 25
    assert below[25:, 43:47].mean() < below[:9, 43:47].mean() / 2


def test_only_what_is_lit_has_a_halo_and_it_fades_outwards() -> None:
    codes = np.full((96, 96), ROAD, dtype=np.uint8)
    planes = np.full((3, 96, 96), 250.0, dtype=np.float32)
    assert halos(planes, codes, 0.0).max() == 0
    codes[40:48, 40:48] = 13 | LIT
    glow = halos(planes, codes, 0.0)[44, :, 0].astype(int)
    assert glow[44] > glow[54] > glow[64] > 0


def test_the_light_of_cells_adds_up_to_that_of_pixels() -> None:
    codes = np.zeros((10, 13), dtype=np.uint8)
    codes[7, 12] = codes[0, 0] = 13 | LIT
    planes = np.full((3, 10, 13), 100.0, dtype=np.float32)
    cells = shining(planes, codes, 4)
    assert cells.shape == (3, 3, 4)
    assert np.count_nonzero(cells[0]) == 2
    assert cells[0, 0, 0] == cells[0, 1, 3] > 0


@pytest.mark.parametrize("radius", [1, 3, 40])
@pytest.mark.parametrize("axis", [1, 2])
def test_the_box_filter_is_the_mean_of_neighbours(radius: int, axis: int) -> None:
    planes = np.random.default_rng(0).random((3, 9, 11), dtype=np.float32)
    reach = min(radius, planes.shape[axis] - 1)

    def mean(line: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.convolve(np.pad(line, reach, mode="edge"), np.ones(2 * reach + 1) / (2 * reach + 1), mode="valid")

    assert np.allclose(box(planes, radius, axis), np.apply_along_axis(mean, axis, planes), atol=1e-5)


def test_headlights_shine_ahead_and_low_and_signs_throw_them_back() -> None:
    style = relit(style_of(3), "night", 0.0)
    light = StreetLight(style, CAMERA)
    low, high, aside, far = light.gain(
        np.array([(0, 0.5, 22.0), (0, 6.0, 22.0), (15, 0.5, 22.0), (0, 0.5, 160.0)]), np.full(4, 13, np.uint8)
    )[:, 0]
    assert low > max(high, aside, far)
    place = np.array([(3.0, 2.5, 40.0)])
    assert light.gain(place, np.array([7], np.uint8))[0, 0] > light.gain(place, np.array([13], np.uint8))[0, 0] + 0.1
    assert light.gain(place, np.array([13 | LIT], np.uint8)).tolist() == [[1, 1, 1]]


def test_brightness_does_not_flicker_from_frame_to_frame() -> None:
    """The dark parts of consecutive frames by night differ by less than a tenth, as lamps come and go."""
    options = SceneOptions(96, 192, clutter=0.0, light="night")
    for seed in (8, 33):
        means = []
        for index in range(40, 46):
            scene = render(seed, index, options)
            means.append(scene.image[scene.labels == BUILDING].mean())
        assert np.abs(np.diff(means)).max() < 0.1 * np.mean(means)
