"""Quality and cost of a cascade over theta, from maps that were predicted once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.cascade_clips import AccurateStage, Clip, FastStage
from experiments.cascade_counts import BlockCounts, Chosen, confusion_of, count_blocks, mean_blocks
from experiments.cascade_maps import accurate_maps, fast_maps, maps_folder
from experiments.cascade_stages import grid_of
from experiments.cascade_times import stage_times
from experiments.experiment import Context

BATCH = 4
"""Blocks in one batch while time is measured."""


@dataclass(frozen=True)
class Point:
    """A cascade at one theta: mIoU in per cent, blocks, multiply-adds and CPU time of a frame on average."""

    theta: float
    miou: float
    blocks: float
    gmacs: float
    ms: float


@dataclass(frozen=True)
class Cascade:
    """A cascade with all that its quality and cost follow from.

    Attributes:
        name: says what it is made of.
        counts: of its two networks, block by block.
        fast_gmacs: of the fast network on a frame.
        block_gmacs: of the accurate network on a block.
        fast_ms: CPU time of the fast stage.
        block_ms: CPU time of the accurate stage, for each block of a batch.
    """

    name: str
    counts: BlockCounts
    fast_gmacs: float
    block_gmacs: float
    fast_ms: float
    block_ms: float

    @property
    def blocks(self) -> int:
        """Blocks of a frame, G."""
        return int(self.counts.scores.shape[1])

    def point(self, theta: float) -> Point:
        """Return what one theta gives; time is t_f + n t_b (paper 000, Table 1)."""
        return self.chosen(theta, self.counts.above(theta))

    def chosen(self, theta: float, chosen: Chosen) -> Point:
        """Return what refining these blocks gives."""
        n = mean_blocks(chosen)
        gmacs = self.fast_gmacs + n * self.block_gmacs
        return Point(theta, self.counts.miou(chosen), n, gmacs, self.fast_ms + n * self.block_ms)

    def curve(self, thetas: Iterable[float]) -> list[Point]:
        """Return what each theta gives."""
        return [self.point(theta) for theta in thetas]

    def only(self, start: int, every: int) -> Cascade:
        """Return the same on some of the frames."""
        return replace(self, counts=self.counts.only(start, every))

    def fast_alone(self) -> Point:
        """Return the fast network alone."""
        return self.point(float("inf"))

    def accurate_alone(self) -> Reference:
        """Return the accurate network on all blocks, without the fast one."""
        gmacs, ms = self.blocks * self.block_gmacs, self.blocks * self.block_ms
        return Reference("all blocks", self.counts.accurate.sum(1), gmacs, ms)


@dataclass(frozen=True)
class Reference:
    """An accurate network on its own: confusion matrices of each frame `[F, K, K]`, and its cost on a frame."""

    name: str
    counts: NDArray[np.int64]
    gmacs: float
    ms: float

    def miou(self, start: int = 0, every: int = 1) -> float:
        """Return the mIoU in per cent, of some of the frames."""
        return 100 * confusion_of(self.counts[start::every]).mean_iou()


Cascades = dict[tuple[str, str], Cascade]
"""By the names of the fast and of the accurate stage."""


def measured(
    context: Context, clip: Clip, fast: Mapping[str, FastStage], accurate: Mapping[str, AccurateStage]
) -> tuple[Cascades, Reference]:
    """Return a cascade for every pair of stages, and the accurate network on the whole frame.

    All times are measured in turn.
    """
    folder, classes = maps_folder(context), len(clip.names)
    whole = AccurateStage(clip.size, enlarge=clip.accurate.enlarge)
    batches = {name: (stage, min(BATCH, grid_of(clip, stage).size)) for name, stage in accurate.items()}
    times = stage_times(folder, clip, fast, {**batches, "whole frame": (whole, 1)})
    fast_made = {name: fast_maps(folder, clip, stage) for name, stage in fast.items()}
    accurate_made = {name: accurate_maps(folder, clip, stage) for name, stage in accurate.items()}
    found: Cascades = {}
    for first, quick in fast_made.items():
        for second, slow in accurate_made.items():
            grid = grid_of(clip, accurate[second])
            counts = count_blocks(quick.labels, slow.labels, clip.truths, grid, quick.scores(grid), classes)
            block_ms = times[second] / batches[second][1]
            found[first, second] = Cascade(
                f"{first} + {second}", counts, quick.macs / 1e9, slow.macs / 1e9, times[first], block_ms
            )
    made = accurate_maps(folder, clip, whole)
    grid, scores = grid_of(clip, whole), np.zeros((len(clip.frames), 1), np.float32)
    once = count_blocks(made.labels, made.labels, clip.truths, grid, scores, classes).accurate.sum(1)
    return found, Reference("the whole frame in one go", once, made.macs / 1e9, times["whole frame"])


def rounded(point: Point) -> dict[str, Any]:
    """Return a point for the JSON file."""
    return {name: round(value, 4) for name, value in asdict(point).items()}
