"""One network on its own: the loss of `fast.py` and `accurate.py`, what they write, and their command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from files import load_weights, save_weights, write_json
from measure import evaluate, resize
from street_data import IGNORE, Recipe, add_data_arguments, class_weights, draw, load
from torch import nn
from torch.nn import functional
from trainer import Batch, add_training_arguments, command_line, train, training_options

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import NETWORKS


def parse(
    description: str,
    steps: int,
    arguments: list[str] | None,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """Parse what every recipe of one network takes, and ``more``."""
    parser = argparse.ArgumentParser(description=description)
    add_data_arguments(parser)
    add_training_arguments(parser, steps)
    parser.add_argument("--init", type=Path, help="weights (safetensors) to start from")
    if more is not None:
        more(parser)
    return parser.parse_args(arguments)


def train_single(name: str, recipe: Recipe, options: argparse.Namespace, arguments: list[str] | None) -> None:
    """Train network ``name`` with cross entropy; write its weights and a log of what they give on validation frames."""
    training = training_options(options, name)
    (frames, names), (val, _) = load(options, "train"), load(options, "val")
    network: nn.Module = NETWORKS[name](len(names))
    if options.init:
        load_weights(network, options.init)
    weights = class_weights(frames.labels, len(names), recipe.balance).to(options.device)

    def loss(batch: Batch, step: int) -> torch.Tensor:
        pixels, labels = batch
        return functional.cross_entropy(resize(network(pixels), recipe.crop), labels, weights, ignore_index=IGNORE)

    def batch(rng: np.random.Generator) -> Batch:
        return draw(frames, recipe, rng)

    trained = train(network, batch, loss, training)
    if not trained.done:
        print(f"{len(trained.losses)} of {options.steps} steps are done: the same command goes on")
        return
    path = options.output / f"{name.replace('-', '_')}.safetensors"
    save_weights(network, path)
    load_weights(network, path)  # measure the file that ships, rounding included
    device = torch.device(options.device)
    log: dict[str, object] = {
        "command": command_line(arguments),
        "network": name,
        "classes": len(names),
        "parameters": count_parameters(network),
        "macs_per_crop": count_macs(network, (1, 3, *recipe.crop)),
        "recipe": asdict(recipe),
        "seed": options.seed,
        "device": f"{device.type}, {options.threads} threads",
        "torch": torch.__version__,
        "minutes": round(trained.minutes, 1),
        "steps": len(trained.losses),
        "epochs": round(len(trained.losses) * recipe.batch / len(frames.images), 1),
        "final_loss": round(trained.final_loss, 4),
        "val_frames": len(val.images),
        "val_whole_frame": evaluate(network, val, recipe, names, device),
    }
    if recipe.block:
        log["val_blocks"] = evaluate(network, val, recipe, names, device, blocks=True)
    write_json(path.with_suffix(".json"), log)
    print(json.dumps(log, indent=2))
