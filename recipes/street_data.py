"""Frames with labels, and augmented crops of them."""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from cascadert.classes import CAMVID, CITYSCAPES
from cascadert.scenes import Scene, Split, frame_of_split

IGNORE = 255
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Data:
    """Frames uint8 ``[M, H, W, 3]`` and labels uint8 ``[M, H, W]`` (255 = ignore)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How a network sees frames and how it is trained; sizes in pixels.

    Attributes:
        scale: the frame is shrunk by this before the network sees it.
        crop: height and width of the network's input in training.
        overhang: how far a crop may leave the frame; it is replicated there, as a halo is at run time.
        block: side of the blocks that the network is also evaluated on, if any.
        halo: pixels of context that the network sees around a block.
        zoom: range of the random enlargement.
        balance: classes weigh (share of pixels)**-balance in the loss.
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
    ("scenes", "pspnet-small"): Recipe(scale=1.0, crop=(192, 192), overhang=48, block=128, halo=32),
}


def load_camvid(root: Path, split: str) -> Data:
    """Reads ``root/images/<split>/*`` and ``root/labels/<split>/*.png`` (class 0..10, 255 = void)."""
    folder = root / "images" / split
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if not paths:
        raise SystemExit(f"--root {root}: no images in {folder}; point --root at the folder that holds images/")
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    labels = [np.asarray(Image.open(root / "labels" / split / f"{path.stem}.png")) for path in paths]
    return Data(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))


def _street(place: tuple[Split, int]) -> Scene:
    split, index = place
    return frame_of_split(split, index).render()


def load_scenes(split: Split, frames: int, cache: Path) -> Data:
    """Renders one frame of each of ``frames`` streets, in all processes; keeps them in ``cache`` as .npy."""
    paths = [cache / f"{split}-{frames}-{kind}.npy" for kind in ("images", "labels")]
    if not all(path.exists() for path in paths):
        places = [(split, index) for index in range(frames)]
        with ProcessPoolExecutor() as pool:
            streets = list(track(pool.map(_street, places, chunksize=8), f"render {split}", frames))
        cache.mkdir(parents=True, exist_ok=True)
        for path, arrays in zip(paths, zip(*((s.image, s.labels) for s in streets), strict=True), strict=True):
            np.save(path, np.stack(arrays))
    images, labels = (torch.from_numpy(np.load(path, mmap_mode="c")) for path in paths)
    return Data(images, labels)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that :func:`load` reads."""
    parser.add_argument("--data", choices=("camvid", "scenes"), required=True)
    parser.add_argument("--root", type=Path, help="CamVid folder with images/ and labels/")
    parser.add_argument("--frames", type=int, nargs=2, default=(1200, 80), help="scenes to train and validate on")
    parser.add_argument("--cache", type=Path, default=Path(".cache/scenes"), help="folder for rendered scenes")


def load(options: argparse.Namespace, split: Literal["train", "val"]) -> tuple[Data, tuple[str, ...]]:
    """Frames of ``split`` and class names."""
    if options.data == "scenes":
        frames = options.frames[("train", "val").index(split)]
        return load_scenes(split, frames, options.cache), CITYSCAPES.names
    if options.root is None:
        raise SystemExit("--data camvid: no --root; give the folder that holds images/ and labels/")
    return load_camvid(options.root, split), CAMVID.names


def normalise(frames: Tensor) -> Tensor:
    """uint8 ``[N, H, W, 3]`` to the networks' input: float32 ``[N, 3, H, W]``."""
    planes = frames.permute(0, 3, 1, 2).float() / 255.0
    return (planes - planes.new_tensor(MEAN).view(3, 1, 1)) / planes.new_tensor(STD).view(3, 1, 1)


def window(frame: Tensor, labels: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cuts a window that may leave the frame: pixels are replicated there, labels ignored."""
    rows = torch.arange(corner[0], corner[0] + size[0])
    columns = torch.arange(corner[1], corner[1] + size[1])
    inner_rows, inner_columns = rows.clamp(0, frame.shape[0] - 1), columns.clamp(0, frame.shape[1] - 1)
    outside = (rows != inner_rows)[:, None] | (columns != inner_columns)[None, :]
    cut = labels[inner_rows][:, inner_columns].masked_fill(outside, IGNORE)
    return frame[inner_rows][:, inner_columns], cut


def _offset(rng: np.random.Generator, size: int, side: int, overhang: int) -> int:
    low, high = sorted((-overhang, size - side + overhang))
    return int(rng.integers(low, high + 1))


def sample(data: Data, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One augmented crop: float ``[3, h, w]`` in 0..255 and int64 labels ``[h, w]``."""
    index = int(rng.integers(len(data.images)))
    frame, labels = data.images[index], data.labels[index]
    zoom = math.exp(rng.uniform(*np.log(recipe.zoom)))
    height, width = (round(side / (recipe.scale * zoom)) for side in recipe.crop)
    corner = (
        _offset(rng, frame.shape[0], height, recipe.overhang),
        _offset(rng, frame.shape[1], width, recipe.overhang),
    )
    frame, labels = window(frame, labels, corner, (height, width))
    if rng.random() < 0.5:
        frame, labels = frame.flip(1), labels.flip(1)
    pixels = functional.interpolate(
        frame.permute(2, 0, 1)[None].float(), size=recipe.crop, mode="bilinear", align_corners=False
    )
    # nearest-exact samples pixel centres, where bilinear without aligned corners puts them.
    target = functional.interpolate(labels[None, None].float(), size=recipe.crop, mode="nearest-exact")
    return pixels[0], target[0, 0].long()


def jitter(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Changes saturation, contrast and brightness of each image of ``[N, 3, h, w]`` in 0..255."""
    saturation, contrast, brightness = (
        torch.tensor(rng.uniform(1 - spread, 1 + spread, (len(pixels), 1, 1, 1)), dtype=torch.float32)
        for spread in (0.4, 0.3, 0.3)
    )
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * saturation
    middle = pixels.mean((1, 2, 3), keepdim=True)
    return ((middle + (pixels - middle) * contrast) * brightness).clamp(0, 255)


def draw(data: Data, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """An augmented batch: network inputs ``[N, 3, h, w]`` and labels ``[N, h, w]``."""
    pixels, labels = zip(*(sample(data, recipe, rng) for _ in range(recipe.batch)), strict=True)
    return normalise(jitter(torch.stack(pixels), rng).permute(0, 2, 3, 1)), torch.stack(labels)


def class_weights(labels: Tensor, classes: int, balance: float) -> Tensor:
    """Weights share**-balance whose mean over pixels is 1; a class that never occurs weighs nothing."""
    share = torch.bincount(labels[::8].flatten().int(), minlength=256)[:classes].float()
    share = share / share.sum()
    weights = torch.where(share > 0, share.clamp_min(1e-4) ** -balance, share)
    return weights / (weights * share).sum()
