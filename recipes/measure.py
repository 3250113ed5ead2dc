"""Validation as the cascade will use a network: on whole frames and block by block, in float32."""

from __future__ import annotations

import torch
from street_data import Data, Recipe, normalise, window
from torch import Tensor, nn
from torch.nn import functional


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of logits to ``size``, as the exported stage does it."""
    return functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def predict(network: nn.Module, frame: Tensor, scale: float, device: torch.device) -> Tensor:
    """Labels ``[H, W]`` of one uint8 frame ``[H, W, 3]``, seen whole at ``scale``."""
    height, width = frame.shape[:2]
    size = (round(height * scale), round(width * scale))
    shrunk = functional.interpolate(normalise(frame[None].to(device)), size=size, mode="bilinear", align_corners=False)
    return upsample(network(shrunk), (height, width)).argmax(1)[0].cpu()


@torch.no_grad()
def predict_blocks(network: nn.Module, frame: Tensor, block: int, halo: int, device: torch.device) -> Tensor:
    """Labels ``[H, W]`` of one uint8 frame, each block seen alone with ``halo`` pixels around it."""
    height, width = frame.shape[:2]
    side = block + 2 * halo
    labels = torch.zeros((height, width), dtype=torch.uint8)
    corners = [(top, left) for top in range(0, height, block) for left in range(0, width, block)]
    patches = [window(frame, labels, (top - halo, left - halo), (side, side))[0] for top, left in corners]
    logits = upsample(network(normalise(torch.stack(patches).to(device))), (side, side))
    inner = logits.argmax(1)[:, halo : halo + block, halo : halo + block].cpu()
    for (top, left), patch in zip(corners, inner, strict=True):
        cut = labels[top : top + block, left : left + block]
        cut.copy_(patch[: cut.shape[0], : cut.shape[1]])
    return labels


def intersection_over_union(confusion: Tensor) -> list[float | None]:
    """Per class, from ``[K, K]`` counts (row = truth); None where a class never occurs."""
    hit = confusion.diag()
    union = confusion.sum(0) + confusion.sum(1) - hit
    return [float(h / u) if u else None for h, u in zip(hit, union, strict=True)]


def evaluate(
    network: nn.Module,
    data: Data,
    recipe: Recipe,
    names: tuple[str, ...],
    device: torch.device,
    blocks: bool = False,
) -> dict[str, object]:
    """Measures mIoU, pixel accuracy and IoU per class over all frames of ``data``."""
    network.eval()
    classes = len(names)
    confusion = torch.zeros((classes, classes), dtype=torch.int64)
    for frame, labels in zip(data.images, data.labels, strict=True):
        if blocks:
            assert recipe.block is not None
            found = predict_blocks(network, frame, recipe.block, recipe.halo, device)
        else:
            found = predict(network, frame, recipe.scale, device)
        known = labels < classes
        pairs = labels[known].long() * classes + found[known].long()
        confusion += torch.bincount(pairs, minlength=classes * classes).view_as(confusion)
    per_class = intersection_over_union(confusion)
    present = [value for value in per_class if value is not None]
    return {
        "miou": round(sum(present) / len(present), 4),
        "pixel_accuracy": round(float(confusion.diag().sum() / confusion.sum()), 4),
        "iou": {n: None if v is None else round(v, 4) for n, v in zip(names, per_class, strict=True)},
    }
