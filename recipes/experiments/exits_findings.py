"""What the numbers of X12 say of the paper's claims; the rules are in `x12_exit_policy`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np

from experiments.exits_policy import EDGES, MEAN, PLAIN
from experiments.experiment import Finding, Verdict, verdict_of

LEAST_SAVING = 1.1
_TABLE_9 = "supplement, table 9"


def findings(numbers: dict[str, Any]) -> tuple[Finding, ...]:
    """One for each claim."""
    return (
        _saving(numbers["saving"]),
        _order(numbers["confidence"]),
        _spread(numbers["confidence"]),
        _correlation(numbers["rank_correlation"]),
        *(_gain(name, numbers["gain_at_equal_cost"][name]) for name in (PLAIN, MEAN)),
        _heads(list(numbers["heads"].values())),
    )


def _holds(true: bool) -> Verdict:
    return "holds" if true else "does not hold"


def judge(mean: float, error: float) -> Verdict:
    """Holds where the mean lies above 0 by two standard errors, does not hold where it lies as far below."""
    return "holds" if mean > 2 * error else "does not hold" if mean <= -2 * error else "not significant"


def _saving(rows: list[dict[str, Any]]) -> Finding:
    drop, times = fmean(row["drop"] for row in rows), fmean(row["times_fewer_macs"] for row in rows)
    each = ", ".join(f"{row['times_fewer_macs']:.2f}x at {-100 * row['drop']:+.1f}" for row in rows)
    leave = ", ".join(
        f"{name} {100 * rate:.0f} %" for name, rate in zip(rows[0]["exits"], rows[0]["rates"], strict=True)
    )
    return Finding(
        "Leaving early saves time at a loss of 1 point at most (supplement, table 8), up to 2.83 times (abstract)",
        f"{times:.2f} times fewer multiply-adds, mIoU {-100 * drop:+.2f} points on held-out frames (by split: {each}; "
        f"in the first, {leave})",
        _holds(drop <= 0.01 and times >= LEAST_SAVING),
    )


def _order(confidence: dict[str, Any]) -> Finding:
    mean, plain, edges = (confidence[name]["mean"] for name in (MEAN, PLAIN, EDGES))
    rows = "; ".join(f"{m:.3f} / {p:.3f} / {e:.3f}" for m, p, e in zip(mean, plain, edges, strict=True))
    return Finding(
        "Equation 7 lies below the mean confidence, smoothing raises it: .940 / .826 / .838 for an early exit, "
        f"means of five images ({_TABLE_9})",
        f"mean / eq. 7 / eq. 7 + 9, by exit: {rows}",
        _holds(all(p < min(m, e) for m, p, e in zip(mean, plain, edges, strict=True))),
    )


def _spread(confidence: dict[str, Any]) -> Finding:
    mean, edges = (confidence[name]["range"][:-1] for name in (MEAN, EDGES))
    rows = ", ".join(f"{m:.3f} to {e:.3f}" for m, e in zip(mean, edges, strict=True))
    return Finding(
        f"It sets good and bad images further apart: a range of .119 becomes .400 ({_TABLE_9})",
        f"range over val, mean to eq. 7 + 9, by early exit: {rows}",
        _holds(all(e > m for m, e in zip(mean, edges, strict=True))),
    )


def _correlation(rows: dict[str, Any]) -> Finding:
    means = {name: fmean(rows[name][:-1]) for name in (MEAN, PLAIN, EDGES)}
    error = rows["standard_error_of_difference"]
    return Finding(
        f"Equations 7 to 9 tell good predictions from bad ones better than the mean does ({_TABLE_9}, in words)",
        f"rank correlation with the mIoU of an image, mean of early exits: mean {means[MEAN]:.2f}, eq. 7 "
        f"{means[PLAIN]:.2f}, eq. 7 + 9 {means[EDGES]:.2f}; standard error of the difference {error:.2f}",
        judge(means[EDGES] - means[MEAN], error),
    )


def _gain(other: str, row: dict[str, float]) -> Finding:
    gain, error = 100 * row["gain"], 100 * row["standard_error"]
    than = "without edge smoothing" if other == PLAIN else "by the mean confidence"
    return Finding(
        f"Leaving by equations 7 to 9 gives a better mIoU at equal cost than {than} (section 4 of the supplement, "
        "no number)",
        f"{gain:+.2f} points, mean over the costs of all thresholds, standard error {error:.2f}",
        judge(gain, error),
    )


def _heads(rows: list[dict[str, Any]]) -> Finding:
    gains = [100 * float(np.mean(np.subtract(row["searched"], row["uniform"]))) for row in rows]
    best = max(100 * float(np.max(np.subtract(row["searched"], row["uniform"]))) for row in rows)
    ratio = fmean(row["cost_ratio"] for row in rows)
    by_seed = ", ".join(f"{gain:+.1f}" for gain in gains)
    return Finding(
        "Searched heads beat uniform FCN heads by 10.9 points on average and 19.3 at most at 1 to 4.5 times less "
        "latency, and need 2.4 times fewer FLOPs at equal accuracy (supplement, section 3)",
        f"{fmean(gains):+.1f} points on average (by seed {by_seed}), {best:+.1f} at most, at 1.5 to 4.5 times fewer "
        f"multiply-adds; {ratio:.2f} times fewer at equal mIoU",
        verdict_of(gains),
    )
