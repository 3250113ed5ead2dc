"""Trains a network with exits end to end on CamVid: all segments and heads together (paper 004, first stage).

    python recipes/exits.py examples/camvid/multi-exit.toml --root CAMVID -o examples/camvid/weights

The network is the one of the specification's [[networks]]. Exit i joins in every i-th batch, the final one in all of
them ("round-robin exit dropping"), so that no single head shapes the backbone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from measure import evaluate, resize
from safetensors.torch import load_file
from street_data import IGNORE, Data, Recipe, batches, class_weights, load_camvid
from torch import Tensor
from torch.nn import functional
from train import make_optimizer, save, schedule

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models.multi_exit import MultiExit
from cascadert.export.networks import build_network
from cascadert.spec import CascadeSpec, load_spec

BATCH, LEARNING_RATE = 8, 3e-3


def recipe_of(spec: CascadeSpec) -> Recipe:
    """Crops as large as what the first stage sees of a frame."""
    first = spec.stages[0]
    return Recipe(first.scale, spec.network_input_size(first), batch=BATCH, learning_rate=LEARNING_RATE)


def round_robin(losses: list[Tensor], batch: int) -> Tensor:
    """Sum of the losses that count in a batch: of the last exit always, of exit i (from 1) in every i-th batch."""
    *early, final = losses
    return sum((loss for i, loss in enumerate(early, start=1) if batch % i == 0), start=final)


def fit(network: MultiExit, data: Data, recipe: Recipe, classes: int, minutes: float, steps: int | None) -> list[float]:
    """Train in place until time or steps are used up; return the final exit's loss of every step."""
    weights = class_weights(data.labels, classes, recipe.balance)
    network.to(memory_format=torch.channels_last).train().requires_grad_(True)  # type: ignore[call-overload]
    optimizer, losses, start = make_optimizer(network, recipe), list[float](), time.monotonic()
    for pixels, labels in batches(data, recipe, np.random.default_rng(0)):
        elapsed_minutes = (time.monotonic() - start) / 60
        progress = max(elapsed_minutes / minutes, len(losses) / steps if steps else 0.0)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(len(losses), progress)
        with torch.autocast("cpu", torch.bfloat16):
            answers = network(pixels.to(memory_format=torch.channels_last))
        each = [
            functional.cross_entropy(resize(logits, recipe.crop), labels, weights, ignore_index=IGNORE)
            for logits in answers
        ]
        optimizer.zero_grad()
        round_robin(each, len(losses)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(each[-1].item())
        if len(losses) % 50 == 0:
            print(f"step {len(losses):5d}  {elapsed_minutes:5.1f} min  loss {sum(losses[-50:]) / 50:.4f}", flush=True)
    return losses


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a network with exits.")
    parser.add_argument("spec", type=Path, help="specification with one network in [[networks]]")
    parser.add_argument("--root", type=Path, required=True, help="CamVid folder with images/ and labels/")
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit; sets the schedule")
    parser.add_argument("--steps", type=int, help="stop after so many steps, if that is earlier")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for weights and log")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    spec = load_spec(options.spec)
    train, val = (load_camvid(options.root, split) for split in ("train", "val"))
    recipe, names = recipe_of(spec), spec.classes.names
    network = build_network("network", spec.networks[0], options.spec.parent)
    assert isinstance(network, MultiExit)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "multi_exit.safetensors"

    start = time.monotonic()
    losses = fit(network, train, recipe, len(names), options.minutes, options.steps)
    minutes = (time.monotonic() - start) / 60
    save(network, path)
    network.load_state_dict(load_file(path))  # measure the file that ships, rounding included
    network.eval()
    exits = [network.budgeted(index) for index in range(len(network.exits))]
    log = {
        "command": shlex.join(["python", *sys.argv] if arguments is None else arguments),
        "parameters": count_parameters(network),
        "macs_per_crop": [count_macs(each, (1, 3, *recipe.crop)) for each in exits],
        "recipe": asdict(recipe),
        "device": f"cpu, {options.threads} threads",
        "torch": torch.__version__,
        "minutes": round(minutes, 1),
        "steps": len(losses),
        "epochs": round(len(losses) * recipe.batch / len(train.images), 1),
        "final_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "val_frames": len(val.images),
        "val_miou_by_exit": [evaluate(each, val, recipe, names, torch.device("cpu"))["miou"] for each in exits],
    }
    path.with_suffix(".json").write_text(json.dumps(log, indent=2) + "\n")
    print(json.dumps(log, indent=2))


if __name__ == "__main__":
    main()
