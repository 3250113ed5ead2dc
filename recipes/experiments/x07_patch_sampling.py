"""X7: which patch of each image the second network learns from hardly matters (paper 001, table 4.2).

Rules, fixed beforehand. Dice at threshold 0.25 is compared between each two samplings, by seed. "About the same" holds
where all mean differences are within a point; it does not hold where one is beyond a point by more than two standard
errors; in between it is not significant. The two that follow the uncertainty against the random one: `verdict_of`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean, stdev
from typing import TYPE_CHECKING, get_args

from patch_sampling import Sampling

from cascadert.calibration.plots import make_figure, styled
from experiments.experiment import Context, Experiment, Finding, Outcome, Verdict, verdict_of
from experiments.two_stage_runs import DEVIATIONS, FULL, SEEDS, USUAL, Curve, Runs, at, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
COLOURS = {"random": "#7a828e", "weighted": "#0b6e4f", "highest": "#8250df"}
LIMIT = 1.0
"""Points of Dice."""


def alike(values: Mapping[str, Sequence[float]], limit: float = LIMIT) -> Verdict:
    """Judge "within `limit` of each other" of values by seed, for each two of several ways."""
    pairs = [[a - b for a, b in zip(values[x], values[y], strict=True)] for x, y in combinations(values, 2)]
    if all(abs(fmean(pair)) <= limit for pair in pairs):
        return "holds"
    errors = [stdev(pair) / math.sqrt(len(pair)) if len(pair) > 1 else 0.0 for pair in pairs]
    beyond = any(abs(fmean(pair)) - limit > 2 * error for pair, error in zip(pairs, errors, strict=True))
    return "does not hold" if beyond else "not significant"


def judge(dice: Mapping[str, Sequence[float]]) -> tuple[Finding, ...]:
    """The paper's two sentences on sampling against Dice in points, by sampling and seed."""
    said = ", ".join(f"{name} {fmean(values):.1f} ({_listed(values)})" for name, values in dice.items())
    guided = [(w + h) / 2 - r for w, h, r in zip(dice["weighted"], dice["highest"], dice["random"], strict=True)]
    return (
        Finding(
            "Random, weighted and highest differ little: 79.3, 79.8, 79.9 on BDD, 93.9, 94.5, 94.6 on PH2; at most "
            "1.7 points, on KITTI (table 4.2)",
            f"Dice {said} (by seed)",
            alike(dice),
        ),
        Finding(
            "Weighted and highest seem the best: 79.8 and 79.9 against 79.3 on BDD, 85.6 and 86.1 against 84.4 on "
            "KITTI (table 4.2)",
            f"their mean less random: {', '.join(f'{value:+.1f}' for value in guided)} points by seed",
            verdict_of(guided),
        ),
    )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def plot(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Dice against the mean number of refined patches, for each sampling."""
    figure = make_figure(height=3.8)
    left, right = (styled(axes) for axes in figure.subplots(1, 2, width_ratios=(3, 2)))
    for place, (name, found) in enumerate(curves.items()):
        patches = [fmean(at(one, row["threshold"], "patches") for one in found) for row in found[0]]
        dice = [100 * fmean(at(one, row["threshold"]) for one in found) for row in found[0]]
        left.plot(patches, dice, "o-", markersize=3, color=COLOURS[name], label=name)
        usual = points([at(one, USUAL) for one in found])
        right.plot([place] * len(usual), usual, "o", color=COLOURS[name], alpha=0.6)
        right.plot(place, fmean(usual), "_", markersize=30, markeredgewidth=2, color=COLOURS[name])
    left.set(xlabel="refined patches of 16, mean of frames", ylabel="Dice, %")
    left.set_title("threshold 1 to 0, mean of seeds", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    right.set_xticks(range(len(curves)), list(curves))
    right.margins(x=0.2)
    right.set_title("threshold 0.25: seeds and their mean", loc="left", fontsize=10)
    return figure


def run(context: Context) -> Outcome:
    runs = Runs.of(context)
    by_seed = [{name: runs.curve(seed, replace(FULL, sampling=name)) for name in SAMPLINGS} for seed in SEEDS]
    curves: dict[str, list[Curve]] = {name: [found[name] for found in by_seed] for name in SAMPLINGS}
    dice: dict[str, list[float]] = {name: points([at(one, USUAL) for one in found]) for name, found in curves.items()}
    return Outcome(judge(dice), {"curves": curves, "dice": dice}, DEVIATIONS, SEEDS, lambda: plot(curves))


EXPERIMENT = Experiment("x7", "Two stages: sampling of patches", "CamVid, car against the rest", run, (0.5, 16))
