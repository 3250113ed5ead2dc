"""The exit policy of paper 004 on exported graphs: confidences, rank correlations, and mIoU against mean cost."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import resize
from numpy.typing import NDArray
from street_data import Data, normalise

from cascadert.calibration.exit_measurement import ExitMeasurement, measure_exits
from cascadert.calibration.exit_report import NEVER
from cascadert.calibration.exits import PlannedExit
from cascadert.cli.frames import LabelledFrames
from cascadert.export.compile import ExportOptions, export_spec
from cascadert.export.confidence import Confidence
from cascadert.spec import CascadeSpec, load_spec
from cascadert.stage_spec import ScoreSpec, Smoothing
from experiments.exits_heads import SPEC, Trained, mean_iou

Floats = NDArray[np.float64]

MEAN, PLAIN, EDGES = "mean", "eq. 7", "eq. 7 + 9"
BLOCK = 10
"""Consecutive frames that are drawn together: neighbours in a film are alike."""


def with_smoothing(spec: CascadeSpec, smoothing: Smoothing) -> CascadeSpec:
    """The specification with equation 7 alone ("none"), or with equation 9."""
    scored = {stage.name: stage.score for stage in spec.stages if stage.score is not None}
    score = ScoreSpec(measure="confidence", pixel=0.9, smoothing=smoothing)
    return spec.with_stages(
        tuple(stage.model_copy(update={"score": score} if stage.name in scored else {}) for stage in spec.stages)
    )


def measure(camvid: Path, smoothing: Smoothing) -> ExitMeasurement:
    """Export the CamVid example, run every exit on val in ONNX Runtime; a stage "takes" its MMACs, not its time."""
    spec = with_smoothing(load_spec(SPEC), smoothing)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_spec(spec, SPEC.parent, Path(folder) / "exits", ExportOptions())
        cost = {stage.name: stage.network.macs / 1e6 for stage in bundle.manifest.stages}
        with LabelledFrames(spec, [camvid / "images/val"], [camvid / "labels/val"], None) as source:
            frames = ((sample.planes, sample.truth) for sample in source.samples(None))
            return measure_exits(bundle, frames, threads=1, stage_ms=cost)


@torch.inference_mode()
def mean_confidence(trained: Trained, data: Data) -> NDArray[np.float32]:
    """The paper's baseline, mean(c_map), of every exit in each frame ``[E, I]``; no specification can ask for it."""
    judge, found = Confidence(None, "none", 1), []
    for frame in data.images:
        size = (round(frame.shape[0] * trained.recipe.scale), round(frame.shape[1] * trained.recipe.scale))
        found.append([float(judge(logits)) for logits in trained.network(resize(normalise(frame[None]), size))])
    return np.ascontiguousarray(np.array(found, np.float32).T)


@dataclass(frozen=True)
class Sweep:
    """All exits with one threshold in common: where each image leaves.

    Attributes:
        thresholds: ``[T]``, 0 (all leave at once) first, then more than any confidence last.
        leaves: exit of each image, ``[T, I]``.
        counts: confusion of each image where it leaves, ``[T, I, K, K]``.
        macs: what each image cost, ``[T, I]``.
    """

    thresholds: Floats
    leaves: NDArray[np.int64]
    counts: NDArray[np.int64]
    macs: Floats

    def rates(self, exits: int) -> Floats:
        """Share of the images that leaves at each exit: ``[T, E]``."""
        return np.stack([(self.leaves == index).mean(1) for index in range(exits)], axis=1)

    def curve(self, weights: Floats) -> tuple[Floats, Floats]:
        """Mean multiply-adds and mIoU ``[T]``, where image i counts ``weights[i]`` times."""
        counts = np.einsum("i,tikl->tkl", weights, self.counts)
        return self.macs @ weights / weights.sum(), mean_iou(counts)


def sweep(found: ExitMeasurement, confidence: NDArray[np.float32], steps: int = 60) -> Sweep:
    """Leave at the first exit that is as confident as a threshold, or at the last."""
    early = confidence[:-1]
    middle = np.unique(np.quantile(early.astype(np.float64), np.linspace(0, 1, steps)))
    thresholds = np.concatenate([[0.0], middle, [NEVER]])
    sure = np.ones((len(thresholds), len(confidence), found.images), bool)
    for place, threshold in enumerate(thresholds):
        sure[place, :-1] = PlannedExit(found.candidates[0], float(threshold)).takes(early)
    leaves = sure.argmax(1)
    names = [one.name for one in found.exits]
    cost = np.array([found.macs_of(names[: index + 1]) for index in range(len(names))], float)
    return Sweep(thresholds, leaves, found.confusion[leaves, np.arange(found.images)], cost[leaves])


def mean_gain(one: Sweep, other: Sweep, weights: Floats) -> float:
    """Mean difference of mIoU, one - other, over the costs that both reach."""
    (cost, miou), (other_cost, other_miou) = one.curve(weights), other.curve(weights)
    shared = np.linspace(max(cost[0], other_cost[0]), min(cost[-1], other_cost[-1]), 100)
    return float((np.interp(shared, cost, miou) - np.interp(shared, other_cost, other_miou)).mean())


def ranks(values: Floats) -> Floats:
    """From 0; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[place]


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def image_draws(images: int, draws: int = 500, seed: int = 0) -> NDArray[np.int64]:
    """Bootstrap samples of image indices, in runs of `BLOCK` neighbours: ``[draws, I]``."""
    runs = -(-images // BLOCK)
    starts = np.random.default_rng(seed).integers(0, images, (draws, runs, 1))
    return ((starts + np.arange(BLOCK)) % images).reshape(draws, -1)[:, :images]
