"""What a caller may ask of a scene, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cascadert.errors import SceneError

MIN_SIDE_PX = 32
MAX_SIDE_PX = 4096
MAX_CLUTTER = 4.0

LightName = Literal["as-seeded", "day", "dusk", "night"]
LIGHTS: tuple[LightName, ...] = get_args(LightName)


@dataclass(frozen=True)
class SceneOptions:
    """How a street is pictured.

    Attributes:
        height: Rows, 32 to 4096.
        width: Columns, 32 to 4096.
        clutter: How many small objects (people, riders, bicycles, signs, lights, posts) stand about: 0 none, 1 a usual
            street, 4 crowded. Roads, buildings, trees and large vehicles do not depend on it.
        light: Time of day. "as-seeded": the seed's own (day, or dusk on one street in twelve); "day": the same, but day
            on those too; "dusk" and "night": lamps, windows and headlights shine. Labels do not depend on it.
        rain: How hard it rains, 0 (dry) to 1. Labels do not depend on it.
        instances: Whether to tell objects apart in `Scene.instances`; takes a little time.

    Raises:
        SceneError: A value is outside its range.
    """

    height: int = 384
    width: int = 768
    clutter: float = 1.0
    light: LightName = "as-seeded"
    rain: float = 0.0
    instances: bool = False

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if not isinstance(value, int) or isinstance(value, bool) or not MIN_SIDE_PX <= value <= MAX_SIDE_PX:
                raise SceneError(
                    f"SceneOptions.{name} = {value!r}",
                    "not a whole number of pixels in range",
                    f"give an integer from {MIN_SIDE_PX} to {MAX_SIDE_PX}",
                )
        if not 0.0 <= self.clutter <= MAX_CLUTTER:
            raise SceneError(
                f"SceneOptions.clutter = {self.clutter!r}",
                "outside the range",
                f"give a number from 0 (no small objects) to {MAX_CLUTTER:g} (crowded)",
            )
        if self.light not in LIGHTS:
            raise SceneError(
                f"SceneOptions.light = {self.light!r}", "no such light", f"give one of {', '.join(LIGHTS)}"
            )
        if not isinstance(self.rain, (int, float)) or not 0.0 <= self.rain <= 1.0:
            raise SceneError(
                f"SceneOptions.rain = {self.rain!r}",
                "outside the range",
                "give a number from 0 (dry) to 1 (a downpour)",
            )


@dataclass(frozen=True)
class Scene:
    """One frame.

    Attributes:
        image: uint8 `[H, W, 3]`, RGB.
        labels: uint8 `[H, W]`, class ids 0 to 18 as in `cascadert.classes`.
        instances: int32 `[H, W]`, 0 where the label is none of the eight classes of things (person to bicycle); else a
            number that the object keeps in every frame of its street and shares with no other. None unless
            `SceneOptions.instances`.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32] | None = None
