"""The ensembles that X8 and X9 look at: trained on CamVid by day, tested by day and at dusk.

All start from three networks that were trained once with mild class weights, and are trained on with one of the
weightings: from fresh weights, networks as small and as briefly trained as these never name a rare class without
weights, and there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ensemble import (
    BACKBONES,
    RECIPE,
    WEIGHTINGS,
    Frames,
    build_members,
    inverse_shares,
    load_members,
    shrink,
    train_members,
    weighting_of,
    write_members,
)
from ensemble_measure import uncertainty_on
from files import write_json
from street_data import Data, load_camvid
from torch import nn
from trainer import Schedule, TrainOptions

from cascadert.classes import CAMVID
from experiments.experiment import Context

NAMES = CAMVID.names
RARE = ("pole", "sign", "fence", "pedestrian", "bicyclist")
NETWORKS = (*BACKBONES, "ensemble")
SCALE = 0.4
BASE_SEED, BASE_BALANCE, BASE_RATE, RATE = 100, 0.5, 3e-3, 1e-3
EVERY = 4  # of the training frames tell how uncertain a network is on them; neighbours are a second apart
DUSK = "0001TP"  # of the three sequences among the training frames the only one that was not filmed by day

DEVIATIONS = (
    "DeepLabV3+ with narrow ResNet-18, -34 and -50 (MobileNetV2 is three times as dear to train on a CPU) in the place "
    "of MobileNetV2, ResNet-50 and ResNet-101; no pretrained weights.",
    f"CamVid at {SCALE:g} of its size (144 x 192 pixels), crops of {RECIPE.crop[0]} x {RECIPE.crop[1]}, in the place "
    "of ACDC; measured at that size.",
    f"The mean uncertainty on the training frames, the threshold of PAvPU, is that of every {EVERY}th of them.",
    "All ensembles start from the same three networks, trained once on the same frames with class weights "
    f"share^-{BASE_BALANCE:g}; the weightings come after that. From fresh weights, 400 steps without weights or with "
    "approach 1 left the IoU of all five rare classes at exactly 0 (one seed; inverse weights: 4 to 15 %), which "
    "compares nothing. A seed is one of batches, augmentation and dropout, so its spread leaves out that of the start.",
    "The three members of an ensemble see the same batches, and so do all weightings of a seed, which are compared in "
    "pairs.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=3, help="ensembles of each weighting (%(default)s)")
    parser.add_argument("--base-steps", type=int, default=800, help="of the common start (%(default)s)")
    parser.add_argument("--steps", type=int, default=160, help="of each weighting after it (%(default)s)")


@dataclass(frozen=True)
class Split:
    """Shrunk frames: to train on, to test on, and to test on after a shift of the domain."""

    train: Frames
    val: Data
    dusk: Data

    @classmethod
    def of(cls, root: Path) -> Split:
        """Hold the dusk sequence out of CamVid's training frames."""
        every, val = (shrink(load_camvid(root, split), SCALE) for split in ("train", "val"))
        names = sorted(path.name for path in (root / "images" / "train").iterdir())
        dusk = torch.tensor([name.startswith(DUSK) for name in names])
        if not dusk.any() or dusk.all():
            raise SystemExit(f"{root}: no frames {DUSK}* beside others among images/train; take CamVid's own names")
        by_day = Data(every.images[~dusk], every.labels[~dusk])
        return cls(Frames.of(by_day, len(NAMES)), val, Data(every.images[dusk], every.labels[dusk]))


@dataclass(frozen=True)
class Run:
    """A trained ensemble. ``uncertainty`` is that on training frames, by network; see `uncertainty_on`."""

    seed: int
    weighting: str
    members: nn.ModuleList
    uncertainty: dict[str, dict[str, Any]]

    def thresholds_bits(self) -> list[float]:
        """Mean uncertainty on the training frames of each of `NETWORKS`: the threshold of PAvPU."""
        return [self.uncertainty[name]["mean"] for name in NETWORKS]


def ensembles(context: Context, split: Split) -> Iterator[Run]:
    """Every weighting with every seed; what is not in the folder of weights is trained."""
    options = context.options
    for seed in range(options.seeds):
        for weighting in WEIGHTINGS:
            yield _find(context, split, seed, weighting)


def _start(context: Context, split: Split) -> Path:
    """Folder of the networks that every run starts from, trained with mild class weights."""
    options, device = context.options, torch.device(context.options.device)
    folder = context.work.parent / f"ensembles-{options.base_steps}" / "base"
    if not (folder / "ensemble.json").exists():
        members = build_members(len(NAMES), BASE_SEED)
        weights = inverse_shares(split.train, BASE_BALANCE, device)
        schedule = Schedule(options.base_steps, BASE_RATE)
        training = TrainOptions(schedule, BASE_SEED, options.device, None, folder / "checkpoint", "base")
        trained = train_members(members, split.train, weights, training)
        write_members(members, folder)
        write_json(folder / "ensemble.json", {"losses": trained.losses, "minutes": trained.minutes})
    return folder


def _find(context: Context, split: Split, seed: int, weighting: str) -> Run:
    options, base = context.options, _start(context, split)
    every = base.parent / f"{options.steps}-more" / f"seed-{seed}"
    folder, device = every / weighting, torch.device(options.device)
    log = folder / "ensemble.json"
    if not log.exists():
        members = load_members(base, len(NAMES))
        first = load_members(every / "none", len(NAMES)) if weighting == "approach-1" else None
        weights = weighting_of(weighting, split.train, first, 1.0, device)
        name = f"{weighting}, seed {seed}"
        training = TrainOptions(Schedule(options.steps, RATE), seed, options.device, None, folder / "checkpoint", name)
        trained = train_members(members, split.train, weights, training)
        write_members(members, folder)
        doubt = uncertainty_on(members, split.train.data.images[::EVERY], device)
        found = {"losses": trained.losses, "minutes": trained.minutes, "final_loss": trained.final_loss}
        write_json(log, {**found, "uncertainty": dict(zip(NETWORKS, doubt, strict=True))})
    members = load_members(folder, len(NAMES)).to(device)
    return Run(seed, weighting, members, json.loads(log.read_text())["uncertainty"])
