"""Trains the fast (ENet) and the accurate (small PSPNet) network of a cascade, on CamVid or on scenes.

    python recipes/train.py --data camvid --root CAMVID --network enet -o examples/camvid/weights

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
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from measure import evaluate, resize
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from street_data import IGNORE, RECIPES, Data, Recipe, add_data_arguments, batches, class_weights, load
from torch import nn
from torch.nn import functional

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import NETWORKS

WARM_UP_STEPS = 50
CHECKPOINT_MINUTES = 3.0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network of a cascade.")
    add_data_arguments(parser)
    parser.add_argument("--minutes", type=float, default=20.0, help="time limit; sets the schedule")
    parser.add_argument("--steps", type=int, help="stop after so many steps, if that is earlier")
    parser.add_argument("--init", type=Path, help="weights (safetensors) to start from")
    parser.add_argument("--learning-rate", type=float, help="peak, in place of the recipe's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for weights and log")
    return parser.parse_args(arguments)


def save(network: nn.Module, path: Path) -> None:
    """Writes safetensors: kernels as float16 to halve the file, vectors and statistics as they are.

    Batch-norm variances can lie below what float16 holds, so only tensors of two axes and more are rounded.
    """
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).contiguous().cpu()
        for name, tensor in network.state_dict().items()
    }
    partial = path.with_suffix(".partial")
    partial.write_bytes(serialise(tensors))
    os.replace(partial, path)


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW that decays kernels only."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def schedule(step: int, progress: float) -> float:
    """Share of the peak learning rate: linear warm-up in steps, cosine in ``progress`` (0..1)."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (1 + math.cos(math.pi * progress)) / 2


def fit(
    network: nn.Module,
    data: Data,
    recipe: Recipe,
    classes: int,
    checkpoint: Path,
    *,
    minutes: float,
    steps: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> list[float]:
    """Trains in place until time or steps are used up, with checkpoints; returns the loss of every step."""
    device = device or torch.device("cpu")
    weights = class_weights(data.labels, classes, recipe.balance).to(device)
    network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(network, recipe)
    losses: list[float] = []
    start = saved = time.monotonic()
    for pixels, labels in batches(data, recipe, np.random.default_rng(seed)):
        elapsed_minutes = (time.monotonic() - start) / 60
        progress = max(elapsed_minutes / minutes, len(losses) / steps if steps else 0.0)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(len(losses), progress)
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(pixels.to(device, memory_format=torch.channels_last))
        loss = functional.cross_entropy(resize(logits, recipe.crop), labels.to(device), weights, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            recent = sum(losses[-50:]) / 50
            print(f"step {len(losses):5d}  {elapsed_minutes:5.1f} min  loss {recent:.4f}", flush=True)
        if time.monotonic() - saved > 60 * CHECKPOINT_MINUTES:
            save(network, checkpoint)
            saved = time.monotonic()
    save(network, checkpoint)
    return losses


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, names = load(options, "train")
    val, _ = load(options, "val")
    recipe = RECIPES[options.data, options.network]
    if options.learning_rate:
        recipe = replace(recipe, learning_rate=options.learning_rate)
    network = NETWORKS[options.network](len(names))
    if options.init:
        network.load_state_dict(load_file(options.init))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{options.network.replace('-', '_')}.safetensors"

    start = time.monotonic()
    losses = fit(
        network, train, recipe, len(names), path,
        minutes=options.minutes, steps=options.steps, seed=options.seed, device=device,
    )  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    network.load_state_dict(load_file(path))  # measure the file that ships, rounding included

    log: dict[str, object] = {
        "command": shlex.join(["python", *sys.argv] if arguments is None else arguments),
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
        "val_whole_frame": evaluate(network, val, recipe, names, device),
    }
    if recipe.block:
        log["val_blocks"] = evaluate(network, val, recipe, names, device, blocks=True)
    path.with_suffix(".json").write_text(json.dumps(log, indent=2) + "\n")
    print(json.dumps(log, indent=2))


if __name__ == "__main__":
    main()
