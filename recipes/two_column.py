r"""Trains a two-column network end to end (paper 003, ISCTF), on CamVid or on scenes.

    python recipes/two_column.py SPEC.toml --data camvid --root CAMVID -o out/two-column

SPEC.toml is a specification as examples/two-column-model-a.toml: its frame is the size of what the network sees, its
network is trained, and the k of its top-k policy is the number of regions of the recorded mIoU. Each step runs what the
exported stages run: the half column, the other column's backbone on the chosen regions alone, and the fusion. Writes
two_column.safetensors and two_column.json.

The loss is that of sections 3.3 and 3.4: cross entropy of the fused result, of the half column's own scores and of the
full-resolution column's own scores, and lambda times the sparsity loss.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from files import load_weights, save_weights, write_json
from measure import evaluate, resize
from safetensors.torch import load_file
from sparsity import SparsityLoss
from street_data import IGNORE, Data, Recipe, add_data_arguments, class_weights, draw, load
from torch import Tensor, nn
from torch.nn import functional
from trainer import Batch, Trained, TrainOptions, add_training_arguments, command_line, train, training_options
from two_column_inference import FastInference, segment, top_regions

from cascadert.export.macs import count_parameters
from cascadert.export.models.two_column import TwoColumn
from cascadert.export.networks import build_network
from cascadert.spec import CascadeSpec, TopKPolicy, load_spec

MaskRule = Literal["top-k", "threshold"]

ZOOM = (0.85, 1.6)
LOSS_STRIDE = 4
"""The paper predicts labels at a quarter of the resolution (section 4.2); there the loss is taken."""


@dataclass(frozen=True)
class Sparsity:
    """How regions are chosen in training.

    Attributes:
        share: p, the share of regions that is to be computed.
        weight: lambda of the sparsity loss; 0 with a top-k mask is the trivial winner-take-all of table 3.
        mask: "top-k": p of each image's regions; "threshold": those with sigmoid(s) > 0.5, and the best one always.
        crop: see regions each on its own, as at run time. Without it (SCTF) the backbone sees whole frames in training.
    """

    share: float = 0.25
    weight: float = 0.001
    mask: MaskRule = "top-k"
    crop: bool = True

    def choose(self, score: Tensor) -> Tensor:
        """Return the mask of raw scores `[N, 1, rows, columns]`."""
        if self.mask == "top-k":
            return top_regions(score, round(self.share * score[0].numel()))
        return torch.maximum((score > 0).to(score.dtype), top_regions(score, 1))


class Columns(nn.Module):
    """The network with the loss of its columns alone, all regions computed: what a fused network starts from."""

    def __init__(self, network: TwoColumn, weights: Tensor, crop: bool) -> None:
        super().__init__()
        self.network, self.weights, self.crop = network, weights, crop

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        """Loss, a scalar, of images `[N, 3, H, W]` and labels int64 `[N, h, w]` at any stride."""
        seen = segment(self.network, image, torch.ones_like, crop=self.crop)
        return cross_entropy(seen.half, labels, self.weights) + cross_entropy(seen.full, labels, self.weights)


class Objective(nn.Module):
    """The network with the loss that it is trained with, whose moving average belongs into a checkpoint, too."""

    def __init__(self, network: TwoColumn, weights: Tensor, sparsity: Sparsity) -> None:
        super().__init__()
        self.network, self.weights, self.settings = network, weights, sparsity
        self.sparsity = SparsityLoss(sparsity.share)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        """Loss, a scalar, of images `[N, 3, H, W]` and labels int64 `[N, h, w]` at any stride."""
        seen = segment(self.network, image, self.settings.choose, crop=self.settings.crop)
        computed = labels
        if self.settings.crop:  # elsewhere the full-resolution column saw nothing
            outside = functional.interpolate(seen.mask.float(), size=labels.shape[-2:], mode="nearest") == 0
            computed = labels.masked_fill(outside[:, 0], IGNORE)
        fitted = ((seen.fused, labels), (seen.half, labels), (seen.full, computed))
        loss = torch.stack([cross_entropy(logits, wanted, self.weights) for logits, wanted in fitted]).sum()
        sparsity: Tensor = self.sparsity(seen.score.float())
        return loss + self.settings.weight * sparsity


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over known labels `[N, h, w]` of logits `[N, K, H, W]`, which are resized; 0 if none is known."""
    enlarged = resize(logits, (labels.shape[1], labels.shape[2]))
    total = functional.cross_entropy(enlarged, labels, weights, ignore_index=IGNORE, reduction="sum")
    return total / weights[labels[labels != IGNORE]].sum().clamp_min(1)


