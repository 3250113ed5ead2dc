"""Pictures of X8 and X9."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ensemble import WEIGHTINGS

from cascadert.calibration.plots import make_figure, styled
from experiments.ensemble_rows import Measure, Row, spread, values
from experiments.ensemble_runs import NETWORKS, RARE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = dict(zip(WEIGHTINGS, ("#7a828e", "#c2541d", "#1f6fb2", "#0b6e4f"), strict=True))
LABELS = dict(zip(WEIGHTINGS, ("no weights", "inverse share", "IU, approach 1", "IU, approach 2"), strict=True))
_MARKERS = {"members": "o", "ensemble": "D"}
_WINDOW_COLOURS = ("#c7dcef", "#8fbbe0", "#1f6fb2", "#164f80", "#0b2a45")


def plot_weightings(rows: Sequence[Row]) -> Figure:
    """Plot the IoU of each rare class above; below mIoU by day and at dusk, and PAvPU, a point for each seed."""
    figure = make_figure(height=6.6)
    grid = figure.add_gridspec(2, 1)
    above, below = (figure.add_subfigure(grid[row]) for row in range(2))
    _rare_classes(styled(above.subplots(), "y"), rows)
    panels: tuple[tuple[str, Measure, str], ...] = (
        ("mIoU by day, %", "miou", "val"),
        ("mIoU at dusk, %", "miou", "dusk"),
        ("PAvPU by day, %", "pavpu", "val"),
    )
    for axes, (title, measure, place) in zip(below.subplots(1, 3), panels, strict=True):
        _points(styled(axes, "y"), rows, measure, place)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    handles, labels = below.axes[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _rare_classes(axes: Any, rows: Sequence[Row]) -> None:
    width = 0.8 / len(WEIGHTINGS)
    for index, weighting in enumerate(WEIGHTINGS):
        found = [[_class_iou(row, name) for row in rows if row.weighting == weighting] for name in RARE]
        places = np.arange(len(RARE)) + (index - (len(WEIGHTINGS) - 1) / 2) * width
        heights, errors = ([100 * f(each) for each in found] for f in (statistics.fmean, spread))
        axes.bar(places, heights, 0.92 * width, yerr=errors, color=COLOURS[weighting], label=LABELS[weighting],
                 error_kw={"elinewidth": 0.9, "ecolor": "#1c2026"})  # fmt: skip
    axes.set_xticks(range(len(RARE)), RARE)
    axes.set_title("IoU of rare classes by day, %: mean of the members, and its deviation over seeds", loc="left",
                   fontsize=10, fontweight="bold")  # fmt: skip
    axes.legend(frameon=False, fontsize=9, ncols=len(WEIGHTINGS))
    axes.margins(y=0.18)


def _class_iou(row: Row, name: str) -> float:
    return statistics.fmean(row.places["val"][member]["iou"][name] or 0.0 for member in NETWORKS[:-1])


def _points(axes: Any, rows: Sequence[Row], measure: Measure, place: str) -> None:
    for index, weighting in enumerate(WEIGHTINGS):
        for side, (network, marker) in zip((-0.14, 0.14), _MARKERS.items(), strict=True):
            found = [100 * value for value in values(rows, weighting, measure, place, network)]
            label = ("mean of the members" if network == "members" else "ensemble") if index == 0 else None
            axes.scatter([index + side] * len(found), found, s=22, marker=marker, color=COLOURS[weighting], label=label)
            axes.hlines(statistics.fmean(found), index + side - 0.13, index + side + 0.13, COLOURS[weighting])
    axes.set_xticks(range(len(WEIGHTINGS)), ("none", "inverse", "IU 1", "IU 2"))


def plot_members_and_pavpu(runs: Sequence[Mapping[str, Any]], sweep: Mapping[str, Mapping[str, float]]) -> Figure:
    """Plot the mIoU of members and ensemble, and PAvPU of unweighted ensembles against threshold and window."""
    figure = make_figure(height=3.9)
    left, right = figure.subplots(1, 2)
    _ladder(styled(left, "y"), runs)
    _curves(styled(right), runs, sweep)
    return figure


def _ladder(axes: Any, runs: Sequence[Mapping[str, Any]]) -> None:
    for one in runs:
        miou = [100 * one["miou"][name] for name in NETWORKS]
        axes.plot(miou, "-o", color=COLOURS[one["weighting"]], linewidth=0.9, markersize=4, alpha=0.85,
                  label=LABELS[one["weighting"]] if one["seed"] == runs[0]["seed"] else None)  # fmt: skip
    axes.set_xticks(range(len(NETWORKS)), NETWORKS)
    axes.set_title("mIoU, %: three members and their mean", loc="left", fontsize=10, fontweight="bold")
    axes.legend(frameon=False, fontsize=8)


def _curves(axes: Any, runs: Sequence[Mapping[str, Any]], sweep: Mapping[str, Mapping[str, float]]) -> None:
    regular = [one["thresholds_bits"] for one in runs if one["weighting"] == "none"]
    bits = {name: statistics.fmean(one[name] for one in regular) for name in regular[0]}
    steps = [name for name in bits if name != "mean"]
    for colour, (window, by_threshold) in zip(_WINDOW_COLOURS, sweep.items(), strict=True):
        heights = [100 * by_threshold[name] for name in steps]
        axes.plot([bits[name] for name in steps], heights, "-o", color=colour, markersize=3, label=f"w = {window}")
    axes.axvline(bits["mean"], color="#1c2026", linewidth=0.9, linestyle="--", label="t = mean")
    axes.set_xlabel("threshold t, bits (quantiles of the training frames)")
    axes.set_title("PAvPU of ensembles without weights, %", loc="left", fontsize=10, fontweight="bold")
    axes.legend(frameon=False, fontsize=8)
