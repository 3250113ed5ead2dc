"""X13: what early exits learn from the final one, by cross entropy, distillation, and positive filtering (paper 004).

For each seed one pass over the frozen backbone of the CamVid example trains three sets of fresh FCN heads on the same
batches from the same weights: CE, CE + KD, PFD. The supplement shows pictures (figure 8) and gives no numbers, so the
rules are: PFD is better where the paired difference of mIoU, the mean over the early exits, lies above 0 by two
standard errors over seeds (`verdict_of`); and the same for the share of the final exit's mistakes that heads get right.
"""

from __future__ import annotations

import copy
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from distillation import LOSSES, ExitLoss
from street_data import class_weights, load_camvid
from torch import Tensor, nn
from trainer import Schedule

from cascadert.calibration.plots import make_figure, styled
from cascadert.export.models.exit_head import ExitHead, exit_network
from experiments.exits_heads import HeadRecords, Trained, record, shipped, train_or_find
from experiments.experiment import Context, Experiment, Finding, Outcome, verdict_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 1, 2)
SCHEDULE = Schedule(steps=250)
_COLOURS = {"ce": "#7a828e", "kd": "#c2541d", "pfd": "#1f6fb2"}
_LABELS = {"ce": "CE", "kd": "CE + KD", "pfd": "PFD"}


def head_sets(trained: Trained, seed: int) -> nn.ModuleList:
    """Fresh FCN heads, the same for each loss: those of the first loss, then those of the second, ..."""
    torch.manual_seed(seed)
    classes = len(trained.names)
    one = [exit_network(trained.channels(i), classes, ExitHead()) for i in range(trained.early)]
    return nn.ModuleList(copy.deepcopy(head) for _ in LOSSES for head in one)


def run(context: Context) -> Outcome:
    trained = shipped()
    frames, val = load_camvid(context.camvid, "train"), load_camvid(context.camvid, "val")
    weights = class_weights(frames.labels, len(trained.names), trained.recipe.balance)
    losses = [ExitLoss(kind, weights) for kind in LOSSES]

    def loss(index: int, logits: Tensor, final: Tensor, labels: Tensor) -> Tensor:
        return losses[index // trained.early](logits, final, labels)

    found = []
    for seed in SEEDS:
        heads = head_sets(trained, seed)
        train_or_find(heads, context.work / f"heads{seed}.safetensors", trained, loss, frames, SCHEDULE, seed)
        found.append(_numbers(record(trained, list(heads), val)))
    return Outcome(
        findings=findings(found),
        numbers={"steps": SCHEDULE.steps, "by_seed": dict(zip(map(str, SEEDS), found, strict=True))},
        deviations=(
            "ResNet-18 of a quarter of the width on CamVid at half resolution, in the place of ResNet-50 on MS COCO",
            f"{SCHEDULE.steps} steps of AdamW with a cosine in the place of 60,000 of SGD; classes are weighed",
            "the form of PFD is ours where the supplement is silent: (1 - α) CE + α KL where the final exit is right, "
            "CE elsewhere; α = 0.5 is the paper's, temperature 1",
            "plain FCN heads only, at three exits",
        ),
        seeds=SEEDS,
        figure=lambda: plot(found),
    )


def _numbers(records: HeadRecords) -> dict[str, Any]:
    by_loss = dict[str, Any]()
    for place, kind in enumerate(LOSSES):
        early = (len(records.confusion) - 1) // len(LOSSES)
        mine = slice(place * early, (place + 1) * early)
        by_loss[kind] = {
            "miou_by_exit": records.miou()[mine].tolist(),
            "right_where_final_is_wrong": list(records.right[mine]),
            "as_final_where_it_is_wrong": list(records.same[mine]),
        }
    return {"final_miou": float(records.miou()[-1]), **by_loss}


def findings(found: list[dict[str, Any]]) -> tuple[Finding, ...]:
    """Judge the numbers of each seed; see the module."""

    def mean(one: dict[str, Any], kind: str, key: str) -> float:
        return 100 * fmean(one[kind][key])

    def judge(other: str, key: str) -> tuple[str, list[float]]:
        differences = [mean(one, "pfd", key) - mean(one, other, key) for one in found]
        average = {kind: fmean(mean(one, kind, key) for one in found) for kind in ("pfd", other)}
        by_seed = ", ".join(f"{d:+.2f}" for d in differences)
        return f"PFD {average['pfd']:.2f}, {_LABELS[other]} {average[other]:.2f}; by seed {by_seed}", differences

    made = []
    for other in ("ce", "kd"):
        text, differences = judge(other, "miou_by_exit")
        claim = (
            f"PFD makes early exits better than {_LABELS[other]} does (supplement, section 4 and fig. 8: pictures only)"
        )
        made.append(Finding(claim, f"mIoU, mean of the early exits: {text} points", verdict_of(differences)))
    text, differences = judge("kd", "right_where_final_is_wrong")
    claim = "PFD avoids contradicting signals: early exits can be right where the final exit is wrong (fig. 8)"
    text = f"share of the final exit's mistakes that early exits get right, %: {text}"
    return (*made, Finding(claim, text, verdict_of(differences)))


def plot(found: list[dict[str, Any]]) -> Figure:
    """Difference to CE at each exit, a mark for each seed; and what heads do where the final exit is wrong."""
    figure = make_figure(height=3.6)
    left, right = figure.subplots(1, 2)
    exits = np.arange(len(found[0]["ce"]["miou_by_exit"]))
    styled(left, "y").axhline(0, color=_COLOURS["ce"], linewidth=1, label="CE")
    for shift, kind in ((-0.12, "kd"), (0.12, "pfd")):
        gains = np.array([np.subtract(one[kind]["miou_by_exit"], one["ce"]["miou_by_exit"]) for one in found])
        for gain in 100 * gains:
            left.scatter(exits + shift, gain, s=22, color=_COLOURS[kind], alpha=0.6)
        left.scatter(exits + shift, 100 * gains.mean(0), s=170, marker="_", color=_COLOURS[kind], label=_LABELS[kind])
    left.set_xticks(exits, [f"exit {i + 1}" for i in exits])
    left.set_ylabel("mIoU against CE, points")
    left.legend(frameon=False, fontsize=9)
    for shift, kind in zip((-0.25, 0, 0.25), LOSSES, strict=True):
        shares = 100 * np.array([one[kind]["right_where_final_is_wrong"] for one in found]).mean(0)
        styled(right, "y").bar(exits + shift, shares, 0.23, color=_COLOURS[kind], label=_LABELS[kind])
    right.set_xticks(exits, [f"exit {i + 1}" for i in exits])
    right.set_ylabel("final exit's mistakes that are right here, %")
    return figure


EXPERIMENT = Experiment(
    name="x13",
    title="Positive filtering distillation of early exits",
    data="CamVid val",
    run=run,
    minutes=(1.0, 7.0),
)
