"""The training loop of every recipe: steps, a cosine, checkpoints to go on from, and a log.

Step i draws its batch and its dropout from (seed, i) alone, so a run that was stopped and started again gives the
same weights as one that was not, on the same machine with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from checkpoints import Checkpoint
from step_bar import StepBar
from torch import Tensor, nn

CHECKPOINT_MINUTES = 2.0

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Schedule:
    """AdamW with a linear warm-up and a cosine to zero; kernels decay, vectors do not."""

    steps: int
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warm_up: int = 50

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (from 0)."""
        warm = min(1.0, (step + 1) / self.warm_up)
        return self.learning_rate * warm * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class TrainOptions:
    """How a run is done.

    Attributes:
        schedule: see `Schedule`.
        seed: of batches, augmentation and dropout; the caller seeds the weights.
        device: "cpu" or "cuda".
        minutes: stop then, with a checkpoint; the next run goes on from there.
        checkpoint: safetensors file to go on from and to write every two minutes; removed when all steps are done.
        name: what the progress bar says.
        bfloat16: autocast of the module; losses are computed in float32 all the same.
        settings: what else makes this run another one than the next: a checkpoint of other settings is refused.
    """

    schedule: Schedule
    seed: int = 0
    device: str = "cpu"
    minutes: float | None = None
    checkpoint: Path | None = None
    name: str = "train"
    bfloat16: bool = True
    settings: str = ""


@dataclass(frozen=True)
class Trained:
    """The loss of every step, the minutes that they took, and whether those were all steps."""

    losses: tuple[float, ...]
    minutes: float
    done: bool

    @property
    def final_loss(self) -> float:
        """Mean of the last 50 steps."""
        return sum(self.losses[-50:]) / len(self.losses[-50:])


def train(
    module: nn.Module,
    batch: Callable[[np.random.Generator], Batch],
    loss: Callable[[Batch, int], Tensor],
    options: TrainOptions,
) -> Trained:
    """Train in place.

    Args:
        module: what is trained and put in training mode. What stays frozen is no part of it: ``loss`` closes over it.
        batch: draws a batch from a generator.
        loss: scalar loss of a batch (on the device) at a step (from 0); it calls the module, under autocast.
        options: see `TrainOptions`.

    Raises:
        SystemExit: a checkpoint of another seed or schedule.
    """
    device = torch.device(options.device)
    module.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = _make_optimizer(module, options.schedule)
    checkpoint = None if options.checkpoint is None else Checkpoint(options.checkpoint, _identity(options))
    losses, before = ([], 0.0) if checkpoint is None else checkpoint.load(module, optimizer)
    if losses:
        print(f"{options.name}: going on from step {len(losses)}", flush=True)
    start = saved = time.monotonic()
    steps = range(len(losses), options.schedule.steps)
    with StepBar(options.name, options.schedule.steps, len(losses)) as advance:
        for step in steps:
            now = time.monotonic()
            if options.minutes is not None and (now - start) / 60 >= options.minutes:
                break
            losses.append(_step(module, optimizer, batch, loss, options, step))
            advance(losses, before + (now - start) / 60)
            if checkpoint is not None and now - saved > 60 * CHECKPOINT_MINUTES:
                checkpoint.save(module, optimizer, losses, before + (now - start) / 60)
                saved = now
    minutes, done = before + (time.monotonic() - start) / 60, len(losses) == options.schedule.steps
    if checkpoint is not None:
        if done:
            checkpoint.path.unlink(missing_ok=True)
        else:
            checkpoint.save(module, optimizer, losses, minutes)
    return Trained(tuple(losses), minutes, done)


def _step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[np.random.Generator], Batch],
    loss: Callable[[Batch, int], Tensor],
    options: TrainOptions,
    step: int,
) -> float:
    device = torch.device(options.device)
    tensors = batch(np.random.default_rng([options.seed, step]))
    torch.manual_seed(options.seed * 1_000_003 + step)
    for group in optimizer.param_groups:
        group["lr"] = options.schedule.rate(step)
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16):
        value = loss(tuple(_moved(tensor, device) for tensor in tensors), step)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value.item()


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    moved = tensor.to(device)
    return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved


def _make_optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=schedule.learning_rate)


def _identity(options: TrainOptions) -> str:
    content = {"seed": options.seed, "schedule": asdict(options.schedule), "settings": options.settings}
    return json.dumps(content, sort_keys=True)


def add_training_arguments(parser: argparse.ArgumentParser, steps: int) -> None:
    """Arguments that `training_options` reads, and -o."""
    parser.add_argument("--steps", type=int, default=steps, help="length of the schedule (%(default)s)")
    parser.add_argument("--minutes", type=float, help="stop then; the same command goes on from there")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for weights and log")


def training_options(options: argparse.Namespace, name: str) -> TrainOptions:
    """What the command line asks for; also seeds torch and sets its threads."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    schedule = Schedule(options.steps, options.learning_rate)
    checkpoint = options.output / f"{name}.checkpoint"
    # Where a run is kept, how long it may take and where it runs do not make it another one.
    settings = {n: str(v) for n, v in vars(options).items() if n not in ("output", "minutes", "threads", "device")}
    return TrainOptions(
        schedule,
        options.seed,
        options.device,
        options.minutes,
        checkpoint,
        name,
        settings=json.dumps(settings, sort_keys=True),
    )


def command_line(arguments: Iterable[str] | None) -> str:
    """The command that is running, for its log."""
    return shlex.join(["python", *sys.argv] if arguments is None else list(arguments))
