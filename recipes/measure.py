"""Validation as the cascade will use a network: on whole frames and block by block, in float32.

python recipes/measure.py --data camvid --root CAMVID --network enet --weights FILE [--scale 0.4]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from street_data import RECIPES, Data, Recipe, add_data_arguments, load, normalise, window
from torch import Tensor, nn
from torch.nn import functional

from cascadert.export.models import NETWORKS


def resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of ``[N, C, h, w]`` to ``size`` in float32, as the exported stage does it."""
    return functional.interpolate(planes.float(), size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def _segment(network: nn.Module, frames: Tensor, scale: float) -> Tensor:
    size = (frames.shape[1], frames.shape[2])
    x = resize(normalise(frames), (round(size[0] * scale), round(size[1] * scale)))
    return resize(network(x), size).argmax(1)


def predict(network: nn.Module, frame: Tensor, scale: float, device: torch.device) -> Tensor:
    """Labels ``[H, W]`` of one uint8 frame ``[H, W, 3]``, seen whole at ``scale``."""
    return _segment(network, frame[None].to(device), scale)[0].cpu()


def predict_blocks(network: nn.Module, frame: Tensor, recipe: Recipe, device: torch.device) -> Tensor:
    """Labels ``[H, W]`` of one uint8 frame, each block seen alone with the halo around it."""
    assert recipe.block is not None
    block, halo = recipe.block, recipe.halo
    height, width = frame.shape[:2]
    side = block + 2 * halo
    labels = torch.zeros((height, width), dtype=torch.uint8)
    corners = [(top, left) for top in range(0, height, block) for left in range(0, width, block)]
    patches = [window(frame, labels, (top - halo, left - halo), (side, side))[0] for top, left in corners]
    found = _segment(network, torch.stack(patches).to(device), recipe.scale)
    inner = found[:, halo : halo + block, halo : halo + block].cpu()
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
            found = predict_blocks(network, frame, recipe, device)
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure weights on all validation frames.")
    add_data_arguments(parser)
    parser.add_argument("--network", choices=("enet", "pspnet-small"), required=True)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors that a recipe wrote")
    parser.add_argument("--scale", type=float, help="resize of the network's input, in place of the recipe's")
    parser.add_argument("--blocks", action="store_true", help="block by block with a halo, not the whole frame")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    data, names = load(options, "val")
    recipe = RECIPES[options.data, options.network]
    if options.scale:
        recipe = replace(recipe, scale=options.scale)
    if options.blocks and not recipe.block:
        raise SystemExit(f"--blocks: the recipe of {options.network} has no block size; leave it out")
    network = NETWORKS[options.network](len(names))
    network.load_state_dict(load_file(options.weights))
    print(json.dumps(evaluate(network, data, recipe, names, torch.device("cpu"), options.blocks), indent=2))


if __name__ == "__main__":
    main()
