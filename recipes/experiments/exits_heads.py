"""Heads of early exits: trained side by side on the frozen backbone of the CamVid example, and measured on frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import exit_stages
import numpy as np
import torch
from exits import EXAMPLES
from files import load_weights, save_weights
from measure import resize
from numpy.typing import NDArray
from street_data import Data, Recipe, normalise
from torch import Tensor, nn
from trainer import Schedule, TrainOptions

from cascadert.export.confidence import Confidence
from cascadert.export.models.multi_exit import MultiExit
from cascadert.spec import load_spec

SPEC = EXAMPLES / "camvid" / "multi-exit.toml"
EDGES = Confidence(0.9, "median", 2)
"""Equations 7 to 9 as the example has them."""


@dataclass(frozen=True)
class Trained:
    """The example's network with its weights, frozen, and how it sees frames."""

    network: MultiExit
    recipe: Recipe
    names: tuple[str, ...]

    @property
    def early(self) -> int:
        """Number of exits before the final one."""
        return len(self.network.exits) - 1

    def channels(self, index: int) -> int:
        """Channels of the features that an exit reads, counted from 0."""
        return next(m.in_channels for m in self.network.exits[index].modules() if isinstance(m, nn.Conv2d))


def shipped() -> Trained:
    """The network of the CamVid example."""
    spec = load_spec(SPEC)
    network = exit_stages.build(spec, SPEC.parent)
    load_weights(network, SPEC.parent / str(spec.networks[0].weights))
    return Trained(network.eval().requires_grad_(False), exit_stages.recipe_of(spec), spec.classes.names)


def train_or_find(
    heads: nn.ModuleList,
    path: Path,
    trained: Trained,
    loss: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    data: Data,
    schedule: Schedule,
    seed: int,
) -> None:
    """Train heads in place (see `exit_stages.train_heads`) and keep them in ``path``, or load what lies there."""
    if not path.exists():
        options = TrainOptions(schedule, seed, checkpoint=path.with_suffix(".checkpoint"), name=path.stem)
        exit_stages.train_heads(trained.network, heads, loss, exit_stages.batches(data, trained.recipe), options)
        save_weights(heads, path)
    load_weights(heads, path)
    heads.eval()


@dataclass(frozen=True)
class HeadRecords:
    """What H heads and, last, the final exit make of I frames.

    Attributes:
        confusion: pixels of (truth, prediction), int64 ``[H + 1, I, K, K]``.
        confidence: by equations 7 to 9, float32 ``[H + 1, I]``.
        right: share of the pixels that the final exit gets wrong and a head right, ``[H]``.
        same: share of these pixels that a head gives the final exit's label, ``[H]``.
    """

    confusion: NDArray[np.int64]
    confidence: NDArray[np.float32]
    right: tuple[float, ...]
    same: tuple[float, ...]

    def miou(self) -> NDArray[np.float64]:
        """Over all pixels and the classes that occur: ``[H + 1]``."""
        return mean_iou(self.confusion.sum(1))


def mean_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU of confusion ``[..., K, K]`` over the classes that occur in the truth or were predicted."""
    hits = np.einsum("...kk->...k", counts).astype(float)
    union = counts.sum(-1) + counts.sum(-2) - hits
    return np.asarray(np.where(union > 0, hits / np.maximum(union, 1), 0).sum(-1) / (union > 0).sum(-1))


@torch.inference_mode()
def record(trained: Trained, heads: Sequence[nn.Module], data: Data) -> HeadRecords:
    """Run the backbone once on each frame, and all heads; head i reads segment i modulo the number of early exits."""
    network, classes, early = trained.network, len(trained.names), trained.early
    confusion = np.zeros((len(heads) + 1, len(data.images), classes, classes), np.int64)
    confidence = np.zeros(confusion.shape[:2], np.float32)
    right, same, wrong = np.zeros(len(heads)), np.zeros(len(heads)), 0
    for index, (frame, truth) in enumerate(zip(data.images, data.labels, strict=True)):
        size = (frame.shape[0], frame.shape[1])
        x = resize(
            normalise(frame[None]), (round(size[0] * trained.recipe.scale), round(size[1] * trained.recipe.scale))
        )
        features = []
        for segment in network.segments:
            x = segment(x)
            features.append(x)
        logits = [*(head(features[i % early]) for i, head in enumerate(heads)), network.exits[-1](x)]
        found = [resize(one, size).argmax(1)[0] for one in logits]
        known = truth < classes
        pairs = truth[known].long() * classes
        missed = known & (found[-1] != truth)
        wrong += int(missed.sum())
        for i, (one, labels) in enumerate(zip(logits, found, strict=True)):
            counts = torch.bincount(pairs + labels[known], minlength=classes * classes)
            confusion[i, index] = counts.view(classes, classes).numpy()
            confidence[i, index] = float(EDGES(one.float()))
            if i < len(heads):
                right[i] += int((missed & (labels == truth)).sum())
                same[i] += int((missed & (labels == found[-1])).sum())
    return HeadRecords(confusion, confidence, tuple(right / wrong), tuple(same / wrong))
