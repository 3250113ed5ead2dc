"""Plots of a comparison of precisions: scores against fp32's, IoU by class, SQNR by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascadert.calibration.gate import LIMITS
from cascadert.calibration.precision_report import REFERENCE, Decisions, PrecisionReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"torch": "#7a828e", "fp32": "#1c2026", "fp16": "#1f6fb2", "int8-tensorrt": "#0b6e4f", "int8-cpu": "#c2541d"}
KEPT, LOST, GAINED, NEITHER = "#0b6e4f", "#d1242f", "#8250df", "#c3c9d1"
_WIDTH_INCHES = 9.6


def plot_scores(decisions: Sequence[Decisions]) -> Figure:
    """Plot every block or frame of one decision: its score in fp32 against each row's, theta of both as lines."""
    columns = 2 if len(decisions) in (2, 4) else min(3, len(decisions))
    rows = -(-len(decisions) // columns)
    figure = make_figure(height=rows * (3.3 if columns == 3 else 4.0))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, decision in zip(panels, decisions, strict=False):
        _scatter(styled(axes), decision)
    for axes in panels[len(decisions) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _scatter(axes: Any, decision: Decisions) -> None:
    scored = np.isfinite(decision.reference) & np.isfinite(decision.found)
    reference, found = decision.reference[scored], decision.found[scored]
    wanted, chosen = decision.wanted[scored], decision.chosen[scored]
    groups = (
        ("refined by neither", ~wanted & ~chosen, NEITHER),
        ("refined by both", wanted & chosen, KEPT),
        ("lost", wanted & ~chosen, LOST),
        ("gained", ~wanted & chosen, GAINED),
    )
    for label, group, colour in groups:
        axes.scatter(reference[group], found[group], s=16 if label in ("lost", "gained") else 9, c=colour, label=label)
    if len(reference):
        low, high = min(reference.min(), found.min()), max(reference.max(), found.max())
        axes.plot([low, high], [low, high], color=NEITHER, linewidth=0.8, zorder=0)
    if decision.theta is not None and decision.refitted is not None:
        axes.axvline(decision.theta, color="#1c2026", linewidth=0.9, label="θ in fp32")
        axes.axhline(decision.refitted, color="#1c2026", linewidth=0.9, linestyle="--", label="θ refitted")
    axes.set_title(decision.row, loc="left", fontsize=10, fontweight="bold")
    unit = ", bits" if decision.unit == "bits" else ""
    axes.set_xlabel(f"score in fp32{unit}")
    axes.set_ylabel(f"score in {decision.row}{unit}")


def plot_class_iou(report: PrecisionReport) -> Figure:
    """Plot the cascade's IoU of each class that occurs, one bar for each row."""
    rows = [(row.name, row.quality.class_iou) for row in report.rows if row.quality is not None]
    occurs = np.flatnonzero(np.isfinite([iou for _, iou in rows]).any(axis=0))
    figure = make_figure(height=3.4)
    axes, width = styled(figure.subplots(), "y"), 0.82 / len(rows)
    for index, (name, iou) in enumerate(rows):
        places = np.arange(len(occurs)) + (index - (len(rows) - 1) / 2) * width
        axes.bar(places, 100 * np.array(iou)[occurs], width, color=COLOURS[name], label=name)
    names = [report.spec.classes.names[i] for i in occurs]
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(names) > 9 else {}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.set_ylabel("IoU of the cascade, %")
    figure.legend(loc="outside upper left", ncols=len(rows), frameon=False, fontsize=9)
    return figure


def plot_sqnr(report: PrecisionReport) -> Figure:
    """Plot the SQNR of each stage's logits or carried tensors, with the limit of each row."""
    rows = [row for row in report.rows if row.name != REFERENCE]
    stages = list(rows[0].sqnr_db)
    figure = make_figure(height=0.7 + 0.32 * len(rows) * len(stages))
    axes, labels = styled(figure.subplots(), "x"), []
    for place, (stage, row) in enumerate((stage, row) for stage in stages for row in rows):
        value, limit = row.sqnr_db[stage], LIMITS[row.name].sqnr_db
        if np.isfinite(value):
            axes.barh(place, value, 0.66, color=COLOURS[row.name])
        shown = f"{value:.1f} dB" if np.isfinite(value) else "no difference" if value > 0 else "no signal"
        axes.annotate(shown, (max(value, 0) if np.isfinite(value) else 0, place), xytext=(4, 0), va="center",
                      textcoords="offset points", fontsize=8)  # fmt: skip
        axes.plot([limit, limit], [place - 0.42, place + 0.42], color=LOST, linewidth=1.4)
        labels.append(f"{stage}, {row.name}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("SQNR of logits and carried tensors on the same inputs, dB; limits in red")
    return figure


def make_figure(height: float) -> Figure:
    """Return an empty figure of a page's width; its height in inches."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    return Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")


def styled(axes: Any, grid: Literal["both", "x", "y"] = "both") -> Any:
    """Return axes as all plots have them: a faint grid, no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, alpha=0.25)
    axes.tick_params(labelsize=9)
    return axes
