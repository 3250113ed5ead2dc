"""Trains a network with exits in two stages (paper 004), on CamVid or on scenes.

    python recipes/exits.py --data camvid --root CAMVID --stage 1 -o out/exits
    python recipes/exits.py --data camvid --root CAMVID --stage 2 --loss pfd --init out/exits/multi_exit.safetensors \
        -o examples/camvid/weights

Stage 1 trains everything together. Exit i joins in every i-th batch, the final one in all of them ("round-robin exit
dropping"), so that no single head shapes the backbone. Stage 2 freezes the backbone and the final exit and trains the
heads before it, with what the final exit knows (`--loss pfd`). The network is the one of the specification's
[[networks]]. Writes multi_exit.safetensors and multi_exit.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from distillation import LOSSES
from exit_stages import build, recipe_of, train_distilled, train_together
from files import load_weights, save_weights, write_json
from measure import evaluate
from street_data import Data, Recipe, add_data_arguments, load
from trainer import add_training_arguments, command_line, training_options

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models.multi_exit import MultiExit
from cascadert.spec import load_spec

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS = {1: 3000, 2: 600}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a network with exits.")
    add_data_arguments(parser)
    parser.add_argument("--spec", type=Path, help="specification with one network (examples/DATA/multi-exit.toml)")
    parser.add_argument("--stage", type=int, choices=(1, 2), required=True, help="1: all together, 2: heads alone")
    parser.add_argument("--loss", choices=LOSSES, default="pfd", help="of stage 2 (%(default)s)")
    parser.add_argument("--init", type=Path, help="weights (safetensors) to start from; stage 2 needs those of stage 1")
    add_training_arguments(parser, 0)
    options = parser.parse_args(arguments)
    options.steps = options.steps or STEPS[options.stage]
    options.spec = options.spec or EXAMPLES / options.data / "multi-exit.toml"
    if options.stage == 2 and options.init is None:
        parser.error("--stage 2 trains heads on a trained backbone: give --init, weights that --stage 1 wrote")
    return options


def _log_beside(weights: Path | None) -> dict[str, Any] | None:
    """What is known of the weights that a run started from: how they were made, and what they gave."""
    log = None if weights is None else weights.with_suffix(".json")
    if log is None or not log.exists():
        return None
    kept = ("command", "stage", "seed", "minutes", "steps", "epochs", "val_miou_by_exit", "before")
    return {name: value for name, value in json.loads(log.read_text()).items() if name in kept}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    spec, training = load_spec(options.spec), training_options(options, "multi_exit")
    (frames, _), (val, _) = load(options, "train"), load(options, "val")
    names = spec.classes.names
    network, recipe = build(spec, options.spec.parent), recipe_of(spec)
    if options.init:
        load_weights(network, options.init)
    if options.stage == 1:
        trained = train_together(network, frames, recipe, len(names), training)
    else:
        trained = train_distilled(network, options.loss, frames, recipe, len(names), training)
    if not trained.done:
        print(f"{len(trained.losses)} of {options.steps} steps are done: the same command goes on")
        return
    path, before = options.output / "multi_exit.safetensors", _log_beside(options.init)
    save_weights(network, path)
    load_weights(network, path)  # measure the file that ships, rounding included
    log: dict[str, Any] = {
        "command": command_line(arguments),
        "stage": options.stage,
        "loss": options.loss if options.stage == 2 else "ce",
        "seed": options.seed,
        "recipe": asdict(recipe),
        "device": f"{options.device}, {options.threads} threads",
        "torch": torch.__version__,
        "minutes": round(trained.minutes, 1),
        "steps": len(trained.losses),
        "epochs": round(len(trained.losses) * recipe.batch / len(frames.images), 1),
        "final_loss": round(trained.final_loss, 4),
        **_measure(network.eval(), val, recipe, names, torch.device(options.device)),
        **({} if before is None else {"before": before}),
    }
    write_json(path.with_suffix(".json"), log)
    print(json.dumps(log, indent=2))


def _measure(
    network: MultiExit, val: Data, recipe: Recipe, names: tuple[str, ...], device: torch.device
) -> dict[str, object]:
    exits = [network.budgeted(index) for index in range(len(network.exits))]
    return {
        "parameters": count_parameters(network),
        "macs_per_crop": [count_macs(each, (1, 3, *recipe.crop)) for each in exits],
        "val_frames": len(val.images),
        "val_miou_by_exit": [evaluate(each, val, recipe, names, device)["miou"] for each in exits],
    }


if __name__ == "__main__":
    main()
