"""The page of a tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascadert.calibration.exit_plots import plot_curve, plot_front
from cascadert.calibration.page import Origin, render_page, svg_uri
from cascadert.calibration.tuning_plots import (
    plot_class_iou,
    plot_counts,
    plot_quality,
    plot_scores,
    time_label,
    time_ms,
)
from cascadert.calibration.tuning_report import TuningReport

_TEMPLATE = Path(__file__).with_name("tuning.html.j2")
_PLANS = 16


def write_tuning_page(path: Path, report: TuningReport, origin: Origin, precisions: str) -> None:
    """Write the page, and the folders that lead to it.

    Args:
        path: of the page.
        report: what was found.
        origin: what made it.
        precisions: file name of the page of calibrated precisions, beside this one.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
        SourceError: the file cannot be written.
    """
    values = {
        "report": report,
        "origin": origin,
        "precisions": precisions,
        "times_note": "" if _times_from(report).startswith("this run") else ", but times, which are a bench's",
        "class_iou": svg_uri(plot_class_iou(report.classes, report.class_iou)),
        **(_of_curves(report) if report.exits is None else _of_exits(report)),
    }
    render_page(path, _TEMPLATE, values)


def _times_from(report: TuningReport) -> str:
    return report.curves[report.main].times_from if report.exits is None else report.exits.times_from


def _of_curves(report: TuningReport) -> dict[str, Any]:
    stages = list(report.curves[report.main].scores)
    return {
        "quality": svg_uri(plot_quality(report)),
        "counts": {stage: svg_uri(plot_counts(report, stage)) for stage in stages},
        "scores": {stage: svg_uri(plot_scores(report, stage)) for stage in stages},
        "front": [(report.curves[curve], report.at(curve, point)) for curve, point in report.front],
        "time_label": time_label(report),
        "time_ms": lambda outcome: time_ms(report, outcome),
    }


def _of_exits(report: TuningReport) -> dict[str, Any]:
    assert report.exits is not None
    names = [row.name for row in report.exits.exits]
    return {
        "quality": svg_uri(plot_front(report.exits)),
        "rates": svg_uri(plot_curve(report.exits.curve, names)),
        "plans": report.exits.some_of_front(_PLANS),
    }
