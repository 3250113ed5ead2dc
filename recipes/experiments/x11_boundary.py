"""X11: what a two-column network loses when it sees regions alone, and what helps (paper 003, tables 2 and 3).

SCTF is trained on whole frames. Classic inference computes the full-resolution column's levels on the whole frame; fast
inference computes them on the chosen regions, with zeros around each ("the boundary problem"). Both use the same mask.
ISCTF is trained on regions, and has connections from the half column.

Rules, over paired seeds and by two standard errors (`verdict_of`):

- SCTF drops: its mIoU in classic minus in fast inference at the k it was trained for;
- ISCTF does not: classic inference computes all regions and then masks, and the mIoU of both differs by less than 0.01
  points;
- the drop comes from the borders of regions: with all regions computed, fast inference of SCTF loses more accuracy
  within 8 pixels of a border between regions than from 24 pixels on;
- ISCTF is better than SCTF in fast inference.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from street_data import Data, load_camvid
from two_column import shrunk

from experiments.experiment import Context, Experiment, Finding, Outcome, verdict_of
from experiments.two_column_boundary import accuracy_by_band, differing_labels
from experiments.two_column_measure import Way, learned, quality
from experiments.two_column_nets import (
    CLASSES,
    DEVIATIONS,
    ISCTF,
    REGIONS,
    SCTF,
    SIZE,
    K,
    Variant,
    trained,
)
from experiments.two_column_plots import plot_boundary

SEEDS = (0, 1, 2)
SWEEP = (K, 6, REGIONS)
VARIANTS = (SCTF, ISCTF)
SAME = 0.01
"""Points of mIoU: what rounding may change."""

Row = dict[str, float]
"""What was measured of a network."""


def measure(variant: Variant, seed: int, train: Data, val: Data, context: Context) -> Row:
    """Measure mIoU of fast and of classic inference; and for a network of regions, how many labels differ."""
    network = trained(variant, seed, train, context)
    ways = {f"fast at {k}": Way(learned, k) for k in (0, *SWEEP)}
    if not variant.sparsity.crop:
        ways |= {f"classic at {k}": Way(learned, k, "frame") for k in SWEEP}
        return quality(network, val, ways, CLASSES)
    row = quality(network, val, ways, CLASSES)
    for k in SWEEP:
        row[f"labels that differ at {k}"], row[f"classic at {k}"] = differing_labels(network, val, k, CLASSES)
    return row


def run(context: Context) -> Outcome:
    train, val = load_camvid(context.camvid, "train"), shrunk(load_camvid(context.camvid, "val"), SIZE)
    rows = {each.name: [measure(each, seed, train, val, context) for seed in SEEDS] for each in VARIANTS}
    ways = {"fast": Way(learned, REGIONS), "classic": Way(learned, REGIONS, "frame")}
    bands = [accuracy_by_band(trained(SCTF, seed, train, context), val, ways) for seed in SEEDS]
    findings = (
        judge_drop(rows[SCTF.name]),
        judge_no_drop(rows[ISCTF.name], val.labels.numel()),
        judge_borders(bands),
        judge_better(rows[ISCTF.name], rows[SCTF.name]),
    )
    numbers: dict[str, Any] = {"k": SWEEP, "miou": rows, "accuracy_by_distance_to_border": bands}
    return Outcome(findings, numbers, DEVIATIONS, SEEDS, partial(plot_boundary, rows, bands, SWEEP))


def judge_drop(rows: list[Row]) -> Finding:
    """Judge what fast inference costs networks trained on whole frames."""
    drops = {k: [row[f"classic at {k}"] - row[f"fast at {k}"] for row in rows] for k in SWEEP}
    means = ", ".join(f"{statistics.fmean(drops[k]):.1f} at {k}" for k in SWEEP)
    return Finding(
        "Fast inference costs SCTF about 3 points: from 74.72 mIoU to 71.74 (tables 2 and 3, p = 0.5)",
        f"SCTF: {_mean(rows, 'classic')} mIoU classic, {_mean(rows, 'fast')} fast, with {K} of {REGIONS} regions; drop "
        f"by regions: {means}",
        verdict_of(drops[K]),
    )


def judge_no_drop(rows: list[Row], pixels: int) -> Finding:
    """Judge what it costs networks trained on regions; `pixels` is the number of labels compared."""
    largest = max(abs(row[f"classic at {k}"] - row[f"fast at {k}"]) for row in rows for k in SWEEP)
    different = max(row[f"labels that differ at {k}"] for row in rows for k in SWEEP)
    return Finding(
        "Fast inference costs ISCTF nothing: 75.40 mIoU in both (tables 2 and 3)",
        f"ISCTF: {_mean(rows, 'classic')} mIoU classic, {_mean(rows, 'fast')} fast; of {pixels / 1e6:.1f} M labels at "
        f"most {different:.0f} differ, with {', '.join(map(str, SWEEP))} regions",
        "holds" if largest < SAME else "does not hold",
    )


def judge_borders(bands: list[dict[str, list[float]]]) -> Finding:
    """Judge where accuracy is lost, from accuracy by band of each seed."""
    losses = [[a - b for a, b in zip(one["classic"], one["fast"], strict=True)] for one in bands]
    means = [f"{statistics.fmean(loss):.1f}" for loss in zip(*losses, strict=True)]
    return Finding(
        "The drop is that of pixels near the border of a region, which lack context (section 3.4, figure 5)",
        f"With all regions computed, SCTF loses {', '.join(means[:-1])} and {means[-1]} points of pixel accuracy at 0 "
        "to 7, 8 to 15, 16 to 23 and more pixels from a border: its columns see farther than a region is wide",
        verdict_of([loss[0] - loss[-1] for loss in losses]),
    )


def judge_better(ours: list[Row], theirs: list[Row]) -> Finding:
    """Judge ISCTF against SCTF in fast inference."""
    differences = [a[f"fast at {K}"] - b[f"fast at {K}"] for a, b in zip(ours, theirs, strict=True)]
    each = ", ".join(f"{difference:+.1f}" for difference in differences)
    return Finding(
        "In fast inference ISCTF has 75.40 mIoU, SCTF 71.74 (table 3, p = 0.5)",
        f"Fast inference with {K} of {REGIONS} regions: ISCTF {_mean(ours, 'fast')} mIoU, SCTF {_mean(theirs, 'fast')} "
        f"(by seed {each}). Their half columns alone: {_mean(ours, 'fast', 0)} and {_mean(theirs, 'fast', 0)}; with "
        f"all regions {_mean(ours, 'fast', REGIONS)} and {_mean(theirs, 'fast', REGIONS)}",
        verdict_of(differences),
    )


def _mean(rows: list[Row], inference: str, k: int = K) -> str:
    return f"{statistics.fmean(row[f'{inference} at {k}'] for row in rows):.1f}"


EXPERIMENT = Experiment("x11", "What regions lack at their borders", "CamVid", run, minutes=(1.5, 12))
