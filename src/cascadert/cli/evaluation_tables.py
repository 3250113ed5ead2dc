"""The tables of `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from cascadert.cli.console import out

if TYPE_CHECKING:
    from cascadert.calibration.evaluation import Evaluation, UncertaintyFigures


def print_evaluation(evaluation: Evaluation) -> None:
    """Print quality by row, IoU by class, and uncertainty where it was asked for."""
    _print_rows(evaluation)
    _print_classes(evaluation)
    if evaluation.uncertainty is not None:
        _print_uncertainty(evaluation.uncertainty)


def _print_rows(evaluation: Evaluation) -> None:
    from cascadert.jetson.evaluation_page import show_taken

    table = Table(Column("", no_wrap=True), box=SIMPLE_HEAD, pad_edge=False)
    for header in ("mIoU, %", "pixels right, %", f"blocks of {evaluation.better}"):
        table.add_column(header, justify="right")
    for row in evaluation.rows:
        table.add_row(row.name, _percent(row.miou), _percent(row.accuracy), show_taken(row))
    out.print(table)
    out.print(
        f"{evaluation.frames} frame(s), {evaluation.pixels:,} labelled pixels; oracles choose between "
        f"{evaluation.faster} and {evaluation.better}"
    )


def _print_classes(evaluation: Evaluation) -> None:
    """One line for each class that occurs; of several block oracles the first, that of the cascade's own blocks."""
    oracles = [row for row in evaluation.rows if row.kind == "block oracle"]
    rows = [row for row in evaluation.rows if row not in oracles[1:]]
    table = Table(Column("IoU, %", no_wrap=True), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for row in rows:
        table.add_column(row.name.replace(", ", "\n").replace(" ", "\n"), justify="right", no_wrap=True)
    for index in evaluation.occurring:
        table.add_row(evaluation.classes[index], *(_percent(row.class_iou[index], 1) for row in rows))
    out.print(table)


def _print_uncertainty(figures: UncertaintyFigures) -> None:
    unit = " bits" if figures.unit == "bits" else ""
    table = Table(Column(f"{figures.stage}: windows", no_wrap=True), box=SIMPLE_HEAD, pad_edge=False)
    for header in ("PAvPU, %", "right,\ncertain", "right,\nuncertain", "wrong,\ncertain", "wrong,\nuncertain"):
        table.add_column(header, justify="right")
    for row in figures.pavpu:
        right = row.accurate_certain, row.accurate_uncertain
        counts = (f"{count:,}" for count in (*right, row.inaccurate_certain, row.inaccurate_uncertain))
        table.add_row(f"{row.window} x {row.window}", _percent(row.value), *counts)
    out.print(table)
    means = ", ".join(f"{name} {mean:.4f}{unit}" for name, mean in figures.means.items())
    out.print(f"certain below {figures.threshold:.4f}{unit}; mean over all pixels: {means}")
    if figures.identity_error is not None:
        out.print(f"aleatoric and epistemic add up to entropy within {figures.identity_error:.1e}{unit}")
    if figures.least_epistemic is not None:
        out.print(f"the least epistemic uncertainty is {figures.least_epistemic:.1e}{unit}")


def _percent(share: float, digits: int = 2) -> str:
    return "-" if share != share else f"{100 * share:.{digits}f}"
