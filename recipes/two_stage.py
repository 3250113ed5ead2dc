r"""Trains the two networks of the two-stage system on a class of CamVid against the rest (paper 001).

    python recipes/two_stage.py --root CAMVID -o out/two-stage
    python recipes/two_stage.py --root CAMVID --sampling highest --no-context --no-fine-tune -o out/two-stage-plain

The first network learns the whole image, shrunk by --ratio. The second then learns patches at full resolution, one of
each image in every step, drawn by --sampling: it starts from the first one's weights and is given its features, unless
told otherwise, and the first stays as it is. Writes first.safetensors, second.safetensors and two_stage.json (what the
two give on the validation frames at each threshold).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from files import load_weights, save_weights, write_json
from measure import resize
from patch_sampling import Sampling, patch_scores, sample_patches, take_patch
from street_data import IGNORE, Data, Recipe, load_camvid, sample
from torch import Tensor
from torch.nn import functional
from trainer import Batch, Trained, TrainOptions, add_training_arguments, command_line, train, training_options
from two_stage_measure import curve, predict

from cascadert.classes import CAMVID
from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models.two_stage import Net, TwoStageNetwork, two_stage

THRESHOLDS = (1.0, 0.75, 0.5, 0.25, 0.0)
SHIFT = 1.1
"""Images are enlarged by this and cut back at random (section 4.2)."""
JITTER = 0.1


@dataclass(frozen=True)
class Form:
    """The two networks, which have one architecture and see the same number of pixels.

    Attributes:
        size: height and width of an image, in pixels; multiples of ratio * ratio.
        ratio: the first network sees the image shrunk by it, and the patches form a grid of ratio * ratio; 1 is a
            single network at full resolution.
    """

    size: tuple[int, int] = (256, 320)
    ratio: int = 4
    net: Net = "unet"
    backbone: str = "resnet18"
    width: float = 0.25

    def __post_init__(self) -> None:
        if any(side % self.ratio**2 for side in self.size):
            asked = f"--size {self.size[0]} {self.size[1]} --ratio {self.ratio}"
            raise SystemExit(f"{asked}: a patch of the small image is no whole pixels; use multiples of ratio * ratio")

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of what either network sees: the shrunk image, or a patch."""
        return self.size[0] // self.ratio, self.size[1] // self.ratio

    def first(self) -> TwoStageNetwork:
        """The network of the shrunk image, with fresh weights."""
        return two_stage(self.net, "first", backbone=self.backbone, width=self.width).requires_grad_(True)

    def second(self, context: bool = True) -> TwoStageNetwork:
        """The network of patches, with fresh weights."""
        return two_stage(self.net, "second", 1, context, self.backbone, self.width).requires_grad_(True)


@dataclass(frozen=True)
class Second:
    """How the second network is trained; the paper's own choice by default."""

    sampling: Sampling = "weighted"
    context: bool = True
    fine_tune: bool = True


