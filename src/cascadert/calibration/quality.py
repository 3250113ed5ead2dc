"""What is made of a precision's numbers: the row that a bundle keeps, and which stages to blame."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cascadert.bundle import BundleManifest, QualityRow
from cascadert.calibration.gate import SCORE_ERROR_LIMITS, decision_checks
from cascadert.calibration.precision_report import PrecisionRow
from cascadert.calibration.selection_metrics import SelectionAgreement


def at_fault(row: PrecisionRow, manifest: BundleManifest) -> list[str]:
    """Name the stages that should be given less int8, when a row is not within its limits.

    Where decisions differ from those in fp32, the stages whose scores decide and all that these are made of; otherwise
    all stages.
    """
    other_blocks = any(not check.passed for check in decision_checks(row))
    if other_blocks or any(error.mean > SCORE_ERROR_LIMITS[error.unit] for error in row.score_errors.values()):
        blamed = {stage.select.producer for stage in manifest.stages if stage.select is not None}
        for stage in reversed(manifest.stages):
            if stage.name in blamed:
                blamed |= {entry.producer for entry in stage.inputs}
        return [stage.name for stage in manifest.stages if stage.name in blamed]
    return [stage.name for stage in manifest.stages]


def _iou(decisions: Mapping[str, SelectionAgreement]) -> float:
    least = SelectionAgreement.least_iou(decisions)
    return 1.0 if least is None else least


def quality_row(row: PrecisionRow) -> QualityRow:
    """Return what a bundle says of a precision."""
    quality = row.quality
    return QualityRow.model_validate(
        {
            "numerics": row.name,
            "label_agreement": row.label_agreement,
            "sqnr_db": {name: value if math.isfinite(value) else None for name, value in row.sqnr_db.items()},
            "score_errors": {name: error.mean for name, error in row.score_errors.items()},
            "iou_selected_before": _iou(row.before),
            "iou_selected": _iou(row.after),
            "mean_n": sum(row.mean_n.values()),
            "miou_fast": None if quality is None else quality.miou_fast,
            "miou": None if quality is None else quality.miou,
        }
    )
