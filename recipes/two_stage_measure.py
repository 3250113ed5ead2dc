"""What the two-stage system gives at each threshold: Dice, IoU and refined patches (paper 001, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from measure import resize
from patch_sampling import from_patches, patch_scores, to_patches
from street_data import IGNORE, Data
from torch import Tensor, nn
from torch.nn import functional

from cascadert.export.models.two_stage import TakesContext

BATCH = 8


@dataclass(frozen=True)
class Prediction:
    """What both networks say of `M` images, every patch refined; which of them count is decided afterwards.

    Attributes:
        low: probability that the first network gives each pixel, enlarged by repetition, float32 `[M, H, W]`.
        refined: what the second gives it, float32 `[M, H, W]`.
        scores: uncertainty of each patch, float32 `[M, G]`.
        side: patches along each side of an image.
    """

    low: Tensor
    refined: Tensor
    scores: Tensor
    side: int

    def chosen(self, threshold: float) -> Tensor:
        """Which patches are refined: bool `[M, G]`."""
        return self.scores > threshold

    def merged(self, threshold: float) -> Tensor:
        """Probability of each pixel where patches above the threshold are refined, float32 `[M, H, W]`."""
        height, width = self.low.shape[1:]
        shape = (height // self.side, width // self.side)
        chosen = self.chosen(threshold)[:, :, None, None, None].expand(-1, -1, 1, *shape)
        return torch.where(from_patches(chosen, self.side)[:, 0], self.refined, self.low)


@torch.no_grad()
def predict(first: nn.Module, second: nn.Module, images: Tensor, side: int, device: str = "cpu") -> Prediction:
    """Run both networks on uint8 `[M, H, W, 3]`; the second on every patch."""
    first.eval().to(device), second.eval().to(device)
    low, refined, scores = [], [], []
    for batch in _batches(images):
        planes = batch.to(device).permute(0, 3, 1, 2).float() / 255
        size = (planes.shape[2], planes.shape[3])
        found = first(resize(planes, (size[0] // side, size[1] // side)))
        patches = to_patches(planes, side).flatten(0, 1)
        context = (to_patches(found["features"], side).flatten(0, 1),) if isinstance(second, TakesContext) else ()
        logits = second(patches, *context).unflatten(0, (len(planes), -1))
        low.append(functional.interpolate(found["logits"].sigmoid(), size=size, mode="nearest")[:, 0].cpu())
        refined.append(from_patches(logits, side)[:, 0].sigmoid().cpu())
        scores.append(patch_scores(found["logits"], side).cpu())
    return Prediction(torch.cat(low), torch.cat(refined), torch.cat(scores), side)


@torch.no_grad()
def probabilities(network: nn.Module, images: Tensor, device: str = "cpu") -> Tensor:
    """Run one network on whole images uint8 `[M, H, W, 3]`: float32 `[M, H, W]`."""
    network.eval().to(device)
    planes = (batch.to(device).permute(0, 3, 1, 2).float() / 255 for batch in _batches(images))
    return torch.cat([network(pixels)["logits"][:, 0].sigmoid().cpu() for pixels in planes])


def _batches(images: Tensor) -> Iterator[Tensor]:
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def quality(probability: Tensor, labels: Tensor) -> dict[str, float]:
    """Measure probabilities `[M, H, W]` against 0, 1 and 255 (ignored), at 0.5.

    Returns:
        "dice": mean over images, with one pixel added above and below as in the paper's code; "iou": of all pixels.
    """
    known = labels != IGNORE
    found, truth = (probability >= 0.5) & known, labels == 1
    hits, sums = (found & truth).sum((1, 2)), found.sum((1, 2)) + truth.sum((1, 2))
    union = (sums - hits).sum()
    dice = ((2 * hits + 1) / (sums + 1)).mean()
    return {"dice": round(float(dice), 4), "iou": round(float(hits.sum() / union), 4) if union else 1.0}


def curve(prediction: Prediction, data: Data, thresholds: Sequence[float]) -> list[dict[str, float]]:
    """Quality at each threshold, with the mean number of refined patches."""
    return [
        {
            "threshold": threshold,
            **quality(prediction.merged(threshold), data.labels),
            "patches": round(float(prediction.chosen(threshold).float().sum(1).mean()), 2),
        }
        for threshold in thresholds
    ]
