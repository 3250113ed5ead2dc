"""The page of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascadert.calibration.evaluation import Evaluation, EvaluationRow
from cascadert.calibration.page import Origin, jpeg_uri, render_page
from cascadert.jetson.evaluation_gallery import Sheet
from cascadert.jetson.evaluation_sheet import GAINED, NEITHER, UNLABELLED, WRONG, Colour
from cascadert.spec import CascadeSpec

_TEMPLATE = Path(__file__).with_name("evaluation.html.j2")
_KEY = {
    "wrong; for the oracle: only the faster is right": WRONG,
    "only the better is right": GAINED,
    "neither is right": NEITHER,
    "no label": UNLABELLED,
}


def write_evaluation(
    path: Path, spec: CascadeSpec, evaluation: Evaluation, sheets: Sequence[Sheet], origin: Origin
) -> None:
    """Write the page, and the folders that lead to it.

    Raises:
        MissingExtra: jinja2 is not installed.
        SourceError: the file cannot be written.
    """
    values = {
        "name": spec.name,
        "evaluation": evaluation,
        "origin": origin,
        "taken": show_taken,
        "sheets": [(sheet, jpeg_uri(sheet.picture)) for sheet in sheets],
        "key": {meaning: _hex(colour) for meaning, colour in _KEY.items()},
        "palette": {spec.classes.names[i]: _hex(spec.classes.palette[i]) for i in evaluation.occurring},
        "means": evaluation.uncertainty.means if evaluation.uncertainty else {},
    }
    render_page(path, _TEMPLATE, values)


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def show_taken(row: EvaluationRow) -> str:
    """Return how many blocks come from the better side, one number for each decision."""
    return " + ".join(f"{taken.mean_n:.2f} of {taken.blocks}" for taken in row.taken)
