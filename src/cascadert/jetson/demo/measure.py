"""Quality against cost: the same frames through a cascade under several decisions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Result
from cascadert.scenes import Scene
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy

FAST, EVERY_BLOCK = "fast network alone", "every block refined"


@dataclass(frozen=True)
class Setting:
    """A decision to measure; `theta` is absent where it is not a threshold."""

    name: str
    policy: SelectPolicy
    theta: float | None = None


@dataclass(frozen=True)
class Quality:
    """What one decision gave on the frames: all numbers measured.

    `mean_iou` and `iou` (per class, NaN where a class never occurs) are against the exact labels; `mean_n` counts
    blocks refined per frame; `median_ms` is the time per frame, host to host.
    """

    name: str
    theta: float | None
    mean_iou: float
    iou: tuple[float, ...]
    mean_n: float
    median_ms: float


@dataclass(frozen=True)
class Sweep:
    """All decisions on the same frames.

    `classes` are those that occur in the exact labels; `scores` are those of all blocks, one row a frame, in bits.
    """

    rows: tuple[Quality, ...]
    frames: int
    blocks: int
    classes: tuple[int, ...]
    scores: NDArray[np.float32]

    def row(self, name: str) -> Quality:
        """Return the row of that name."""
        return next(row for row in self.rows if row.name == name)


def make_settings(thetas: Sequence[float], blocks: int) -> tuple[Setting, ...]:
    """Return the fast network alone, every theta from high to low, and every block refined."""
    middle = [Setting(f"cascade, θ = {t:g}", ThresholdPolicy(theta=t), t) for t in sorted(thetas, reverse=True)]
    none, every = TopKPolicy(policy="top-k", k=0), TopKPolicy(policy="top-k", k=blocks)
    return Setting(FAST, none), *middle, Setting(EVERY_BLOCK, every)


def infer(pipeline: Pipeline, image: NDArray[np.uint8], policy: SelectPolicy) -> Result:
    """Run one picture, RGB uint8 `[H, W, 3]`, with the same decision before every stage that makes one."""
    manifest = pipeline.manifest
    policies = {stage.name: policy for stage in manifest.stages if stage.select is not None}
    return pipeline.infer(planes_from_rgb(image[np.newaxis], manifest.spec.frame.pixel_format), policies)


def measure(
    pipeline: Pipeline, scenes: Sequence[Scene], settings: Sequence[Setting], progress: Callable[[int, int], None]
) -> Sweep:
    """Run every scene under every decision in turn, so that a machine that slows down slows all of them alike."""
    spec = pipeline.manifest.spec
    blocks = spec.make_grid().size
    matrices = [ConfusionMatrix(spec.num_classes) for _ in settings]
    counts: list[list[int]] = [[] for _ in settings]
    times: list[list[float]] = [[] for _ in settings]
    scores: list[NDArray[np.float32]] = []
    for setting in settings:  # the first run of each size allocates memory
        infer(pipeline, scenes[0].image, setting.policy)
    for done, scene in enumerate(scenes, start=1):
        for i, setting in enumerate(settings):
            started = time.perf_counter()
            result = infer(pipeline, scene.image, setting.policy)
            times[i].append((time.perf_counter() - started) * 1e3)
            matrices[i].add(result.labels[0], scene.labels)
            counts[i].append(refined(result))
        scores.append(first_scores(result))
        progress(done, len(scenes))
    rows = tuple(
        Quality(
            name=setting.name,
            theta=setting.theta,
            mean_iou=matrices[i].mean_iou(),
            iou=tuple(matrices[i].iou().tolist()),
            mean_n=statistics.mean(counts[i]),
            median_ms=statistics.median(times[i]),
        )
        for i, setting in enumerate(settings)
    )
    occur = np.flatnonzero(matrices[0].counts.sum(axis=1))
    return Sweep(rows, len(scenes), blocks, tuple(occur.tolist()), np.stack(scores))


def refined(result: Result) -> int:
    """Count the blocks that all decisions together refined."""
    return sum(run.n or 0 for run in result.runs if run.outcome == "ran" and run.scores is not None)


def first_scores(result: Result) -> NDArray[np.float32]:
    """Return the scores of the first decision, sorted descending."""
    return next(run.scores for run in result.runs if run.scores is not None)
