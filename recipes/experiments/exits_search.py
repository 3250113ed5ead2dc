"""Uniform FCN heads against heads that the search may choose (paper 004): trained alike, planned by the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cascadert.calibration.exit_search import pareto
from cascadert.calibration.exits import (
    Candidate,
    ExitCosts,
    ExitPlan,
    ExitRecords,
    run_plan,
    undominated_heads,
)
from cascadert.export.macs import count_macs
from cascadert.export.models.exit_head import ExitHead, exit_network
from experiments.exits_heads import HeadRecords, Trained

OPTIONS = {
    "fcn": ExitHead(),
    "fcn, 1 block": ExitHead(blocks=1),
    "fcn, 2 blocks, rapid": ExitHead(blocks=2, rapid_dilation=True),
    "deeplab": ExitHead(head="deeplab"),
}
DEEPLAB_CHANNELS = 32
FOLDS = 4
SPEED_UPS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5)
"""Budgets: the final exit's multiply-adds over these (the paper: 1 to 4.5 times less latency)."""


def candidate_heads(trained: Trained, seed: int) -> nn.ModuleList:
    """Fresh heads: the first option at every early exit, then the second, ..."""
    torch.manual_seed(seed)
    classes = len(trained.names)
    return nn.ModuleList(
        exit_network(trained.channels(i), classes, option, DEEPLAB_CHANNELS)
        for option in OPTIONS.values()
        for i in range(trained.early)
    )


def costs(
    trained: Trained, heads: Sequence[nn.Module], frame: tuple[int, int]
) -> tuple[tuple[Candidate, ...], ExitCosts]:
    """Candidates by their multiply-adds on a frame, in the place of milliseconds; the final exit is the last."""
    x = torch.empty(1, 3, round(frame[0] * trained.recipe.scale), round(frame[1] * trained.recipe.scale))
    shapes, segments = [], []
    with torch.inference_mode():
        for segment in trained.network.segments:
            segments.append(count_macs(segment, tuple(x.shape)) / 1e6)
            x = segment(x)
            shapes.append(tuple(x.shape))
    names = [name for name in OPTIONS for _ in range(trained.early)]
    found = [
        Candidate(f"exit {i % trained.early + 1}, {name}", i % trained.early + 1,
                  count_macs(head, shapes[i % trained.early]) / 1e6)
        for i, (name, head) in enumerate(zip(names, heads, strict=True))
    ]  # fmt: skip
    final = Candidate("final", trained.early + 1, count_macs(trained.network.exits[-1], shapes[-1]) / 1e6)
    return (*found, final), ExitCosts(tuple(segments))


@dataclass(frozen=True)
class Comparison:
    """mIoU on images that did not choose, at each of `SPEED_UPS`, mean over folds; and cost at equal mIoU.

    Attributes:
        uniform: with FCN heads only.
        searched: with all options.
        cost_ratio: multiply-adds of uniform over those of searched plans of the same mIoU, on the images that choose.
        chosen: heads of the searched plans of the first fold, by budget.
    """

    uniform: tuple[float, ...]
    searched: tuple[float, ...]
    cost_ratio: float
    chosen: tuple[tuple[str, ...], ...]


def compare(candidates: tuple[Candidate, ...], exit_costs: ExitCosts, found: HeadRecords) -> Comparison:
    """Search both spaces on three images of four and judge on the fourth, for each of the four choices of these."""
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].point)
    ordered = tuple(candidates[i] for i in order)
    images = found.confusion.shape[1]
    judged = np.zeros((2, FOLDS, len(SPEED_UPS)))
    ratios, chosen = list[float](), list[tuple[str, ...]]()
    alone = exit_costs.reached_ms[-1] + ordered[-1].head_ms

    def records(kept: list[int]) -> ExitRecords:
        return ExitRecords.from_confusion(ordered, found.confidence[order][:, kept], found.confusion[order][:, kept])

    for fold in range(FOLDS):
        seen = records([i for i in range(images) if i % FOLDS != fold])
        held = records([i for i in range(images) if i % FOLDS == fold])
        plain = [i for i, one in enumerate(ordered) if one.name.endswith("fcn") or one.name == "final"]
        uniform, searched = pareto(seen.only(plain), exit_costs), pareto(undominated_heads(seen, most=4), exit_costs)
        for place, speed_up in enumerate(SPEED_UPS):
            for side, front in enumerate((uniform, searched)):
                plan = _best(front, alone / speed_up)
                judged[side, fold, place] = run_plan(plan.exits, held, exit_costs).quality
                if side == 1 and fold == 0:
                    chosen.append(tuple(one.candidate.name for one in plan.exits))
        ratios.append(_cost_ratio(uniform, searched))
    mean = judged.mean(1)
    return Comparison(tuple(mean[0].tolist()), tuple(mean[1].tolist()), float(np.mean(ratios)), tuple(chosen))


def _best(front: Sequence[ExitPlan], budget: float) -> ExitPlan:
    return max((plan for plan in front if plan.outcome.latency_ms <= budget), key=lambda plan: plan.outcome.quality)


def _cost_ratio(uniform: Sequence[ExitPlan], searched: Sequence[ExitPlan]) -> float:
    """Mean over the uniform plans: its cost over that of the cheapest searched plan which is as good."""
    ratios = [
        plan.outcome.latency_ms
        / min(o.outcome.latency_ms for o in searched if o.outcome.quality >= plan.outcome.quality)
        for plan in uniform
        if plan.outcome.quality <= searched[-1].outcome.quality
    ]
    return float(np.mean(ratios))
