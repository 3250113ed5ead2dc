"""How what calibration found is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from cascadert.cli.console import out

if TYPE_CHECKING:
    from cascadert.bundle import Bundle, BundleManifest, QualityRow
    from cascadert.precision import Numerics


def print_calibration(bundle: Bundle) -> None:
    """Print what a calibrated bundle says of its calibration; nothing for another."""
    entry = bundle.manifest.calibration
    if entry is None:
        return
    out.print(Text(f"calibrated on {entry.images} frames of {entry.source}"))
    out.print(_plan_table(bundle))
    print_thetas(bundle.manifest)
    if entry.quality:
        out.print(_quality_table(entry.quality))
        out.print("of held-out frames, in ONNX Runtime; SQNR and IoU against fp32, the least of any stage")


def print_thetas(manifest: BundleManifest) -> None:
    """Print theta in every precision, for each stage that has one."""
    for name, thetas in _thetas(manifest):
        shown = ", ".join(f"{theta:.4g} in {numerics}" for numerics, theta in thetas.items())
        out.print(f"theta of {name}: {shown}")


def _thetas(manifest: BundleManifest) -> Iterator[tuple[str, Mapping[Numerics, float]]]:
    from cascadert.spec import ThresholdPolicy

    for stage in manifest.stages:
        if stage.select is not None and isinstance(stage.select.policy, ThresholdPolicy):
            yield stage.name, {"fp32": stage.select.policy.theta, **stage.select.thetas}


def _plan_table(bundle: Bundle) -> Table:
    kept = Column("operators kept in floating point", justify="right")
    table = Table("stage", "precision", "calibrator", kept, box=SIMPLE_HEAD)
    for stage, found in bundle.calibrations.items():
        table.add_row(stage, "fp16", "", str(len(found.fp16_keep)))
        for dialect, plan in found.int8.items():
            table.add_row(stage, f"int8-{dialect}", plan.calibrator, str(len(plan.keep)))
    return table


def _quality_table(rows: tuple[QualityRow, ...]) -> Table:
    labelled = any(row.miou is not None for row in rows)
    headers = ["labels\n%", *(["mIoU\n%"] if labelled else []), "SQNR\ndB", "score\nerror", "select\nIoU"]
    table = Table(Column("", no_wrap=True), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for header in (*headers, "refit\nIoU", "n\n"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        quality = ["" if row.miou is None else f"{100 * row.miou:.2f}"] if labelled else []
        ious = (f"{iou:.3f}" for iou in (row.iou_selected_before, row.iou_selected))
        error = show_score_error(row.score_errors.values())
        cells = [f"{100 * row.label_agreement:.2f}", *quality, _least_sqnr(row.sqnr_db), error]
        table.add_row(row.numerics, *cells, *ious, f"{row.mean_n:.2f}")
    return table


def _least_sqnr(sqnr_db: Mapping[str, float | None]) -> str:
    """Show the noisiest stage; one without noise has no SQNR."""
    return show_sqnr(min((found for found in sqnr_db.values() if found is not None), default=math.inf))


def show_sqnr(sqnr_db: float) -> str:
    """Return an SQNR for a table; what has no noise is exact."""
    return "exact" if sqnr_db == math.inf else f"{sqnr_db:.1f}"


def show_score_error(errors: Iterable[float]) -> str:
    """Return the largest error of any stage's scores, in whatever unit they are; nothing where none makes scores."""
    largest = max(errors, default=None)
    return "" if largest is None else f"{largest:.4f}"
