"""Trains the fast (ENet) and the accurate (small PSPNet) network of a cascade on CamVid or on scenes.

    python recipes/train.py --data camvid --root ../shared/data/camvid --network enet -o examples/camvid/weights

Writes NETWORK.safetensors and NETWORK.json (command, duration, mIoU) to the output folder. The schedule is a
function of elapsed time, so ``--minutes`` bounds the run on any machine. See recipes/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import NETWORKS

IGNORE = 255
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Frames uint8 ``[M, H, W, 3]`` and labels uint8 ``[M, H, W]`` (255 = ignore)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How a network sees frames; sizes in pixels.

    ``scale`` shrinks the frame before the network. ``crop`` is the network's training input. ``overhang`` is
    how far a crop may leave the frame (replicated there, as a halo is at run time). With ``block`` the
    network is also evaluated on blocks with ``halo`` pixels of context.
    """

    scale: float
    crop: tuple[int, int]
    overhang: int = 0
    block: int | None = None
    halo: int = 0
    zoom: tuple[float, float] = (0.7, 1.7)
    batch: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    balance: float = 0.4


RECIPES: dict[tuple[str, str], Recipe] = {
    ("camvid", "enet"): Recipe(scale=0.6, crop=(216, 288)),
    ("camvid", "pspnet-small"): Recipe(scale=1.0, crop=(256, 256), overhang=68, block=120, halo=68),
    ("scenes", "enet"): Recipe(scale=0.5, crop=(192, 256)),
    ("scenes", "pspnet-small"): Recipe(scale=1.0, crop=(192, 192), overhang=48, block=96, halo=48),
}


def load_camvid(root: Path, split: str) -> Data:
    """Reads ``root/images/<split>/*`` and ``root/labels/<split>/*.png`` (class 0..10, 255 = void)."""
    images, labels = [], []
    for path in sorted((root / "images" / split).iterdir()):
        images.append(np.asarray(Image.open(path).convert("RGB")))
        labels.append(np.asarray(Image.open(root / "labels" / split / f"{path.stem}.png")))
    if not images:
        raise SystemExit(f"--root {root}: images/{split} holds no images; point --root at the CamVid folder")
    return Data(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))


def normalise(frames: Tensor) -> Tensor:
    """uint8 ``[N, H, W, 3]`` to the networks' input: float32 ``[N, 3, H, W]``."""
    planes = frames.permute(0, 3, 1, 2).float() / 255.0
    return (planes - planes.new_tensor(MEAN).view(3, 1, 1)) / planes.new_tensor(STD).view(3, 1, 1)


