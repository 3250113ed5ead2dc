"""The page of a search over exits."""

from __future__ import annotations

from pathlib import Path

from cascadert.calibration.exit_plots import plot_curve, plot_front
from cascadert.calibration.exit_report import ExitReport
from cascadert.calibration.page import Origin, render_page, svg_uri

_TEMPLATE = Path(__file__).with_name("exits.html.j2")
_PLANS = 24


def write_exit_page(path: Path, report: ExitReport, origin: Origin) -> None:
    """Write the page, and the folders that lead to it.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
        SourceError: the file cannot be written.
    """
    values = {
        "report": report,
        "plans": report.some_of_front(_PLANS),
        "origin": origin,
        "front": svg_uri(plot_front(report)),
        "curve": svg_uri(plot_curve(report.curve, [row.name for row in report.exits])),
    }
    render_page(path, _TEMPLATE, values)
