"""Trainings of the two-stage system that X6 and X7 share, kept in one folder, and what they give on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from files import load_weights, save_weights
from street_data import Data, load_camvid
from trainer import Schedule, TrainOptions
from two_stage import Form, Second, prepare, train_first, train_second
from two_stage_measure import curve, predict, probabilities, quality

from cascadert.classes import CAMVID
from cascadert.export.models.two_stage import TwoStageNetwork
from experiments.experiment import Context

SEEDS = (0, 1, 2)
RATIO = 4
STEPS = 500
CAR = CAMVID.names.index("car")
USUAL = 0.25
"""The threshold of the paper's table 3."""
THRESHOLDS = (1.0, 0.75, 0.5, 0.4, 0.3, USUAL, 0.2, 0.15, 0.1, 0.05, 0.0)
FULL = Second()

Curve = list[dict[str, float]]

DEVIATIONS = (
    "Data: car against the rest of CamVid at 256x320 pixels (from 360x480); BDD, KITTI, BOWL and PH2 at 768x768 in the "
    "paper. Every second validation frame counts: at 15 Hz neighbours are all but equal. In half of them "
    "cars are less than 0.7 % of the pixels, so that Dice, the mean over frames, is low.",
    "Network: the paper's U-Net on ResNet-18 at a quarter of its width, from random weights; its ablations use DeepLab "
    "on ResNet-50, pre-trained on ImageNet.",
    f"Training: {STEPS} steps of 8 images ({STEPS * 8 / 367:.0f} epochs; 20 in the paper), AdamW 3e-3 with a cosine in "
    "bf16 (Adam 1e-4). Focal loss, flip, shift of 10 % and light of 10 % are as in the paper and its code.",
    "The uncertainty is that of the paper's code, 1 - 2 |0.5 - p|, which its thresholds fit; the text has -p log2 p.",
)


@dataclass(frozen=True)
class Runs:
    """Trains what is not there yet.

    Attributes:
        root: CamVid.
        folder: of weights.
        device: trains there; all is measured on the CPU.
    """

    root: Path
    folder: Path
    device: str

    @classmethod
    def of(cls, context: Context) -> Runs:
        """Runs of an experiment, in a folder that is not its own alone."""
        return cls(context.camvid, context.work.parent / "two_stage", context.options.device)

    @cached_property
    def data(self) -> Data:
        """Frames to train on."""
        return prepare(load_camvid(self.root, "train"), CAR, Form().size)

    @cached_property
    def val(self) -> Data:
        """Frames to measure on."""
        frames = load_camvid(self.root, "val")
        return prepare(Data(frames.images[::2], frames.labels[::2]), CAR, Form().size)

    def first(self, seed: int, ratio: int = RATIO) -> TwoStageNetwork:
        """The trained network of the shrunk image; of ratio 1, the single network at full resolution."""
        name, form = f"first-r{ratio}-{seed}", Form(ratio=ratio)
        torch.manual_seed(seed)
        network = form.first()
        if not self._path(name).exists():
            train_first(network, form, self.data, self._options(name, seed))
            save_weights(network, self._path(name))
        load_weights(network.cpu(), self._path(name))
        return network

    def curve(self, seed: int, how: Second = FULL, ratio: int = RATIO) -> Curve:
        """Quality at all `THRESHOLDS` with a second network that was trained in some way."""
        first, form = self.first(seed, ratio), Form(ratio=ratio)
        torch.manual_seed(1000 + seed)
        second = form.second(how.context)
        words = (how.sampling, "context" * how.context, "tuned" * how.fine_tune, str(seed))
        name = "-".join((f"second-r{ratio}", *filter(None, words)))
        if not self._path(name).exists():
            train_second(second, first, form, self.data, how, self._options(name, seed))
            save_weights(second, self._path(name))
        load_weights(second.cpu(), self._path(name))
        return curve(predict(first, second, self.val.images, ratio), self.val, THRESHOLDS)

    def single(self, seed: int) -> dict[str, float]:
        """Quality of the single network at full resolution, trained for as many steps."""
        return quality(probabilities(self.first(seed, ratio=1), self.val.images), self.val.labels)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _options(self, name: str, seed: int) -> TrainOptions:
        checkpoint = self.folder / f"{name}.checkpoint"
        return TrainOptions(Schedule(STEPS), seed, self.device, checkpoint=checkpoint, name=name)


def at(found: Curve, threshold: float, key: str = "dice") -> float:
    """One value of a curve."""
    return next(row[key] for row in found if row["threshold"] == threshold)


def points(values: Sequence[float]) -> list[float]:
    """Shares as points of a hundred."""
    return [round(100 * value, 2) for value in values]