def _window(
    image: Tensor, labels: Tensor, top: int, left: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Cuts a window that may leave the frame: pixels are replicated there, labels ignored."""
    rows, columns = torch.arange(top, top + height), torch.arange(left, left + width)
    inner_rows, inner_columns = rows.clamp(0, image.shape[0] - 1), columns.clamp(0, image.shape[1] - 1)
    cut = labels[inner_rows][:, inner_columns]
    outside = (rows != inner_rows)[:, None] | (columns != inner_columns)[None, :]
    return image[inner_rows][:, inner_columns], cut.masked_fill(outside, IGNORE)


def _offset(rng: np.random.Generator, size: int, window: int, overhang: int) -> int:
    low, high = sorted((-overhang, size - window + overhang))
    return int(rng.integers(low, high + 1))


def sample(data: Data, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One augmented crop: float ``[3, h, w]`` in 0..255 and int64 labels ``[h, w]``."""
    index = int(rng.integers(len(data.images)))
    zoom = math.exp(rng.uniform(*np.log(recipe.zoom)))
    height, width = (round(side / (recipe.scale * zoom)) for side in recipe.crop)
    top = _offset(rng, data.images.shape[1], height, recipe.overhang)
    left = _offset(rng, data.images.shape[2], width, recipe.overhang)
    image, labels = _window(data.images[index], data.labels[index], top, left, height, width)
    if rng.random() < 0.5:
        image, labels = image.flip(1), labels.flip(1)
    pixels = functional.interpolate(
        image.permute(2, 0, 1)[None].float(), size=recipe.crop, mode="bilinear", align_corners=False
    )
    # nearest-exact samples pixel centres, where bilinear without aligned corners puts them.
    target = functional.interpolate(labels[None, None].float(), size=recipe.crop, mode="nearest-exact")
    return pixels[0], target[0, 0].long()


def jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Changes brightness, contrast and saturation of each image of ``[N, 3, h, w]`` in 0..255."""
    brightness, contrast, saturation = (
        torch.tensor(rng.uniform(1 - spread, 1 + spread, (len(pixels), 1, 1, 1)), dtype=torch.float32)
        for spread in (0.3, 0.3, 0.4)
    )
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * saturation
    middle = pixels.mean((1, 2, 3), keepdim=True)
    return ((middle + (pixels - middle) * contrast) * brightness).clamp(0, 255)


def batches(data: Data, recipe: Recipe, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless augmented batches: network inputs ``[N, 3, h, w]`` and labels ``[N, h, w]``."""
    while True:
        pixels, labels = zip(*(sample(data, recipe, rng) for _ in range(recipe.batch)), strict=True)
        frames = jitter(torch.stack(pixels), rng).permute(0, 2, 3, 1)
        yield normalise(frames), torch.stack(labels)


def class_weights(labels: Tensor, classes: int, balance: float) -> Tensor:
    """Weights share**-balance whose mean over pixels is 1; a class that never occurs weighs nothing."""
    share = torch.bincount(labels[::8].flatten().int(), minlength=256)[:classes].float()
    share = share / share.sum()
    weights = torch.where(share > 0, share.clamp_min(1e-4) ** -balance, share)
    return weights / (weights * share).sum()


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of logits to ``size``, as the exported stage does it."""
    return functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def predict(network: nn.Module, frame: Tensor, scale: float, device: torch.device) -> Tensor:
    """Labels ``[H, W]`` of one uint8 frame ``[H, W, 3]``, seen whole at ``scale``."""
    height, width = frame.shape[:2]
    size = (round(height * scale), round(width * scale))
    shrunk = functional.interpolate(
        normalise(frame[None].to(device)), size=size, mode="bilinear", align_corners=False
    )
    return upsample(network(shrunk), (height, width)).argmax(1)[0].cpu()


@torch.no_grad()
def predict_blocks(network: nn.Module, frame: Tensor, block: int, halo: int, device: torch.device) -> Tensor:
    """Labels ``[H, W]`` of one uint8 frame, each block seen alone with ``halo`` pixels around it."""
    height, width = frame.shape[:2]
    side = block + 2 * halo
    corners = [(top, left) for top in range(0, height, block) for left in range(0, width, block)]
    blank = torch.zeros((height, width), dtype=torch.uint8)
    patches = torch.stack([_window(frame, blank, y - halo, x - halo, side, side)[0] for y, x in corners])
    logits = upsample(network(normalise(patches.to(device))), (side, side))
    found = logits.argmax(1)[:, halo : halo + block, halo : halo + block].cpu()
    labels = torch.empty((height, width), dtype=torch.int64)
    for (top, left), patch in zip(corners, found, strict=True):
        cut = labels[top : top + block, left : left + block]
        cut.copy_(patch[: cut.shape[0], : cut.shape[1]])
    return labels


def iou(confusion: Tensor) -> list[float | None]:
    """Intersection over union per class of ``[K, K]`` counts; None where a class never occurs."""
    hit = confusion.diag()
    union = confusion.sum(0) + confusion.sum(1) - hit
    return [float(h / u) if u else None for h, u in zip(hit, union, strict=True)]


def evaluate(
    network: nn.Module, data: Data, recipe: Recipe, names: tuple[str, ...], device: torch.device, blocks: bool
) -> dict[str, object]:
    """Measures mIoU over all frames of ``data``, whole or block by block, in float32."""
    network.eval()
    confusion = torch.zeros((len(names), len(names)), dtype=torch.int64)
    for frame, labels in zip(data.images, data.labels, strict=True):
        if blocks and recipe.block:
            found = predict_blocks(network, frame, recipe.block, recipe.halo, device)
        else:
            found = predict(network, frame, recipe.scale, device)
        known = labels < len(names)
        pairs = labels[known].long() * len(names) + found[known]
        confusion += torch.bincount(pairs, minlength=confusion.numel()).view_as(confusion)
    per_class = iou(confusion)
    present = [value for value in per_class if value is not None]
    return {
        "miou": round(sum(present) / len(present), 4),
        "pixel_accuracy": round(float(confusion.diag().sum() / confusion.sum()), 4),
        "iou": {n: None if v is None else round(v, 4) for n, v in zip(names, per_class, strict=True)},
    }


def save(network: nn.Module, path: Path) -> None:
    """Writes safetensors: kernels as float16 to halve the file, vectors and statistics as they are.

    Batch-norm variances can lie below what float16 holds, so only tensors of two axes and more are rounded.
    """
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    os.replace(partial, path)


def fit(
    network: nn.Module, data: Data, recipe: Recipe, classes: int, *, minutes: float, steps: int | None,
    device: torch.device, seed: int, checkpoint: Path, checkpoint_minutes: float = 3.0,
) -> list[float]:  # fmt: skip
    """Trains in place until the time or the steps are used up; returns the loss of every step."""
    rng = np.random.default_rng(seed)
    weights = class_weights(data.labels, classes, recipe.balance).to(device)
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    network.to(device, memory_format=torch.channels_last).train()
    losses: list[float] = []
    start = saved = time.monotonic()
    for pixels, labels in batches(data, recipe, rng):
        elapsed = time.monotonic() - start
        progress = max(elapsed / (60 * minutes), len(losses) / steps if steps else 0.0)
        if progress >= 1:
            return losses
        rate = (
            recipe.learning_rate * min(1.0, (len(losses) + 1) / 50) * (1 + math.cos(math.pi * progress)) / 2
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(pixels.to(device, memory_format=torch.channels_last))
        loss = functional.cross_entropy(
            upsample(logits, recipe.crop), labels.to(device), weights, ignore_index=IGNORE
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            recent = sum(losses[-50:]) / 50
            print(
                f"step {len(losses):5d}  {elapsed / 60:5.1f} min  rate {rate:.5f}  loss {recent:.4f}",
                flush=True,
            )
        if time.monotonic() - saved > 60 * checkpoint_minutes:
            save(network, checkpoint)
            saved = time.monotonic()
    raise AssertionError("batches never end")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network of a cascade.")
    parser.add_argument("--data", choices=("camvid", "scenes"), required=True)
    parser.add_argument("--network", choices=("enet", "pspnet-small"), required=True)
    parser.add_argument("--root", type=Path, help="CamVid folder with images/ and labels/")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="time limit that the schedule is made for"
    )
    parser.add_argument("--steps", type=int, help="stop after so many steps, if that is earlier")
    parser.add_argument("--init", type=Path, help="weights (safetensors) to start from")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for weights and log")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> tuple[Data, Data, tuple[str, ...]]:
    """Training data, validation data and class names."""
    return load_camvid(options.root, "train"), load_camvid(options.root, "val"), CAMVID_CLASSES


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, val, names = load(options)
    recipe = RECIPES[options.data, options.network]
    network = NETWORKS[options.network](len(names))
    if options.init:
        network.load_state_dict(load_file(options.init))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{options.network.replace('-', '_')}.safetensors"

    start = time.monotonic()
    losses = fit(network, train, recipe, len(names), minutes=options.minutes, steps=options.steps,
                 device=device, seed=options.seed, checkpoint=path)  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    save(network, path)
    network.load_state_dict(load_file(path))  # measure the file that is shipped, rounding included

    log: dict[str, object] = {
        "command": shlex.join(["python", *sys.argv]) if arguments is None else shlex.join(arguments),
        "network": options.network,
        "classes": len(names),
        "parameters": count_parameters(network),
        "macs_per_crop": count_macs(network, (1, 3, *recipe.crop)),
        "recipe": asdict(recipe),
        "device": f"{device.type}, {options.threads} threads",
        "torch": torch.__version__,
        "minutes": round(minutes, 1),
        "steps": len(losses),
        "epochs": round(len(losses) * recipe.batch / len(train.images), 1),
        "final_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "val_frames": len(val.images),
        "val_whole_frame": evaluate(network, val, recipe, names, device, blocks=False),
    }
    if recipe.block:
        log["val_blocks"] = evaluate(network, val, recipe, names, device, blocks=True)
    path.with_suffix(".json").write_text(json.dumps(log, indent=2) + "\n")
    print(json.dumps(log, indent=2))


if __name__ == "__main__":
    main()
