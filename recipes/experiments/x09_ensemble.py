"""X9: an ensemble is better than its members; PAvPU against its window and threshold (paper 002, tables 1, 3, 4).

Rules, written before the numbers: the ensemble is compared with the best of its members, one difference for each seed
(mean over the weightings), by `verdict_of`. PAvPU is that of ensembles, at windows of 1 to 16 pixels and thresholds
from the mean and ten quantiles of the uncertainty on the training frames. "Weights leave PAvPU as it is" holds where
the mean difference over seeds is within one point at every window and threshold; the recommended threshold, the mean
of the training frames, is good where no quantile gives two points more at w = 4.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ensemble_measure import QUANTILES, Answer, answers, confusion_of, pavpu
from street_data import Data

from experiments.ensemble_plots import plot_members_and_pavpu
from experiments.ensemble_rows import shown, shown_difference
from experiments.ensemble_runs import DEVIATIONS, NAMES, NETWORKS, Run, Split, add_arguments, ensembles
from experiments.experiment import Context, Experiment, Finding, Outcome, verdict_of, within

WINDOWS = (1, 2, 4, 8, 16)
THRESHOLDS = ("mean", *map(str, QUANTILES))
SWEPT = ("none", "approach-1", "approach-2")
SAME, GOOD = 0.01, 0.02

# PAvPU by window, then by threshold.
Sweep = dict[str, dict[str, float]]


def run(context: Context) -> Outcome:
    """Train what X8 has not, measure all, judge."""
    split, device = Split.of(context.camvid), torch.device(context.options.device)
    runs = [_measure(one, split.val, device) for one in ensembles(context, split)]
    seeds = tuple(sorted({one["seed"] for one in runs}))
    pavpus = {weighting: _mean([one["pavpu"] for one in runs if one["weighting"] == weighting]) for weighting in SWEPT}
    found = (_members(runs, seeds), _unchanged(pavpus), _recommended(pavpus))
    numbers = {"pavpu_mean_over_seeds": pavpus, "runs": runs}
    unequal = "The paper's members differ by 2.4 points of mIoU, ours by more: the weaker ones pull the mean down."
    deviations = (*DEVIATIONS, unequal, "The paper does not state the window of PAvPU; public code has 4.")
    return Outcome(found, numbers, deviations, seeds, lambda: plot_members_and_pavpu(runs, pavpus["none"]))


def _measure(one: Run, val: Data, device: torch.device) -> dict[str, Any]:
    found = answers(one.members, val.images, device)
    miou = [confusion_of(answer, val.labels, len(NAMES)).mean_iou() for answer in found]
    doubt = one.uncertainty["ensemble"]
    thresholds = {"mean": doubt["mean"], **doubt["quantiles"]}
    measured = {
        "seed": one.seed,
        "weighting": one.weighting,
        "miou": dict(zip(NETWORKS, miou, strict=True)),
        "thresholds_bits": thresholds,
    }
    return measured | ({"pavpu": _sweep(found[-1], val, thresholds)} if one.weighting in SWEPT else {})


def _sweep(answer: Answer, val: Data, thresholds_bits: Mapping[str, float]) -> Sweep:
    return {
        str(window): {name: pavpu(answer, val.labels, bits, window) for name, bits in thresholds_bits.items()}
        for window in WINDOWS
    }


def _mean(sweeps: Sequence[Sweep]) -> Sweep:
    return {str(w): {t: statistics.fmean(sweep[str(w)][t] for sweep in sweeps) for t in THRESHOLDS} for w in WINDOWS}


def _members(runs: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Finding:
    gains: dict[int, list[float]] = {seed: [] for seed in seeds}
    over_mean: dict[int, list[float]] = {seed: [] for seed in seeds}
    for one in runs:
        members = [one["miou"][name] for name in NETWORKS[:-1]]
        gains[one["seed"]].append(one["miou"]["ensemble"] - max(members))
        over_mean[one["seed"]].append(one["miou"]["ensemble"] - statistics.fmean(members))
    by_seed, mean_by_seed = ([statistics.fmean(each) for each in found.values()] for found in (gains, over_mean))
    regular = [one["miou"] for one in runs if one["weighting"] == "none"]
    better = sum(gain > 0 for each in gains.values() for gain in each)
    return Finding(
        "The ensemble's mIoU is above that of each member: 63.5 against 60.4, 61.4 and 59.0 (tables 1 and 4).",
        f"Without weights {shown([one['ensemble'] for one in regular])} against "
        + ", ".join(shown([one[name] for one in regular]) for name in NETWORKS[:-1])
        + f"; with all weightings {shown_difference(by_seed)} points against the best member over {len(seeds)} seeds, "
        f"above it in {better} of {len(runs)} ensembles, and {shown_difference(mean_by_seed)} points against the mean "
        "of the members.",
        verdict_of(by_seed),
    )


def _unchanged(pavpus: Mapping[str, Sweep]) -> Finding:
    changes = [
        (pavpus[weighting][str(w)][t] - pavpus["none"][str(w)][t], weighting, w, t)
        for weighting in SWEPT[1:]
        for w in WINDOWS
        for t in THRESHOLDS
    ]
    largest, weighting, window, threshold = max(changes, key=lambda change: abs(change[0]))
    usual = [100 * (pavpus[weighting]["4"]["mean"] - pavpus["none"]["4"]["mean"]) for weighting in SWEPT[1:]]
    return Finding(
        "Weights by instance uncertainty leave PAvPU as it is: 0.2 to 0.3 points less (table 3, one w and t).",
        f"At w = 4 and t = mean {usual[0]:+.1f} (approach 1) and {usual[1]:+.1f} points (approach 2); over all w and t "
        f"{100 * largest:+.1f} points at most ({weighting}, w = {window}, t = {_named(threshold)}).",
        within(largest, SAME),
    )


def _recommended(pavpus: Mapping[str, Sweep]) -> Finding:
    at_four = pavpus["none"]["4"]
    best = max(THRESHOLDS, key=lambda threshold: at_four[threshold])
    by_window = ", ".join(f"{100 * pavpus['none'][str(w)]['mean']:.1f} (w = {w})" for w in WINDOWS)
    return Finding(
        "The mean pixel uncertainty of the training set is the recommended threshold (section 5); the window is not "
        "stated.",
        f"At t = mean PAvPU is {by_window}; the best t at w = 4 is the {_named(best)}, {100 * at_four[best]:.1f}.",
        "holds" if at_four[best] - at_four["mean"] <= GOOD else "does not hold",
    )


def _named(threshold: str) -> str:
    return threshold if threshold == "mean" else f"{threshold} quantile"


EXPERIMENT = Experiment(
    name="x9",
    title="An ensemble against its members, and how sure it is",
    data="CamVid",
    run=run,
    minutes=(1.5, 22),
    add_arguments=add_arguments,
)
