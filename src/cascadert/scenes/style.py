"""What is fixed for a whole street: light, weather, palette and cross-section."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from cascadert.scenes.display import Colour
from cascadert.scenes.rng import keyed, mix, vary

LOOKAHEAD_M = 190.0


@dataclass(frozen=True)
class Light:
    """Time of day and weather.

    `sun` is a unit vector towards the sun, `haze_per_m` the extinction of the air, `clouds` how much of the sky they
    cover and `cloud_white` how bright they are. `lamps` (0 to 1) is the strength of artificial light, by which colours
    are relit where it is not 0; `dark` (0 to 1) what is missing of daylight; `rain` how hard it rains (0 to 1);
    `dusk` whether the mood is that of dusk.
    """

    zenith: Colour
    horizon: Colour
    tint: Colour
    ambient: float
    direct: float
    sun: tuple[float, float, float]
    haze_per_m: float
    clouds: float
    shadow: float
    cloud_white: float = 1.0
    lamps: float = 0.0
    dark: float = 0.0
    rain: float = 0.0
    dusk: bool = False
    lamp_colour: Colour = (1.0, 0.93, 0.80)

    @property
    def lamps_on(self) -> bool:
        """Whether lamps and windows shine."""
        return self.lamps > 0 or self.tint[0] < 0.9

    @property
    def plain(self) -> bool:
        """Whether daylight is all there is: neither rain nor light of lamps on other things."""
        return self.lamps == 0 and self.rain == 0

    def on(self, x: float, y: float, z: float) -> float:
        """Brightness of a surface with normal (x, y, z)."""
        return self.ambient + self.direct * max(0.0, x * self.sun[0] + y * self.sun[1] + z * self.sun[2])


@dataclass(frozen=True)
class Layout:
    """The cross-section of the street in metres; edges are positions across the street, left negative."""

    lane_m: float
    lanes_ahead: int
    lanes_oncoming: int
    median_m: float
    tram: bool
    parking_left: bool
    parking_right: bool
    road_left: float
    road_right: float
    verge_m: float
    sidewalk_m: float
    ego_lane: int
    bend: float

    def lane_centre(self, lane: int) -> float:
        """Centre of lane `lane` (0 next to the middle) of our direction."""
        return self.median_m / 2 + (lane + 0.5) * self.lane_m

    def oncoming_centre(self, lane: int) -> float:
        """Centre of oncoming lane `lane` (0 next to the middle)."""
        return -self.lane_centre(lane)

    def road_edge(self, side: int) -> float:
        """Edge of the roadway on side -1 or 1."""
        return self.road_right if side > 0 else self.road_left

    def sidewalk_inner(self, side: int) -> float:
        """Where the sidewalk begins, seen from the road."""
        return self.road_edge(side) + side * self.verge_m

    def frontage(self, side: int) -> float:
        """Where the sidewalk ends and the lots begin."""
        return self.sidewalk_inner(side) + side * self.sidewalk_m


@dataclass(frozen=True)
class Style:
    """Everything that a seed fixes for its street."""

    seed: int
    light: Light
    layout: Layout
    asphalt: Colour
    paving: Colour
    grass: Colour
    leaves: Colour
    dry_leaves: float
    facades: tuple[Colour, ...]
    urban: float
    greenery: float
    street_trees: bool
    speed_mps: float
    traffic: float
    paint_wear: float
    exposure: float
    contrast: float


# zenith, horizon, tint, ambient, direct, haze, clouds, shadow, how often
Mood = tuple[Colour, Colour, Colour, float, float, float, float, float, float]
MOODS: tuple[Mood, ...] = (
    ((0.26, 0.47, 0.80), (0.74, 0.84, 0.94), (1.00, 0.99, 0.96), 0.56, 0.46, 0.0035, 0.45, 0.55, 4),  # clear
    ((0.62, 0.66, 0.71), (0.84, 0.86, 0.88), (0.95, 0.98, 1.01), 0.80, 0.10, 0.0060, 0.95, 0.88, 3),  # overcast
    ((0.40, 0.50, 0.72), (0.98, 0.82, 0.60), (1.08, 0.95, 0.78), 0.50, 0.55, 0.0055, 0.50, 0.50, 2),  # golden
    ((0.58, 0.68, 0.78), (0.88, 0.90, 0.90), (0.98, 0.99, 1.00), 0.68, 0.26, 0.0130, 0.60, 0.75, 2),  # misty
    ((0.20, 0.24, 0.42), (0.80, 0.58, 0.50), (0.78, 0.74, 0.86), 0.60, 0.12, 0.0060, 0.60, 0.85, 1),  # dusk
)

_FACADES: tuple[Colour, ...] = (
    (0.72, 0.66, 0.56), (0.62, 0.42, 0.34), (0.80, 0.78, 0.73), (0.55, 0.55, 0.56), (0.76, 0.60, 0.42),
    (0.47, 0.35, 0.30), (0.68, 0.70, 0.72), (0.84, 0.76, 0.58), (0.60, 0.66, 0.62), (0.74, 0.52, 0.46),
    (0.40, 0.42, 0.46), (0.88, 0.86, 0.82),
)  # fmt: skip


def light_of(rng: random.Random, moods: tuple[Mood, ...] = MOODS) -> Light:
    """Return one of `moods`, varied."""
    mood = rng.choices(moods, weights=[m[-1] for m in moods])[0]
    zenith, horizon, tint, ambient, direct, haze, clouds, shadow, _ = mood
    azimuth, elevation = rng.uniform(-math.pi, math.pi), rng.uniform(0.35, 1.0)
    sun = (
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
        math.cos(elevation) * math.cos(azimuth),
    )
    return Light(
        zenith=vary(rng, zenith, 0.12),
        horizon=vary(rng, horizon, 0.05),
        tint=vary(rng, tint, 0.05),
        ambient=ambient * rng.uniform(0.92, 1.08),
        direct=direct * rng.uniform(0.8, 1.2),
        sun=sun,
        haze_per_m=haze * rng.uniform(0.6, 1.4),
        clouds=min(1.0, clouds * rng.uniform(0.4, 1.3)),
        shadow=shadow * rng.uniform(0.9, 1.1),
        dusk=mood == MOODS[-1],
    )


def _layout(rng: random.Random) -> Layout:
    lane = rng.uniform(2.9, 3.6)
    ahead = rng.choices((1, 2, 3), weights=(5, 4, 1))[0]
    oncoming = rng.choices((0, 1, 2), weights=(1, 6, 3))[0]
    tram = rng.random() < 0.3
    median = 6.6 if tram else rng.choice((0.0, 0.0, 0.0, 1.6))
    parking_left, parking_right = rng.random() < 0.5, rng.random() < 0.45
    left = -(median / 2 + oncoming * lane + 2.2 * parking_left) if oncoming or median else -2.2 * parking_left - 0.3
    return Layout(
        lane_m=lane,
        lanes_ahead=ahead,
        lanes_oncoming=oncoming,
        median_m=median,
        tram=tram,
        parking_left=parking_left,
        parking_right=parking_right,
        road_left=left,
        road_right=median / 2 + ahead * lane + 2.2 * parking_right,
        verge_m=rng.choice((0.0, 0.0, 1.6, 2.4)),
        sidewalk_m=rng.uniform(2.4, 6.5),
        ego_lane=rng.randrange(ahead),
        bend=rng.choice((0.0, 0.0, 1.0, 1.0)) * rng.uniform(-0.0011, 0.0011),
    )


def style_of(seed: int) -> Style:
    """Return the look of street `seed`."""
    rng = keyed(seed, "style")
    light = light_of(rng)
    grey = rng.uniform(0.30, 0.47)
    return Style(
        seed=seed,
        light=light,
        layout=_layout(rng),
        asphalt=vary(rng, (grey, grey, grey * rng.uniform(0.98, 1.06)), 0.06),
        paving=vary(rng, mix((0.62, 0.60, 0.57), (0.58, 0.48, 0.43), rng.random()), 0.12),
        grass=vary(rng, mix((0.34, 0.45, 0.18), (0.50, 0.46, 0.27), rng.random() ** 2), 0.12),
        leaves=vary(rng, (0.25, 0.38, 0.15), 0.2),
        dry_leaves=rng.choice((0.0, 0.0, 0.0, rng.random())),
        facades=tuple(vary(rng, c, 0.1) for c in rng.sample(_FACADES, 5)),
        urban=rng.random(),
        greenery=rng.random(),
        street_trees=rng.random() < 0.6,
        speed_mps=rng.uniform(6.0, 13.0),
        traffic=rng.uniform(0.3, 1.0),
        paint_wear=rng.uniform(0.0, 0.5),
        exposure=rng.uniform(0.88, 1.12),
        contrast=rng.uniform(0.9, 1.15),
    )