def focal_loss(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Binary focal loss (Lin et al., 2017, eq. 5), the mean over known pixels.

    Args:
        logits: `[N, 1, h, w]`.
        truth: `[N, h, w]` of 0, 1 and 255 (ignored).
        alpha: weight of class 1; class 0 has 1 - alpha. The paper's code leaves both at the values of torchvision.
        gamma: how little a pixel counts that is right already.
    """
    known = truth != IGNORE
    wanted, x = truth[known].float(), logits[:, 0][known].float()
    cross_entropy = functional.binary_cross_entropy_with_logits(x, wanted, reduction="none")
    weight = wanted * alpha + (1 - wanted) * (1 - alpha)
    return (weight * (1 - (-cross_entropy).exp()) ** gamma * cross_entropy).mean()


def prepare(data: Data, positive: int, size: tuple[int, int]) -> Data:
    """Frames as uint8 `[M, H, W, 3]` of `size`; labels 1 for the class, 0 for others, 255 where unknown."""
    images, labels = [], []
    for frame, ids in zip(data.images, data.labels, strict=True):
        pixels = resize(frame.permute(2, 0, 1)[None], size)
        images.append(pixels[0].round().to(torch.uint8).permute(1, 2, 0))
        truth = (ids == positive).to(torch.uint8).masked_fill(ids == IGNORE, IGNORE)
        labels.append(shrink_labels(truth[None], size)[0])
    return Data(torch.stack(images), torch.stack(labels))


def shrink_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest label of each pixel of `size`: `[N, H, W]` to `[N, h, w]`."""
    found = functional.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")
    return found[:, 0].to(labels.dtype)


def draw(data: Data, form: Form, rng: np.random.Generator) -> Batch:
    """Eight augmented images, float32 `[N, 3, H, W]` of 0 to 1, and labels `[N, H, W]`: flip, shift, light."""
    recipe = Recipe(scale=1.0, crop=form.size, zoom=(SHIFT, SHIFT))
    pixels, labels = zip(*(sample(data, recipe, rng) for _ in range(recipe.batch)), strict=True)
    light = torch.from_numpy(rng.uniform(-JITTER, JITTER, (2, recipe.batch, 1, 1, 1)).astype(np.float32))
    images = torch.stack(pixels) / 255
    return (images * (1 + light[0]) + light[1]).clamp(0, 1), torch.stack(labels)


def train_first(network: TwoStageNetwork, form: Form, data: Data, options: TrainOptions) -> Trained:
    """Train the network of the shrunk image in place, on prepared data."""

    def loss(batch: Batch, step: int) -> Tensor:
        images, labels = batch
        return focal_loss(network(resize(images, form.seen))["logits"], shrink_labels(labels, form.seen))

    return train(network, partial(draw, data, form), loss, options)


def train_second(
    network: TwoStageNetwork, first: TwoStageNetwork, form: Form, data: Data, how: Second, options: TrainOptions
) -> Trained:
    """Train the network of patches in place, with the trained first one, which is frozen."""
    first.to(options.device).eval().requires_grad_(False)
    if how.fine_tune:
        network.load_state_dict(first.state_dict())

    def loss(batch: Batch, step: int) -> Tensor:
        images, labels = batch
        with torch.no_grad():
            found = first(resize(images, form.seen))
        chosen = sample_patches(patch_scores(found["logits"], form.ratio), how.sampling)
        patch = take_patch(images, chosen, form.ratio)
        context = (take_patch(found["features"], chosen, form.ratio),) if how.context else ()
        return focal_loss(network(patch, *context), take_patch(labels[:, None], chosen, form.ratio)[:, 0])

    return train(network, partial(draw, data, form), loss, options)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    usual, off = Form(), argparse.BooleanOptionalAction
    parser = argparse.ArgumentParser(description="Train the two networks of the two-stage system.")
    parser.add_argument("--root", type=Path, required=True, help="CamVid folder with images/ and labels/")
    parser.add_argument("--positive", choices=CAMVID.names, default="car", help="the class to find (%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=usual.size, help="of an image, pixels (256 320)")
    parser.add_argument("--ratio", type=int, default=usual.ratio, help="of the two resolutions (%(default)s)")
    parser.add_argument("--net", choices=get_args(Net), default=usual.net)
    parser.add_argument("--backbone", default=usual.backbone)
    parser.add_argument("--width", type=float, default=usual.width, help="factor of all channels (%(default)s)")
    parser.add_argument("--sampling", choices=get_args(Sampling), default="weighted", help="of patches (%(default)s)")
    parser.add_argument("--context", action=off, default=True, help="the second network reads the first one's features")
    parser.add_argument("--fine-tune", action=off, default=True, help="the second network starts from the first")
    parser.add_argument("--first", type=Path, help="weights of a trained first network; trains only the second")
    add_training_arguments(parser, 1500)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    form = Form(tuple(options.size), options.ratio, options.net, options.backbone, options.width)
    how = Second(options.sampling, options.context, options.fine_tune)
    training = training_options(options, "first")
    positive = CAMVID.names.index(options.positive)
    data, val = (prepare(load_camvid(options.root, split), positive, form.size) for split in ("train", "val"))
    first, second = form.first(), form.second(how.context)
    paths = [options.output / f"{name}.safetensors" for name in ("first", "second")]
    later = replace(training, checkpoint=options.output / "second.checkpoint", name="second")
    if later.checkpoint is None or not later.checkpoint.exists():  # a run that was stopped goes on where it was
        if options.first is not None:
            load_weights(first, options.first)
        elif not _done(train_first(first, form, data, training), options.steps):
            return
        save_weights(first, paths[0])
    load_weights(first, paths[0])
    trained = train_second(second, first, form, data, how, later)
    if not _done(trained, options.steps):
        return
    save_weights(second, paths[1])
    load_weights(second, paths[1])  # measure the file as it is, rounding included
    log: dict[str, object] = {
        "command": command_line(arguments),
        "form": asdict(form),
        "second": asdict(how),
        "positive": options.positive,
        "parameters": count_parameters(second),
        "macs_per_pass": count_macs(first, (1, 3, *form.seen)),
        "seed": options.seed,
        "device": f"{options.device}, {options.threads} threads",
        "torch": torch.__version__,
        "minutes": round(trained.minutes, 1),
        "steps": len(trained.losses),
        "final_loss": round(trained.final_loss, 4),
        "val_frames": len(val.images),
        "val": curve(predict(first, second, val.images, form.ratio, options.device), val, THRESHOLDS),
    }
    write_json(options.output / "two_stage.json", log)
    print(json.dumps(log, indent=2))


def _done(trained: Trained, steps: int) -> bool:
    if not trained.done:
        print(f"{len(trained.losses)} of {steps} steps are done: the same command goes on")
    return trained.done


if __name__ == "__main__":
    main()
