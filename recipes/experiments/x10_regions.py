"""X10: the regions that a two-column network chose are the ones worth computing (paper 003, tables 3 and 5).

Rules, each over paired seeds and by two standard errors (`verdict_of`):

- the sparsity loss beats trivial winner-take-all: mIoU of the networks trained with it minus that of the networks
  trained without, both with the 3 of 12 regions that score highest. The paper does not say which mask is applied while
  it trains with the loss, so both are tried: sigmoid(s) > 0.5, as "a loose constraint" suggests, and the top k;
- s beats chance: mIoU with the 3 highest regions minus the mean of 5 random draws of 3, in the same network;
- more regions, better: mIoU at 3 minus at 1 and at 6 minus at 3; it holds if both do.

The cost at a quarter of the regions is about the paper's if it falls by as much as there within 5 points.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import TYPE_CHECKING

from street_data import Data, load_camvid
from two_column import shrunk

from experiments.experiment import Context, Experiment, Finding, Outcome, Verdict, verdict_of, within
from experiments.two_column_measure import Choice, Way, at_random, entropy, learned, lowest, macs_by_regions, quality
from experiments.two_column_nets import CLASSES, DEVIATIONS, ISCTF, REGIONS, SIZE, TOP_K, WINNERS, K, trained
from experiments.two_column_plots import plot_regions

if TYPE_CHECKING:
    from cascadert.export.models.two_column import TwoColumn

SEEDS = (0, 1, 2)
DRAWS = 5
SWEEP = (0, 1, 2, 3, 4, 6, 12)
TRAINED = (ISCTF, TOP_K, WINNERS)

Curves = dict[str, list[float]]
"""mIoU at each k of `SWEEP`, by who chooses."""


def sweep(network: TwoColumn, val: Data) -> Curves:
    """Segment with every k of `SWEEP`, chosen by the network, against it, by entropy and by chance."""
    choices: dict[str, Choice] = {"learned": learned, "entropy": entropy, "lowest": lowest}
    choices |= {f"random {draw}": at_random(draw) for draw in range(DRAWS)}
    inner = [k for k in SWEEP if 0 < k < REGIONS]  # at the ends there is nothing to choose
    ways = {f"{name} at {k}": Way(choice, k) for name, choice in choices.items() for k in inner}
    ends = {f"learned at {k}": Way(learned, k) for k in (0, REGIONS)}
    miou = quality(network, val, ways | ends, CLASSES)
    return {name: [miou.get(f"{name} at {k}", miou.get(f"learned at {k}", 0.0)) for k in SWEEP] for name in choices}


def run(context: Context) -> Outcome:
    train, val = load_camvid(context.camvid, "train"), shrunk(load_camvid(context.camvid, "val"), SIZE)
    curves = {
        variant.name: [sweep(trained(variant, seed, train, context), val) for seed in SEEDS] for variant in TRAINED
    }
    macs = macs_by_regions(ISCTF.build().eval(), SIZE)
    numbers = {"k": SWEEP, "regions": REGIONS, "miou": curves, "macs": [macs[k] for k in SWEEP], "macs_by_k": macs}
    findings = (
        judge_winners(curves, ISCTF.name, "sigmoid(s) > 0.5"),
        judge_winners(curves, TOP_K.name, "the top k"),
        judge_chance(curves[ISCTF.name]),
        judge_rise(curves[ISCTF.name]),
        judge_cost(macs),
    )
    figure = partial(plot_regions, curves, [macs[k] for k in SWEEP], SWEEP, K)
    return Outcome(findings, numbers, DEVIATIONS, SEEDS, figure)


def at(curves: Curves, k: int, choice: str = "learned") -> float:
    """One mIoU."""
    return curves[choice][SWEEP.index(k)]


def chance(curves: Curves, k: int) -> float:
    """Mean mIoU of the random draws."""
    return statistics.fmean(at(curves, k, f"random {draw}") for draw in range(DRAWS))


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f}"


def judge_winners(curves: dict[str, list[Curves]], name: str, mask: str) -> Finding:
    """Judge networks trained with the sparsity loss against those trained without."""
    ours, theirs = ([at(seed, K) for seed in curves[which]] for which in (name, WINNERS.name))
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    each = ", ".join(f"{difference:+.1f}" for difference in differences)
    return Finding(
        "At p = 0.25 the sparsity loss gives 74.74 mIoU and trivial winner-take-all 72.59 (table 3)",
        f"Trained with the loss and the mask {mask}: {_mean(ours)} mIoU; winner-take-all: {_mean(theirs)}; both with "
        f"{K} of {REGIONS} regions (by seed {each})",
        verdict_of(differences),
    )


def judge_chance(curves: list[Curves]) -> Finding:
    """Judge the regions that the network chose against random ones."""
    ours, random = [at(seed, K) for seed in curves], [chance(seed, K) for seed in curves]
    others = {choice: _mean([at(seed, K, choice) for seed in curves]) for choice in ("entropy", "lowest")}
    return Finding(
        "The regions with the highest s are the ones to compute: small pedestrians and vehicles (section 4.8)",
        f"{K} of {REGIONS} regions by s: {_mean(ours)} mIoU; at random: {_mean(random)}; lowest s: {others['lowest']}; "
        f"highest entropy of the half column: {others['entropy']}",
        verdict_of([a - b for a, b in zip(ours, random, strict=True)]),
    )


def judge_rise(curves: list[Curves]) -> Finding:
    """Judge whether more regions are better."""
    steps = [verdict_of([at(seed, more) - at(seed, less) for seed in curves]) for less, more in ((1, K), (K, 6))]
    found = ", ".join(f"{_mean([at(seed, k) for seed in curves])} at {k}" for k in SWEEP)
    return Finding(
        "More regions, better: 72.26 mIoU at 4 of 32, 74.74 at 8, 75.40 at 16 (table 3)",
        f"mIoU by regions of {REGIONS}, in networks trained for {K}: {found}",
        _both(steps),
    )


def _both(verdicts: list[Verdict]) -> Verdict:
    if set(verdicts) == {"holds"}:
        return "holds"
    return "does not hold" if "does not hold" in verdicts else "not significant"


def judge_cost(macs: list[int]) -> Finding:
    """Judge multiply-adds by number of regions, the last with all of them."""
    drop = 100 * (1 - macs[K] / macs[-1])
    return Finding(
        "Fast inference at p = 0.25 costs 51.4 % less: 103 G in place of 212 G (table 5)",
        f"{macs[K] / 1e6:.1f} M multiply-adds in place of {macs[-1] / 1e6:.1f} M: {drop:.1f} % less; "
        f"{macs[0] / 1e6:.1f} M with no region, {(macs[1] - macs[0]) / 1e6:.1f} M for each",
        within(drop - 51.4, 5),
    )


EXPERIMENT = Experiment("x10", "Regions that a two-column network chose", "CamVid", run, minutes=(3, 20))
