"""The tables of a tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from cascadert.cli.console import out
from cascadert.cli.exit_tables import print_exits

if TYPE_CHECKING:
    from cascadert.calibration.tuning_report import Choice, Curve, ExitChoice, Outcome, Point, TuningReport, Variant

_SAID = {
    "fast": "{} alone",
    "every block": "{} on every block",
    "block oracle": "block oracle",
    "pixel oracle": "pixel oracle",
}


def print_tuning(report: TuningReport) -> None:
    """Print what no other beats, the bounds, and the choice with the opinion of held-out frames."""
    if report.exits is not None:
        print_exits(report.exits)
    else:
        _print_front(report)
        _print_references(report)
        _print_choice(report)
    choice = report.choice or report.exit_choice
    if report.goal is not None and choice is not None:
        _print_verdict(report, choice)


def _print_front(report: TuningReport) -> None:
    chose = f"chosen on {report.frames - report.held_out} frames, {report.held_out} others held out"
    table = _table(f"what no other beats; {chose}", "block, halo", Column("theta", justify="right", no_wrap=True))
    for curve, point in report.front:
        found = report.at(curve, point)
        chosen = report.choice is not None and (curve, point) == (report.choice.curve, report.choice.point)
        variant, held = _short(report.curves[curve].variant), f"{100 * found.held.miou:.2f}"
        table.add_row(variant, _thetas(found), *_cells(found.seen), held, style="bold" if chosen else None)
    out.print(table)


def _print_references(report: TuningReport) -> None:
    curve = report.curves[report.main]
    table = _table(f"bounds of {curve.variant}", "labels by")
    for reference in curve.references.values():
        table.add_row(
            _SAID[reference.kind].format(reference.stage), *_cells(reference.seen), f"{100 * reference.held.miou:.2f}"
        )
    out.print(table)


def _short(variant: Variant) -> str:
    return str(variant).removeprefix("block ").replace("halo ", "")


def _table(title: str, *names: str | Column) -> Table:
    columns = [Column(name, no_wrap=True) if isinstance(name, str) else name for name in names]
    table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.title, table.title_justify = title, "left"
    for header in ("mIoU\n%", "mean\nn", "n\np95", "ms,\nin turn", "ms,\nperiod", "G\nMACs", "held out\nmIoU, %"):
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _cells(found: Outcome) -> list[str]:
    if not found.n:
        return [f"{100 * found.miou:.2f}", "", "", "", "", ""]
    counts = found.n.values()
    return [
        f"{100 * found.miou:.2f}",
        "/".join(f"{one.mean:.2f}" for one in counts),
        "/".join(f"{one.p95:.0f}" for one in counts),
        f"{found.latency_ms:.1f}",
        f"{found.period_ms:.1f}",
        f"{found.macs / 1e9:.2f}",
    ]


def _print_choice(report: TuningReport) -> None:
    if report.choice is None or report.chosen is None:
        curve = report.curves[0]
        out.print(f"nothing was chosen: theta stays {_thetas(curve.points[curve.own])}")
        return
    curve = report.curves[report.choice.curve]
    for label, found in (("chosen", report.chosen.seen), ("held out", report.chosen.held)):
        out.print(f"{label}: {_sentence(curve, report.chosen, found)}", soft_wrap=True)


def _sentence(curve: Curve, point: Point, found: Outcome) -> str:
    n = ", ".join(f"{one.mean:.2f}" for one in found.n.values())
    return (
        f"{curve.variant}, theta {_thetas(point)}: {100 * found.miou:.2f} % mIoU, {n} of {curve.blocks} blocks, "
        f"{found.latency_ms:.1f} ms in turn, {found.period_ms:.1f} ms overlapped"
    )


def _print_verdict(report: TuningReport, choice: Choice | ExitChoice) -> None:
    if report.goal is not None and report.goal.kind == "max-drop":
        best = f"every block refined gives {100 * choice.best_miou:.2f} % mIoU, held out"
        if report.exits is not None:
            best = f"the final exit gives {100 * choice.best_miou:.2f} % mIoU, held out"
        out.print(f"{best} {100 * choice.held_best_miou:.2f} %")
    verdict = (
        "is met on held-out frames, too"
        if choice.held_met
        else "is MISSED on held-out frames: give a stricter one, or more frames"
    )
    out.print(f"{report.goal}: {verdict}")


def _thetas(point: Point) -> str:
    return ", ".join(f"{theta:.4g}" for theta in point.thetas.values())
