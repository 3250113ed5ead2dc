"""X12: when images leave, what that costs and saves, which confidence tells best, and which heads to have (paper 004).

The CamVid example is exported twice, with equation 7 alone and with edge smoothing (8, 9); every exit runs on val in
ONNX Runtime. Rules, fixed before the numbers were known:

- saving: plans at a loss of 1 point, found on three images of four, lose at most 1 point on the fourth and need less
  than 1/1.1 of the final exit's multiply-adds, mean over the four ways to split;
- order and spread of the confidences (table 9): at every exit, and at every early exit;
- rank correlation and mIoU at equal cost: two standard errors of a bootstrap over runs of 10 frames;
- searched heads: `verdict_of` of the mean gain over budgets, one for each seed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from distillation import ExitLoss
from street_data import Data, class_weights, load_camvid
from trainer import Schedule

from cascadert.calibration.exit_measurement import ExitMeasurement
from cascadert.calibration.exit_search import Fastest, SearchSpace, final_quality, search_exits
from cascadert.calibration.exits import run_plan
from experiments import exits_findings, exits_search
from experiments.exits_figure import plot
from experiments.exits_heads import Trained, mean_iou, record, shipped, train_or_find
from experiments.exits_policy import (
    EDGES,
    MEAN,
    PLAIN,
    Sweep,
    image_draws,
    mean_confidence,
    mean_gain,
    measure,
    spearman,
    sweep,
)
from experiments.experiment import Context, Experiment, Outcome

SEEDS = (0, 1, 2)
SCHEDULE = Schedule(steps=200)
MAX_DROP = 0.01
FOLDS = 4


def run(context: Context) -> Outcome:
    trained, val = shipped(), load_camvid(context.camvid, "val")
    plain, edges = measure(context.camvid, "none"), measure(context.camvid, "median")
    confidence = {MEAN: mean_confidence(trained, val), PLAIN: plain.confidence, EDGES: edges.confidence}
    sweeps = {name: sweep(edges, one) for name, one in confidence.items()}
    numbers = {
        "exits": [one.name for one in edges.exits],
        "miou_by_exit": mean_iou(edges.confusion.sum(1)).tolist(),
        "macs_by_exit": [edges.macs_of([one.name]) for one in edges.exits],
        "saving": saving(edges),
        "confidence": {name: _spread(one) for name, one in confidence.items()},
        "rank_correlation": _correlations(edges, confidence),
        "curves": {name: _curve(one, len(edges.exits)) for name, one in sweeps.items()},
        "gain_at_equal_cost": _gains(sweeps, edges.images),
        "heads": {str(seed): compare_heads(context, trained, val, seed) for seed in SEEDS},
    }
    return Outcome(
        findings=exits_findings.findings(numbers),
        numbers=numbers,
        deviations=(
            "ResNet-18 of a quarter of the width on CamVid at half resolution, trained for minutes, in the place of "
            "ResNet-50 on MS COCO; val is one film of 101 frames, whose neighbours are alike",
            "cost is multiply-adds, not latency, so that a second run gives the same numbers",
            "the filter of equation 9 is ours: the median of 5 x 5 logits; th_pix = 0.9 is ours, too",
            "mean(c_map) cannot be exported and is of PyTorch; mIoU and the other confidences are of the ONNX graphs",
            f"heads: 4 of the 64 options at 3 early exits, {SCHEDULE.steps} steps with PFD on the frozen backbone, in "
            "PyTorch; DeepLab heads of 32 channels",
        ),
        seeds=SEEDS,
        figure=lambda: plot(numbers),
    )


def saving(found: ExitMeasurement) -> list[dict[str, Any]]:
    """Search the cheapest plan that loses at most a point, on three images of four; judge it on the fourth."""
    rows = []
    for fold in range(FOLDS):
        held = [i for i in range(found.images) if i % FOLDS == fold]
        seen, other = found.records([i for i in range(found.images) if i % FOLDS != fold]), found.records(held)
        costs, space = found.costs(speculative=False), SearchSpace(max_exits=len(found.exits) - 1)
        plan = search_exits(seen, costs, Fastest(MAX_DROP), space)
        outcome, final = run_plan(plan.exits, other, costs), found.macs_of([found.exits[-1].name]) / 1e6
        rows.append({
            "exits": [one.candidate.name for one in plan.exits],
            "thresholds": [one.threshold for one in plan.exits],
            "rates": list(outcome.rates),
            "drop": final_quality(other) - outcome.quality,
            "times_fewer_macs": final / outcome.latency_ms,
        })  # fmt: skip
    return rows


def compare_heads(context: Context, trained: Trained, val: Data, seed: int) -> dict[str, Any]:
    """Train all options with PFD, side by side, and let the search choose."""
    frames = load_camvid(context.camvid, "train")
    loss = ExitLoss("pfd", class_weights(frames.labels, len(trained.names), trained.recipe.balance))
    heads = exits_search.candidate_heads(trained, seed)
    path = context.work / f"options{seed}.safetensors"
    train_or_find(heads, path, trained, lambda _, *tensors: loss(*tensors), frames, SCHEDULE, seed)
    found = record(trained, list(heads), val)
    size = (val.images.shape[1], val.images.shape[2])
    candidates, costs = exits_search.costs(trained, list(heads), size)
    alone = {
        one.name: {"miou": float(miou), "head_mmacs": one.head_ms}
        for one, miou in zip(candidates, found.miou(), strict=True)
    }
    return {"alone": alone, **asdict(exits_search.compare(candidates, costs, found))}


def _spread(confidence: np.ndarray[Any, Any]) -> dict[str, list[float]]:
    values = confidence.astype(float)
    return {"mean": values.mean(1).tolist(), "range": np.ptp(values, axis=1).tolist()}


def _correlations(found: ExitMeasurement, confidence: dict[str, Any]) -> dict[str, Any]:
    """Of each confidence with the mIoU of each image; of "eq. 7 + 9" less the baseline, in bootstrap samples."""
    quality, early = mean_iou(found.confusion), range(len(found.exits) - 1)
    rows = {
        name: [spearman(one[i].astype(float), quality[i]) for i in range(len(found.exits))]
        for name, one in confidence.items()
    }
    differences = [
        float(np.mean([
            spearman(confidence[EDGES][i, draw].astype(float), quality[i, draw])
            - spearman(confidence[MEAN][i, draw].astype(float), quality[i, draw]) for i in early
        ]))
        for draw in image_draws(found.images)
    ]  # fmt: skip
    return {**rows, "standard_error_of_difference": float(np.std(differences, ddof=1))}


def _curve(one: Sweep, exits: int) -> dict[str, Any]:
    macs, miou = one.curve(np.ones(one.leaves.shape[1]))
    return {
        "thresholds": one.thresholds.tolist(),
        "rates": one.rates(exits).tolist(),
        "macs": macs.tolist(),
        "miou": miou.tolist(),
    }


def _gains(sweeps: dict[str, Sweep], images: int) -> dict[str, Any]:
    """Mean gain of mIoU at equal cost by smoothing, over equation 7 and over the mean, with bootstrap errors."""
    weights = [np.bincount(draw, minlength=images).astype(float) for draw in image_draws(images)]
    gains = {}
    for name in (PLAIN, MEAN):
        samples = [mean_gain(sweeps[EDGES], sweeps[name], one) for one in weights]
        gains[name] = {
            "gain": mean_gain(sweeps[EDGES], sweeps[name], np.ones(images)),
            "standard_error": float(np.std(samples, ddof=1)),
        }
    return gains


EXPERIMENT = Experiment(
    name="x12",
    title="Exit rate, cost and mIoU; confidences and heads",
    data="CamVid val",
    run=run,
    minutes=(2.0, 11.0),
)
