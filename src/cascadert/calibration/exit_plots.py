"""Plots of exits: mIoU against time, and who leaves where against the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cascadert.calibration.exit_report import CurvePoint, ExitReport
from cascadert.calibration.plots import make_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _FRONT, _PLAN, _MACS = "#1c2026", "#1f6fb2", "#c2541d", "#0b6e4f"


def plot_front(report: ExitReport) -> Figure:
    """Plot mIoU against mean latency: exits alone, plans that no other beats, and the one that was asked for."""
    figure = make_figure(height=4.2)
    axes = styled(figure.subplots())
    front = [(row.latency_ms, 100 * row.miou) for row in report.front]
    axes.step(*np.array(front).T, where="post", color=_FRONT, linewidth=1.2, marker="o", markersize=3.5,
              label="best plans")  # fmt: skip
    axes.scatter([row.judged.latency_ms for row in report.front], [100 * row.judged.quality for row in report.front],
                 s=14, facecolors="none", edgecolors=_FRONT, label="the same on held-out images")  # fmt: skip
    axes.scatter([row.latency_ms for row in report.exits], [100 * row.miou for row in report.exits], s=34, c=_INK,
                 marker="s", label="one exit alone")  # fmt: skip
    for row in report.exits:
        axes.annotate(row.name, (row.latency_ms, 100 * row.miou), xytext=(6, -11), textcoords="offset points",
                      fontsize=9)  # fmt: skip
    if report.plan is not None:
        axes.scatter([report.plan.latency_ms], [100 * report.plan.miou], s=150, c=_PLAN, marker="*", zorder=3,
                     label="chosen")  # fmt: skip
    axes.set_xlabel("mean latency, ms")
    axes.set_ylabel("mIoU, %")
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_curve(points: Sequence[CurvePoint], names: Sequence[str]) -> Figure:
    """Plot exit rates, mean multiply-adds and mIoU against the threshold that all exits have in common.

    Where it changes nothing, from 0 and to 1, only some of the range is shown.
    """
    figure = make_figure(height=7.0)
    rates_axes, macs_axes, quality_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.5, 1.5))
    thresholds = [point.threshold for point in points]
    rates = 100 * np.array([point.rates for point in points])
    shades = [str(shade) for shade in np.linspace(0.85, 0.35, len(names))]
    styled(rates_axes).stackplot(thresholds, rates.T, colors=shades, step="pre", labels=names)
    rates_axes.set_ylabel("images that leave, %")
    rates_axes.set_ylim(0, 100)
    styled(macs_axes).plot(thresholds, [point.macs / 1e9 for point in points], color=_MACS, drawstyle="steps-pre")
    macs_axes.set_ylabel("mean GMACs")
    macs_axes.set_ylim(bottom=0)
    styled(quality_axes).plot(thresholds, [100 * point.miou for point in points], color=_PLAN, drawstyle="steps-pre")
    quality_axes.set_ylabel("mIoU, %")
    quality_axes.set_xlabel("threshold: an image leaves where its confidence is as high")
    quality_axes.set_xlim(*_where_it_matters(points))
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _where_it_matters(points: Sequence[CurvePoint]) -> tuple[float, float]:
    """Return the thresholds between which images change their exits, and a margin."""
    changing = [i for i in range(1, len(points)) if points[i].rates != points[i - 1].rates]
    if not changing:
        return points[0].threshold, points[-1].threshold
    low, high = points[changing[0] - 1].threshold, points[changing[-1]].threshold
    margin = 0.12 * (high - low)
    return max(points[0].threshold, low - margin), min(points[-1].threshold, high + margin)
