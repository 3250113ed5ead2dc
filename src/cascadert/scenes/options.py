"""What a caller may ask of a scene, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascadert.errors import SceneError

MIN_SIDE_PX = 32
MAX_SIDE_PX = 4096
MAX_CLUTTER = 4.0


@dataclass(frozen=True)
class SceneOptions:
    """How a street is pictured.

    Attributes:
        height: Rows, 32 to 4096.
        width: Columns, 32 to 4096.
        clutter: How many small objects (people, riders, bicycles, signs, lights, posts) stand about: 0 none, 1 a usual
            street, 4 crowded. Roads, buildings, trees and large vehicles do not depend on it.

    Raises:
        SceneError: A value is outside its range.
    """

    height: int = 384
    width: int = 768
    clutter: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if not isinstance(value, int) or not MIN_SIDE_PX <= value <= MAX_SIDE_PX:
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


@dataclass(frozen=True)
class Scene:
    """One frame.

    Attributes:
        image: uint8 `[H, W, 3]`, RGB.
        labels: uint8 `[H, W]`, class ids 0 to 18 as in `cascadert.classes`.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
