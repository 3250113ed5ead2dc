"""The page of a comparison of precisions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cascadert.calibration.exhibits import Exhibit
from cascadert.calibration.page import Origin, jpeg_uri, render_page, svg_uri
from cascadert.calibration.pavpu import PAvPU
from cascadert.calibration.pictures import (
    BETTER,
    GAINED,
    KEPT,
    LOST,
    OTHER,
    WORSE,
    Colour,
    draw_difference,
    draw_selection,
)
from cascadert.calibration.plots import plot_class_iou, plot_scores, plot_sqnr
from cascadert.calibration.precision_report import REFERENCE, PrecisionReport
from cascadert.calibration.selection_metrics import NEAR_THETA
from cascadert.errors import import_extra
from cascadert.stage_spec import LABELS

_TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class ShownFrame:
    """One of the worst frames, drawn."""

    exhibit: Exhibit
    selection: str
    difference: str


def write_page(path: Path, report: PrecisionReport, origin: Origin) -> None:
    """Write the page, and the folders that lead to it.

    Raises:
        MissingExtra: matplotlib or jinja2 is not installed.
        SourceError: the file cannot be written.
    """
    import_extra("matplotlib", "report", "to draw plots")
    values = {
        "report": report,
        "origin": origin,
        "reference": report.row(REFERENCE),
        "labelled": report.row(REFERENCE).quality is not None,
        "sqnr": svg_uri(plot_sqnr(report)),
        "scatters": dict(_scatters(report)),
        "class_iou": svg_uri(plot_class_iou(report)) if report.row(REFERENCE).quality else None,
        "frames": [_shown(exhibit, report) for exhibit in report.exhibits],
        "failed": [check for check in report.checks if not check.passed],
        "first": next(name for name, wiring in report.spec.wiring.items() if LABELS in wiring.emit),
        "several": len(report.row(REFERENCE).after) > 1,
        "near_theta": NEAR_THETA,
        "scorer": {name: wiring.after for name, wiring in report.spec.wiring.items()},
        "window": PAvPU.window,
        "block_key": {"both": _hex(KEPT), "fp32 only: lost": _hex(LOST), "this row only: gained": _hex(GAINED)},
        "pixel_key": _pixel_key(report),
        "infinity": math.inf,
    }
    render_page(path, _TEMPLATE, values)


def _pixel_key(report: PrecisionReport) -> dict[str, str]:
    if report.row(REFERENCE).quality is None:
        return {"labels unknown": _hex(OTHER)}
    return {"right here, wrong in fp32": _hex(BETTER), "the reverse": _hex(WORSE), "neither right": _hex(OTHER)}


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _scatters(report: PrecisionReport) -> Iterator[tuple[str, str]]:
    """Yield each decision's stage and its plot."""
    for stage in dict.fromkeys(decision.stage for decision in report.decisions):
        yield stage, svg_uri(plot_scores([decision for decision in report.decisions if decision.stage == stage]))


def _shown(exhibit: Exhibit, report: PrecisionReport) -> ShownFrame:
    pictures = draw_selection(exhibit, report.grid), draw_difference(exhibit)
    return ShownFrame(exhibit, *map(jpeg_uri, pictures))
