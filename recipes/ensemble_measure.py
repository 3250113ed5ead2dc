"""What the members of an ensemble and their mean answer, and how good and how sure it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measure import resize
from numpy.typing import NDArray
from street_data import Data, normalise
from torch import Tensor, nn

from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.pavpu import MeanUncertainty, PAvPU
from cascadert.export.models.ensemble import ensemble, entropy_of

QUANTILES = (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
_FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Answer:
    """Of one network on all frames: labels uint8 ``[M, H, W]``, and the entropy of a pixel in bits, float32."""

    labels: NDArray[np.uint8]
    uncertainty_bits: NDArray[np.float32]


def predictive_uncertainty(logits: list[Tensor]) -> Tensor:
    """Entropy in bits of the mean of the members' probabilities (paper 002, eq. 2), ``[N, h, w]``.

    Args:
        logits: of each member, ``[N, K, h, w]``.
    """
    reduced = ensemble()(*logits)
    total: Tensor = reduced["aleatoric"] + reduced["epistemic"]
    return total


@torch.no_grad()
def _probabilities(members: nn.ModuleList, images: Tensor, device: torch.device) -> Iterator[list[Tensor]]:
    members.eval()
    for frames in torch.split(images, _FRAMES_AT_ONCE):
        pixels = normalise(frames.to(device)).contiguous(memory_format=torch.channels_last)
        each = [resize(member(pixels), (images.shape[1], images.shape[2])) for member in members]
        yield [*(logits.softmax(1) for logits in each), ensemble()(*each)["logits"].exp()]


def answers(members: nn.ModuleList, images: Tensor, device: torch.device) -> list[Answer]:
    """Run all frames uint8 ``[M, H, W, 3]``: one answer for each member, and last that of their mean."""
    batches = [
        [(p.argmax(1).byte().cpu().numpy(), entropy_of(p).cpu().numpy()) for p in each]
        for each in _probabilities(members, images, device)
    ]
    networks = zip(*batches, strict=True)
    return [Answer(*(np.concatenate(parts) for parts in zip(*one, strict=True))) for one in networks]


def confusion_of(answer: Answer, truth: Tensor, classes: int) -> ConfusionMatrix:
    """Count (truth, prediction) over all frames."""
    confusion = ConfusionMatrix(classes)
    confusion.add(answer.labels, truth.numpy())
    return confusion


def pavpu(answer: Answer, truth: Tensor, threshold_bits: float, window: int = 4) -> float:
    """PAvPU of all frames (paper 002, eq. 10)."""
    patches = PAvPU(threshold_bits, window)
    patches.add(answer.labels, truth.numpy(), answer.uncertainty_bits)
    return patches.value()


def uncertainty_on(members: nn.ModuleList, images: Tensor, device: torch.device) -> list[dict[str, Any]]:
    """Mean and quantiles of a pixel's uncertainty in bits, for each member and last for their mean."""
    found = []
    for answer in answers(members, images, device):
        mean = MeanUncertainty()
        mean.add(answer.uncertainty_bits)
        quantiles = np.quantile(answer.uncertainty_bits, QUANTILES)
        found.append(
            {"mean": mean.value(), "quantiles": dict(zip(map(str, QUANTILES), quantiles.tolist(), strict=True))}
        )
    return found


def measure_networks(
    members: nn.ModuleList, data: Data, names: tuple[str, ...], thresholds_bits: list[float], device: torch.device
) -> list[dict[str, Any]]:
    """mIoU, IoU by class and PAvPU (window 4) of each member and of their mean, each at its own threshold."""
    found = []
    for answer, threshold in zip(answers(members, data.images, device), thresholds_bits, strict=True):
        confusion = confusion_of(answer, data.labels, len(names))
        iou = {name: None if np.isnan(v) else float(v) for name, v in zip(names, confusion.iou(), strict=True)}
        value = pavpu(answer, data.labels, threshold)
        found.append({"miou": confusion.mean_iou(), "pavpu": value, "iou": iou})
    return found
