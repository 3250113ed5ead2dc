"""The picture of X12."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cascadert.calibration.plots import make_figure, styled
from experiments.exits_policy import EDGES, MEAN, PLAIN
from experiments.exits_search import SPEED_UPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {MEAN: "#7a828e", PLAIN: "#c2541d", EDGES: "#1f6fb2"}
_INK = "#1c2026"


def plot(numbers: dict[str, Any]) -> Figure:
    """Exit rates over the threshold, mIoU over cost, rank correlations, and searched against uniform heads."""
    figure = make_figure(height=7.4)
    (rates, cost), (ranks, heads) = figure.subplots(2, 2)
    _rates(styled(rates), numbers)
    _cost(styled(cost), numbers)
    _ranks(styled(ranks, "y"), numbers)
    _heads(styled(heads), numbers)
    return figure


def _rates(axes: Any, numbers: dict[str, Any]) -> None:
    curve = numbers["curves"][EDGES]
    thresholds, rates = np.array(curve["thresholds"]), 100 * np.array(curve["rates"])
    shades = [str(shade) for shade in np.linspace(0.85, 0.35, rates.shape[1])]
    axes.stackplot(thresholds, rates.T, colors=shades, step="pre", labels=numbers["exits"])
    inner = thresholds[1:-1]
    margin = 0.08 * np.ptp(inner)
    axes.set_xlim(inner.min() - margin, min(1.0, inner.max() + margin))
    axes.set_ylim(0, 100)
    axes.set_xlabel("threshold of eq. 7 + 9")
    axes.set_ylabel("images that leave, %")
    axes.legend(fontsize=8, loc="lower left", framealpha=1)


def _cost(axes: Any, numbers: dict[str, Any]) -> None:
    for name, curve in numbers["curves"].items():
        axes.plot(np.array(curve["macs"]) / 1e9, 100 * np.array(curve["miou"]), color=_COLOURS[name], label=name)
    alone = np.array(numbers["macs_by_exit"]) / 1e9
    axes.scatter(alone, 100 * np.array(numbers["miou_by_exit"]), s=30, c=_INK, marker="s", label="one exit alone")
    axes.set_xlabel("mean GMACs of an image")
    axes.set_ylabel("mIoU, %")
    axes.legend(frameon=False, fontsize=8)


def _ranks(axes: Any, numbers: dict[str, Any]) -> None:
    places = np.arange(len(numbers["exits"]))
    for shift, name in zip((-0.26, 0, 0.26), (MEAN, PLAIN, EDGES), strict=True):
        axes.bar(places + shift, numbers["rank_correlation"][name], 0.24, color=_COLOURS[name], label=name)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.set_xticks(places, numbers["exits"])
    axes.set_ylabel("rank correlation with an image's mIoU")
    axes.legend(frameon=False, fontsize=8)


def _heads(axes: Any, numbers: dict[str, Any]) -> None:
    rows = list(numbers["heads"].values())
    for kind, colour, label in (("uniform", _COLOURS[PLAIN], "uniform FCN"), ("searched", _COLOURS[EDGES], "searched")):
        each = 100 * np.array([row[kind] for row in rows])
        axes.plot(SPEED_UPS, each.mean(0), color=colour, label=label, marker="o", markersize=3.5)
        axes.fill_between(SPEED_UPS, each.min(0), each.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("multiply-adds of the final exit over the budget")
    axes.set_ylabel("mIoU of the plan, held out, %")
    axes.legend(frameon=False, fontsize=8)
