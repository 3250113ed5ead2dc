"""Trains an ensemble of three networks, with loss weights by instance uncertainty or without (paper 002, section 3).

    python recipes/ensemble.py --data camvid --root CAMVID --weighting none -o out/none
    python recipes/ensemble.py --data camvid --root CAMVID --weighting approach-1 --first out/none -o out/approach-1
    python recipes/ensemble.py --data camvid --root CAMVID --weighting approach-2 -o out/approach-2

Approach 1 takes the uncertainty of every instance from a first ensemble, trained without weights; approach 2 from the
one that is being trained, step by step. "inverse" weighs classes by the inverse of their share of pixels. Writes a
safetensors file for each member, and ensemble.json: the command, the mean uncertainty on the training frames, which is
the threshold of PAvPU, and mIoU and PAvPU on the validation frames.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ensemble_measure import answers, measure_networks, predictive_uncertainty, uncertainty_on
from files import load_weights, save_weights, write_json
from instance_uncertainty import (
    Regions,
    instance_uncertainty,
    number_regions,
    region_means,
    uncertainty_weights,
    weighted_cross_entropy,
)
from measure import resize
from street_data import Data, Recipe, add_data_arguments, class_weights, draw, load
from torch import Tensor, nn
from torch.nn import functional
from trainer import Batch, Trained, TrainOptions, add_training_arguments, command_line, train, training_options

from cascadert.export.models import deeplabv3_plus

WEIGHTINGS = ("none", "inverse", "approach-1", "approach-2")
# DeepLabV3+ with three backbones, as in the paper; a factor of their channels makes them fit a CPU.
BACKBONES = {"resnet18": 0.25, "resnet34": 0.25, "resnet50": 0.125}
RECIPE = Recipe(scale=1.0, crop=(96, 128), zoom=(0.8, 1.4))  # of frames that are shrunk already

# The weight of every pixel, from the regions' numbers [N, h, w] and the members' logits.
Weighting = Callable[[Tensor, list[Tensor]], Tensor]


def build_members(classes: int, seed: int) -> nn.ModuleList:
    """The three members with fresh weights that ``seed`` alone decides."""
    torch.manual_seed(seed)
    return nn.ModuleList(
        deeplabv3_plus(classes, backbone=name, width=width, channels=32) for name, width in BACKBONES.items()
    )


def shrink(data: Data, scale: float) -> Data:
    """Frames by area, labels by the nearest pixel centre."""
    size = tuple(round(side * scale) for side in data.labels.shape[1:])
    images = [functional.interpolate(i.permute(2, 0, 1)[None].float(), size=size, mode="area") for i in data.images]
    labels = functional.interpolate(data.labels[:, None].float(), size=size, mode="nearest-exact")
    return Data(torch.cat(images).round().byte().permute(0, 2, 3, 1).contiguous(), labels[:, 0].byte())


@dataclass(frozen=True)
class Frames:
    """Training frames and their instances."""

    data: Data
    regions: Regions
    classes: int

    @classmethod
    def of(cls, data: Data, classes: int) -> Frames:
        """Number the instances of the labels."""
        return cls(data, number_regions(data.labels), classes)


def inverse_shares(frames: Frames, balance: float, device: torch.device) -> Weighting:
    """Classes weigh (share of pixels)**-balance, with a mean of 1 over pixels."""
    shares = torch.zeros(256, device=device)
    shares[: frames.classes] = class_weights(frames.data.labels, frames.classes, balance).to(device)
    classes = frames.regions.classes.to(device)
    return lambda numbers, logits: shares[classes[numbers]]


def weighting_of(
    name: str, frames: Frames, first: nn.ModuleList | None, power: float, device: torch.device
) -> Weighting:
    """One of `WEIGHTINGS`; ``first`` is the ensemble that approach 1 takes its uncertainty from."""
    if name == "none":
        return lambda numbers, logits: torch.ones(numbers.shape, device=numbers.device)
    if name == "inverse":
        return inverse_shares(frames, 1.0, device)
    if name == "approach-2":
        return lambda numbers, logits: uncertainty_weights(
            instance_uncertainty(numbers, predictive_uncertainty([one.detach() for one in logits])), power
        )
    assert first is not None
    mean = answers(first.to(device), frames.data.images, device)[-1]
    means = region_means(frames.regions, torch.from_numpy(mean.uncertainty_bits)).to(device)
    return lambda numbers, logits: uncertainty_weights(means[numbers], power)


def train_members(members: nn.ModuleList, frames: Frames, weighting: Weighting, options: TrainOptions) -> Trained:
    """Train the members side by side, on the same batches; no gradient crosses from one to another."""
    numbered = Data(frames.data.images, frames.regions.numbers)
    classes = frames.regions.classes.to(options.device)

    def batch(rng: np.random.Generator) -> Batch:
        return draw(numbered, RECIPE, rng)

    def loss(batch: Batch, step: int) -> Tensor:
        pixels, numbers = batch
        logits = [resize(member(pixels), RECIPE.crop) for member in members]
        weights, labels = weighting(numbers, logits), classes[numbers]
        return torch.stack([weighted_cross_entropy(one, labels, weights) for one in logits]).sum()

    return train(members, batch, loss, options)


def load_members(folder: Path, classes: int) -> nn.ModuleList:
    """Load what `write_members` wrote."""
    members = build_members(classes, seed=0)
    for name, member in zip(BACKBONES, members, strict=True):
        load_weights(member, folder / f"{name}.safetensors")
    return members


def write_members(members: nn.ModuleList, folder: Path) -> None:
    """Write one safetensors file for each member, and read them back, rounded as they are."""
    for name, member in zip(BACKBONES, members, strict=True):
        save_weights(member, folder / f"{name}.safetensors")
        load_weights(member, folder / f"{name}.safetensors")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train an ensemble.")
    add_data_arguments(parser)
    add_training_arguments(parser, 2000)
    parser.add_argument("--weighting", choices=WEIGHTINGS, default="none", help="of the loss (%(default)s)")
    parser.add_argument("--init", type=Path, help="folder of an ensemble to start from (none: from fresh weights)")
    parser.add_argument("--first", type=Path, help="folder of the ensemble that approach 1 takes its uncertainty from")
    parser.add_argument("--power", type=float, default=1.0, help="of 1 + instance uncertainty (%(default)s)")
    parser.add_argument("--scale", type=float, default=0.4, help="frames are shrunk by this (%(default)s)")
    options = parser.parse_args(arguments)
    if options.weighting == "approach-1" and options.first is None:
        raise SystemExit("--weighting approach-1: no --first; give the folder of an ensemble trained with none")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    training = training_options(options, "ensemble")
    device = torch.device(options.device)
    (data, names), (val, _) = load(options, "train"), load(options, "val")
    frames, val = Frames.of(shrink(data, options.scale), len(names)), shrink(val, options.scale)
    first = load_members(options.first, len(names)) if options.weighting == "approach-1" else None
    weighting = weighting_of(options.weighting, frames, first, options.power, device)
    members = load_members(options.init, len(names)) if options.init else build_members(len(names), options.seed)
    trained = train_members(members, frames, weighting, replace(training, name=options.weighting))
    if not trained.done:
        print(f"{len(trained.losses)} of {options.steps} steps are done: the same command goes on")
        return
    write_members(members, options.output)
    doubt = uncertainty_on(members, frames.data.images, device)
    networks = (*BACKBONES, "ensemble")
    measured = measure_networks(members, val, names, [one["mean"] for one in doubt], device)
    log = {
        "command": command_line(arguments),
        "weighting": options.weighting,
        "power": options.power,
        "backbones": BACKBONES,
        "frame": list(val.labels.shape[1:]),
        "seed": options.seed,
        "steps": len(trained.losses),
        "epochs": round(len(trained.losses) * RECIPE.batch / len(data.images), 1),
        "minutes": round(trained.minutes, 1),
        "final_loss": round(trained.final_loss, 4),
        "train_uncertainty_bits": dict(zip(networks, doubt, strict=True)),
        "val": dict(zip(networks, measured, strict=True)),
    }
    write_json(options.output / "ensemble.json", log)
    print(json.dumps(log, indent=2))


if __name__ == "__main__":
    main()