def train_columns(network: TwoColumn, data: Data, size: tuple[int, int], sparsity: Sparsity, options: TrainOptions,
                  classes: int, *, alone: bool = False) -> Trained:  # fmt: skip
    """Train in place on crops of frames shrunk to `size` (height, width): all together, or each column `alone`."""
    recipe = recipe_of(data, size)
    weights = class_weights(data.labels, classes, recipe.balance).to(options.device)
    objective = Columns(network, weights, sparsity.crop) if alone else Objective(network, weights, sparsity)

    def batch(rng: np.random.Generator) -> Batch:
        pixels, labels = draw(data, recipe, rng)
        return pixels, labels[:, LOSS_STRIDE // 2 :: LOSS_STRIDE, LOSS_STRIDE // 2 :: LOSS_STRIDE]

    return train(objective, batch, lambda drawn, step: objective(*drawn), options)


def start_from(network: TwoColumn, path: Path) -> None:
    """Load weights of columns that were trained alone, and turn most regions on: those that help little then go off.

    Cross-column connections that they lack start at zero, and change nothing at first.

    Raises:
        SystemExit: no such file, or weights of another network.
    """
    try:
        missing, unexpected = network.load_state_dict(load_file(path), strict=False)
    except (OSError, RuntimeError) as error:
        raise SystemExit(f"{path}: {error}") from error
    wrong = [*unexpected, *(name for name in missing if ".crosses." not in name)]
    if wrong:
        raise SystemExit(f"{path}: does not fit in {', '.join(wrong)}; give weights of a network of the same columns")
    with torch.no_grad():
        for name in missing:
            network.get_parameter(name).zero_()
        assert network.half_column.sparse.bias is not None
        network.half_column.sparse.bias.fill_(1)


def recipe_of(data: Data, size: tuple[int, int]) -> Recipe:
    """The recipe for frames shrunk to `size` (height, width)."""
    return Recipe(scale=size[0] / data.labels.shape[1], crop=size, zoom=ZOOM)


def shrunk(data: Data, size: tuple[int, int]) -> Data:
    """Frames and labels at `size` (height, width), as the exported network is to see them."""
    images = [resize(image.permute(2, 0, 1)[None], size).round().byte()[0] for image in data.images]
    labels = functional.interpolate(data.labels[:, None], size=size, mode="nearest-exact")[:, 0]
    return Data(torch.stack(images).permute(0, 2, 3, 1).contiguous(), labels)


def build(spec: CascadeSpec, folder: Path) -> tuple[TwoColumn, int]:
    """The network of a specification that lies in `folder`, with fresh weights, and how many regions it computes.

    Raises:
        SystemExit: its network has no two columns, or no stage chooses the top k.
    """
    network = build_network("network", spec.networks[0], folder) if spec.networks else None
    policies = [stage.select for stage in spec.stages if isinstance(stage.select, TopKPolicy)]
    if not isinstance(network, TwoColumn) or not policies:
        remedy = "give a specification as examples/two-column-model-a.toml"
        raise SystemExit(f"{spec.name}: needs a network of two columns and a stage of policy top-k; {remedy}")
    return network.requires_grad_(True), policies[0].k


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a two-column network.")
    parser.add_argument("spec", type=Path, help="specification as examples/two-column-model-a.toml")
    add_data_arguments(parser)
    add_training_arguments(parser, 3000)
    usual = Sparsity()
    parser.add_argument("--share", type=float, default=usual.share, help="of regions to compute, p (%(default)s)")
    parser.add_argument("--sparsity", type=float, default=usual.weight, help="weight of that loss (%(default)s)")
    parser.add_argument("--mask", choices=get_args(MaskRule), default=usual.mask, help="in training (%(default)s)")
    parser.add_argument("--alone", action="store_true", help="each column on its own: weights to start from")
    parser.add_argument("--init", type=Path, help="weights (safetensors) to start from, as --alone wrote them")
    parser.add_argument("--whole", action="store_true", help="no crops in training: SCTF")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    spec, training = load_spec(options.spec), training_options(options, "two_column")
    (frames, names), (val, _) = load(options, "train"), load(options, "val")
    network, k = build(spec, options.spec.parent)
    size = (spec.frame.height, spec.frame.width)
    sparsity = Sparsity(options.share, options.sparsity, options.mask, not options.whole)
    if options.init:
        start_from(network, options.init)
    trained = train_columns(network, frames, size, sparsity, training, len(names), alone=options.alone)
    if not trained.done:
        print(f"{len(trained.losses)} of {options.steps} steps are done: the same command goes on")
        return
    path = options.output / "two_column.safetensors"
    save_weights(network, path)
    load_weights(network, path)  # measure the file that ships, rounding included
    device, recipe = torch.device(options.device), recipe_of(frames, size)
    fast = FastInference(network, k)
    log: dict[str, object] = {
        "command": command_line(arguments),
        "parameters": count_parameters(network),
        "alone": options.alone,
        "sparsity": asdict(sparsity),
        "recipe": asdict(recipe),
        "seed": options.seed,
        "device": f"{device.type}, {options.threads} threads",
        "torch": torch.__version__,
        "minutes": round(trained.minutes, 1),
        "steps": len(trained.losses),
        "epochs": round(len(trained.losses) * recipe.batch / len(frames.images), 1),
        "final_loss": round(trained.final_loss, 4),
        "val_frames": len(val.images),
        "regions": k,
        "val": evaluate(fast, shrunk(val, size), Recipe(scale=1.0, crop=size), names, device),
    }
    write_json(path.with_suffix(".json"), log)
    print(json.dumps(log, indent=2))


if __name__ == "__main__":
    main()
