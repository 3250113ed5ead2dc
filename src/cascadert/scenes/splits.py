"""Splits of the generated streets: which frame is number i of train, of validation, and of the shifted set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from cascadert.errors import SceneError
from cascadert.scenes.frame import render
from cascadert.scenes.options import LightName, Scene, SceneOptions
from cascadert.scenes.rng import keyed

Split = Literal["train", "val", "shift"]
SPLITS: tuple[Split, ...] = get_args(Split)

FRAMES_PER_SPLIT = 100_000

# Far from 0, so that demos and tests, which use small seeds, show streets that no network was trained on.
_FIRST_SEEDS: dict[Split, int] = {"train": 100_000, "val": 200_000, "shift": 300_000}
_USUAL = SceneOptions()
# What the shifted set is made of: night, rain by day, and both; a third each.
_SHIFTS: tuple[tuple[LightName, bool], ...] = (("night", False), ("day", True), ("night", True))


@dataclass(frozen=True)
class FrameOfSplit:
    """What `render` takes.

    Attributes:
        seed: Which street; each frame of a split is of a street of its own.
        index: Which frame of the street.
        options: Size, light, rain.
    """

    seed: int
    index: int
    options: SceneOptions

    def render(self) -> Scene:
        """Return the frame."""
        return render(self.seed, self.index, self.options)


def frame_of_split(split: Split, number: int, options: SceneOptions = _USUAL) -> FrameOfSplit:
    """Return frame `number` of `split`; it depends on nothing else.

    Args:
        split: "train" and "val" are lit as their seeds have it, and dry. "shift" is what a network that was trained on
            "train" has not seen: night, rain by day (0.4 to 1), or both, on streets of its own.
        number: 0 to 99,999.
        options: Size, clutter and instances. Light and rain are the split's.

    Raises:
        SceneError: An unknown split, or a number outside the range.
    """
    if split not in SPLITS:
        raise SceneError(f"scene split {split!r}", "no such split", f"give one of {', '.join(SPLITS)}")
    if not 0 <= number < FRAMES_PER_SPLIT:
        raise SceneError(
            f"frame {number} of scene split {split}", "outside the split", f"give 0 to {FRAMES_PER_SPLIT - 1}"
        )
    seed = _FIRST_SEEDS[split] + number
    light, rain = _shift_of(seed, number) if split == "shift" else ("as-seeded", 0.0)
    return FrameOfSplit(seed, seed * 37 % 450, replace(options, light=light, rain=rain))


def _shift_of(seed: int, number: int) -> tuple[LightName, float]:
    light, wet = _SHIFTS[number % len(_SHIFTS)]
    return light, round(keyed(seed, "shift").uniform(0.4, 1.0), 3) if wet else 0.0
