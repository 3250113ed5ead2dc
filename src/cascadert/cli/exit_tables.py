"""The tables of `exits`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from cascadert.cli.console import out

_PLANS = 12

if TYPE_CHECKING:
    from cascadert.calibration.exit_report import ExitReport, PlanRow


def print_exits(report: ExitReport) -> None:
    """Print each exit alone, some of the plans that no other beats, and the one that was asked for."""
    _print_alone(report)
    shown = report.some_of_front(_PLANS)
    searched = f"searched on {report.images - report.held_out} frames and judged on {report.held_out} others"
    _print_plans(f"plans that no other beats, {searched}", shown)
    if len(shown) < len(report.front):
        out.print(f"{len(shown)} of {len(report.front)} plans that no other beats; --json has all")
    if report.plan is not None:
        _print_plans(f"chosen plan, {searched}", [report.plan])
    how = "exits beside the segments that follow" if report.speculative else "everything in a row"
    out.print(
        f"{report.images} frame(s), of which {report.held_out} are held out; times: {report.times_from}, as medians; "
        f"{how}"
    )


def _print_alone(report: ExitReport) -> None:
    table = Table(Column("exit", no_wrap=True), box=SIMPLE_HEAD, pad_edge=False)
    table.title, table.title_justify = f"one exit alone, on all {report.images} frames", "left"
    for header in ("mean confidence", "mIoU, %", "ms", "GMACs"):
        table.add_column(header, justify="right")
    for row in report.exits:
        confidence = "-" if row.confidence != row.confidence else f"{row.confidence:.3f}"
        table.add_row(row.name, confidence, f"{100 * row.miou:.2f}", f"{row.latency_ms:.2f}", f"{row.macs / 1e9:.3f}")
    out.print(table)


def _print_plans(title: str, rows: Sequence[PlanRow]) -> None:
    table = Table(Column("leave at,\nif as confident as"), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.title, table.title_justify = title, "left"
    for header in ("\nimages, %", "\nms", "\nmIoU, %", "\nGMACs", "judged:\nms", "judged:\nmIoU, %"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        rates = "/".join(f"{100 * rate:.0f}" for rate in row.rates)
        table.add_row(
            _spell(row), rates, f"{row.latency_ms:.2f}", f"{100 * row.miou:.2f}", f"{row.macs / 1e9:.3f}",
            f"{row.judged.latency_ms:.2f}", f"{100 * row.judged.quality:.2f}",
        )  # fmt: skip
    out.print(table)


def _spell(row: PlanRow) -> str:
    """Return the exits, each with the confidence at which an image leaves; the last takes all that is left."""
    early = [f"{name} {th:.4f}" for name, th in zip(row.exits[:-1], row.thresholds[:-1], strict=True)]
    return ", ".join([*early, row.exits[-1]])
