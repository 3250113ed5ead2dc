"""Plots of x10 and x11."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cascadert.calibration.plots import NEITHER, make_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, DARK = "#1f6fb2", "#c2541d", "#0b6e4f", "#7a828e", "#1c2026"
NAMES = {
    "isctf": "ISCTF",
    "isctf-top-k": "ISCTF,\ntop k in\ntraining",
    "winners": "winner-\ntake-all",
    "sctf": "SCTF",
}


def plot_regions(
    curves: Mapping[str, list[dict[str, list[float]]]], macs: Sequence[int], sweep: Sequence[int], trained_for: int
) -> Figure:
    """Plot what regions gain against what they cost, by who chooses them; and mIoU by how the network was trained."""
    figure = make_figure(height=4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1))
    cost = [value / 1e6 for value in macs]
    _plot_choices(styled(left), curves["isctf"], cost)
    top = left.secondary_xaxis("top")
    top.set_xticks(cost, [str(k) for k in sweep], fontsize=9)
    top.set_xlabel("regions computed, of 12", fontsize=9)
    left.set_xlabel("million multiply-adds a frame")
    left.set_ylabel("points of mIoU over no region, ISCTF")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False, fontsize=9, title="chosen by:",
                  title_fontsize=9, alignment="left")  # fmt: skip
    place = list(sweep).index(trained_for)
    values = {name: [seed["learned"][place] for seed in seeds] for name, seeds in curves.items()}
    _dots(styled(right, "y"), values, BLUE)
    right.set_xticks(range(len(values)), [NAMES[name] for name in values], fontsize=9)
    right.set_title(f"{trained_for} of 12 regions, by the learned s", loc="left", fontsize=10)
    right.set_ylabel("mIoU by seed, %")
    right.margins(x=0.25, y=0.25)
    return figure


def _plot_choices(axes: Any, seeds: list[dict[str, list[float]]], cost: Sequence[float]) -> None:
    groups = {
        "the learned s": (["learned"], BLUE, "-"),
        "entropy of the half column": (["entropy"], GREEN, "-"),
        "chance": ([name for name in seeds[0] if name.startswith("random")], GREY, "--"),
        "the lowest s": (["lowest"], ORANGE, "-"),
    }
    for label, (names, colour, line) in groups.items():
        curves = [[value - seed[name][0] for value in seed[name]] for seed in seeds for name in names]
        low, mean, high = zip(*((min(v), statistics.fmean(v), max(v)) for v in zip(*curves, strict=True)), strict=True)
        axes.plot(cost, mean, line, color=colour, label=label, marker="o", markersize=3.5, linewidth=1.6)
        axes.fill_between(cost, low, high, color=colour, alpha=0.10, linewidth=0)


def plot_boundary(
    rows: Mapping[str, list[dict[str, float]]], bands: list[dict[str, list[float]]], regions: Sequence[int]
) -> Figure:
    """Plot mIoU in classic and fast inference; and what fast inference costs, by distance to a border."""
    figure = make_figure(height=3.9)
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    _plot_inferences(styled(left, "y"), rows, regions)
    left.set_title("k of 12 regions, by seed", loc="left", fontsize=10)
    axes = styled(right, "y")
    for seed in bands:
        losses = [a - b for a, b in zip(seed["classic"], seed["fast"], strict=True)]
        axes.plot(range(len(losses)), losses, color=ORANGE, marker="o", markersize=4, linewidth=1.4)
    axes.axhline(0, color=DARK, linewidth=0.8)
    axes.set_xticks(range(4), ["0 to 7", "8 to 15", "16 to 23", "24 on"], fontsize=9)
    axes.set_xlabel("pixels to the nearest border of a region")
    axes.set_ylabel("pixel accuracy lost by SCTF, points")
    axes.set_title("all 12 regions, by seed", loc="left", fontsize=10)
    return figure


def _plot_inferences(axes: Any, rows: Mapping[str, list[dict[str, float]]], regions: Sequence[int]) -> None:
    shifts = {"classic": -0.12, "fast": 0.12}
    shown = [(name, k) for name, found in rows.items() for k in regions if f"classic at {k}" in found[0]]
    for place, (name, k) in enumerate(shown):
        for row in rows[name]:
            both = [row[f"{inference} at {k}"] for inference in shifts]
            axes.plot([place + shift for shift in shifts.values()], both, color=NEITHER, linewidth=1.2, zorder=1)
    for (inference, shift), colour in zip(shifts.items(), (GREY, BLUE), strict=True):
        values = {f"{NAMES[name]}\nk = {k}": [row[f"{inference} at {k}"] for row in rows[name]] for name, k in shown}
        _dots(axes, values, colour, shift, f"{inference} inference")
        axes.set_xticks(range(len(values)), list(values), fontsize=9)
    axes.set_ylabel("mIoU, %")
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    axes.margins(x=0.15, y=0.15)


def _dots(
    axes: Any, values: Mapping[str, list[float]], colour: str, shift: float = 0.0, label: str | None = None
) -> None:
    for place, each in enumerate(values.values()):
        at = place + shift
        axes.plot([at] * len(each), each, "o", color=colour, markersize=5, alpha=0.75, label=None if place else label)
        axes.plot([at - 0.08, at + 0.08], [statistics.fmean(each)] * 2, color=colour, linewidth=2.2)
