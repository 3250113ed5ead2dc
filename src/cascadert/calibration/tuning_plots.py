"""Plots of a tuning: mIoU against time, n against theta, IoU by class, and scores with theta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadert.calibration.plots import make_figure, styled
from cascadert.calibration.tuning_report import BLOCK_ORACLE, EVERY, FAST, PIXEL_ORACLE, Curve, Outcome, TuningReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _FRONT, _CHOSEN, _SOFT = "#1c2026", "#1c2026", "#c2541d", "#7a828e"
_CURVES = ("#1f6fb2", "#0b6e4f", "#8250df", "#b08800", "#d1242f", "#57606a", "#2aa198", "#bf3989")
_BARS = ("#c3c9d1", "#c2541d", "#1f6fb2", "#0b6e4f")
_DECADE = 12  # slowest over fastest, from which on a logarithmic axis shows more


def plot_quality(report: TuningReport) -> Figure:
    """Plot mIoU against the time that counts: every variant over theta, what no other beats, and the bounds."""
    figure = make_figure(height=5.2)
    axes = styled(figure.subplots())
    for index, curve in enumerate(report.curves):
        colour = _CURVES[index % len(_CURVES)]
        found = sorted((time_ms(report, point.seen), 100 * point.seen.miou) for point in curve.points)
        axes.plot(*np.array(found).T, color=colour, marker="o", markersize=3, linewidth=1, label=str(curve.variant))
        ends = [curve.references[kind].seen for kind in (FAST, EVERY)]
        for end, marker in zip(ends, "sD", strict=True):
            axes.scatter(time_ms(report, end), 100 * end.miou, s=34, c=colour, marker=marker, zorder=3)
    front = [report.at(*place).seen for place in report.front]
    axes.step([time_ms(report, one) for one in front], [100 * one.miou for one in front], where="post", color=_FRONT,
              linewidth=2.6, alpha=0.35, label="no other beats it", zorder=1)  # fmt: skip
    _bounds(axes, report)
    if report.chosen is not None:
        for outcome, filled, label in ((report.chosen.seen, True, "chosen"), (report.chosen.held, False, "held out")):
            axes.scatter(time_ms(report, outcome), 100 * outcome.miou, s=190, marker="*", zorder=4, label=label,
                         facecolors=_CHOSEN if filled else "none", edgecolors=_CHOSEN)  # fmt: skip
    _logarithmic(axes, [time_ms(report, point.seen) for curve in report.curves for point in curve.points])
    axes.set_xlabel(time_label(report))
    axes.set_ylabel("mIoU, %")
    axes.scatter([], [], s=34, c=_SOFT, marker="s", label="first stage alone")
    axes.scatter([], [], s=34, c=_SOFT, marker="D", label="every block refined")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def time_ms(report: TuningReport, outcome: Outcome) -> float:
    """Return the time that the goal is about; without one, of a frame with stages in turn."""
    return outcome.latency_ms if report.goal is None else report.goal.time_ms(outcome)


def time_label(report: TuningReport) -> str:
    """Name that time."""
    if report.goal is not None and report.goal.kind == "target-fps":
        return "mean period of the overlapped stream, ms"
    return "mean time of a frame, stages in turn, ms"


def _bounds(axes: Any, report: TuningReport) -> None:
    """Draw the oracles of the chosen variant, and the goal."""
    references = report.curves[report.main].references
    for kind, style in ((PIXEL_ORACLE, ":"), (BLOCK_ORACLE, "--")):
        axes.axhline(100 * references[kind].seen.miou, color=_SOFT, linewidth=1.1, linestyle=style, label=kind)
    goal = report.goal
    if goal is None or report.choice is None:
        return
    if goal.kind == "max-drop":
        axes.axhline(100 * report.choice.best_miou - goal.value, color=_CHOSEN, linewidth=1.1, label=str(goal))
    else:
        axes.axvline(goal.limit_ms, color=_CHOSEN, linewidth=1.1, label=str(goal))


def _logarithmic(axes: Any, times: Sequence[float]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    if max(times) > _DECADE * min(times):
        axes.set_xscale("log", subs=(2, 5))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(ScalarFormatter())
        axes.tick_params(which="both", labelsize=9)
    else:
        axes.xaxis.set_minor_formatter(NullFormatter())


def plot_counts(report: TuningReport, stage: str) -> Figure:
    """Plot what one stage refines against its theta: the share of the blocks by variant, and how frames differ."""
    figure = make_figure(height=3.8)
    axes = styled(figure.subplots())
    for indices in _alike(report.curves, stage):
        curve = report.curves[indices[0]]
        thetas, shares = _shares(curve, stage)
        joined = "-" if len(curve.points[0].thetas) == 1 else ""
        colour = _CURVES[(report.main if report.main in indices else indices[0]) % len(_CURVES)]
        halos = ", ".join(str(report.curves[i].variant.halo) for i in indices[1:])
        axes.plot(thetas, shares[0], color=colour, marker="o", markersize=3, linewidth=1, linestyle=joined,
                  label=f"{curve.variant}{', ' if halos else ''}{halos}")  # fmt: skip
        if report.main in indices and joined:
            axes.fill_between(thetas, shares[1], shares[2], color=colour, alpha=0.15, linewidth=0,
                              label="10 to 90 % of its frames")  # fmt: skip
    _theta_line(axes, report, stage)
    axes.set_xlabel(f"theta of {stage}{_unit(report.curves[report.main], stage)}")
    axes.set_ylabel("refined, % of the blocks")
    axes.set_ylim(-3, 103)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _alike(curves: Sequence[Curve], stage: str) -> list[list[int]]:
    """Return the indices of curves with the same n at the same thetas: a halo changes neither."""
    groups: dict[Any, list[int]] = {}
    for index, curve in enumerate(curves):
        key = curve.variant.numerics, tuple((point.thetas[stage], point.seen.n[stage]) for point in curve.points)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _shares(curve: Curve, stage: str) -> tuple[list[float], Any]:
    counts = [point.seen.n[stage] for point in curve.points]
    shares = [[100 * value / curve.blocks for value in (one.mean, one.q10, one.q90)] for one in counts]
    return [point.thetas[stage] for point in curve.points], np.array(shares).T


def plot_scores(report: TuningReport, stage: str) -> Figure:
    """Plot the histogram of the scores before one decision, and its theta."""
    figure = make_figure(height=2.8)
    axes = styled(figure.subplots(), "y")
    curve = report.curves[report.main]
    found = curve.scores[stage]
    axes.stairs(found.counts, found.edges, fill=True, color=_CURVES[report.main % len(_CURVES)], alpha=0.55)
    _theta_line(axes, report, stage)
    axes.set_xlabel(f"score before {stage}{_unit(curve, stage)}")
    axes.set_ylabel("blocks")
    if report.choice is not None:
        axes.legend(frameon=False, fontsize=9)
    return figure


def _unit(curve: Curve, stage: str) -> str:
    return ", bits" if curve.scores[stage].unit == "bits" else ", share"


def _theta_line(axes: Any, report: TuningReport, stage: str) -> None:
    if report.chosen is not None:
        axes.axvline(report.chosen.thetas[stage], color=_CHOSEN, linewidth=1.3, label="chosen theta")


def plot_class_iou(classes: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Figure:
    """Plot the IoU of each class that occurs, one bar for each way to label."""
    occurs = np.flatnonzero(np.isfinite(list(rows.values())).any(axis=0)).tolist()
    figure = make_figure(height=3.8)
    axes, width = styled(figure.subplots(), "y"), 0.82 / len(rows)
    for index, (name, iou) in enumerate(rows.items()):
        places = np.arange(len(occurs)) + (index - (len(rows) - 1) / 2) * width
        axes.bar(places, 100 * np.nan_to_num(np.array(iou)[occurs]), width, color=_BARS[index], label=name)
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(occurs) > 9 else {}
    axes.set_xticks(range(len(occurs)), [classes[i] for i in occurs], **slanted)
    axes.set_ylabel("IoU, %")
    figure.legend(loc="outside upper left", ncols=len(rows), frameon=False, fontsize=9)
    return figure
