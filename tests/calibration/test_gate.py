"""The limits hold where they should and fail where they must, and what fails is named first."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from cascadert.calibration.gate import (
    INT8_LABEL_AGREEMENT_LIMIT,
    INT8_SQNR_LIMIT_DB,
    LIMITS,
    MIOU_LOSS_LIMIT,
    SCORE_ERROR_LIMITS,
    SELECTION_IOU_LIMIT,
    Check,
)
from cascadert.calibration.precision_report import PrecisionReport, PrecisionRow, Quality, ScoreError
from cascadert.calibration.selection_metrics import Selection, SelectionAgreement
from cascadert.errors import ParityError
from cascadert.spec import CascadeSpec, parse_spec
from cascadert.stage_spec import Unit


@pytest.fixture
def spec(toy_data: dict[str, Any]) -> CascadeSpec:
    return parse_spec(toy_data, "toy")


def agreement(common: int, lost: int) -> SelectionAgreement:
    """Of one frame on which fp32 refines `common + lost` blocks, and another row `common` of them."""
    scores, order = np.linspace(2, 0, 100, dtype=np.float32), np.arange(100, dtype=np.int32)
    agreement = SelectionAgreement()
    agreement.add(Selection(scores, order, common + lost), Selection(scores, order, common))
    return agreement


def errors(mean: float, unit: Unit = "bits") -> dict[str, ScoreError]:
    return {"fast": ScoreError(mean, mean, unit)}


def exits(near: int, far: int) -> SelectionAgreement:
    """Of twenty frames: on some a whole stage runs in fp32 alone, with a score next to theta or clear of it."""
    agreement = SelectionAgreement(whole=True)
    for i in range(20):
        score = 0.505 if i < near else 0.7
        reference = Selection(np.float32([score]), np.int32([0]), 1, 0.5)
        agreement.add(reference, Selection(np.float32([score]), np.int32([0]), int(i >= near + far), 0.5))
    return agreement


def row(name: str, miou: float | None = None, **changes: Any) -> PrecisionRow:
    quality = None if miou is None else Quality(miou, miou, miou, (miou,) * 4, None, None)
    same = {"accurate": agreement(40, 0)}
    perfect = PrecisionRow(
        name,
        1.0,
        {"fast": 1.0, "accurate": 1.0},
        {"fast": math.inf},
        errors(0.0),
        same,
        same,
        {"accurate": 4.0},
        quality,
    )
    return dataclasses.replace(perfect, **changes)


def report(spec: CascadeSpec, *rows: PrecisionRow, vacuous: tuple[str, ...] = ()) -> PrecisionReport:
    return PrecisionReport(spec, rows, frames=2, classes=3, vacuous=vacuous)


def test_what_is_like_fp32_passes(spec: CascadeSpec) -> None:
    perfect = report(spec, *(row(name) for name in LIMITS))
    perfect.check()
    assert perfect.passed
    assert {check.row for check in perfect.checks} == LIMITS.keys() - {"fp32"}
    assert [check.what for check in perfect.checks if check.row == "fp16"] == [
        "label agreement",
        "SQNR of fast",
        "score error of fast",
        "selection IoU of accurate",
    ]


@pytest.mark.parametrize(
    ("change", "within", "beyond", "message"),
    [
        ("label_agreement", INT8_LABEL_AGREEMENT_LIMIT, 0.9, r"label agreement: is 90\.00 %; .* at least 96 %"),
        ("sqnr_db", {"fast": INT8_SQNR_LIMIT_DB}, {"fast": 14.9}, r"SQNR of fast: is 14\.9 dB; .* at least 15 dB"),
        ("sqnr_db", {"fast": math.inf}, {"fast": math.nan}, "SQNR of fast: is nan dB"),
        (
            "score_errors",
            errors(SCORE_ERROR_LIMITS["bits"]),
            errors(0.0201),
            r"score error of fast: is 0\.0201 bits; .* at most 0\.02 bits",
        ),
        (
            "score_errors",
            errors(SCORE_ERROR_LIMITS["share"], "share"),
            errors(0.0201, "share"),
            r"score error of fast: is 0\.0201; .* at most 0\.02;",
        ),
        ("after", {"accurate": agreement(19, 1)}, {"accurate": agreement(18, 1)}, r"selection IoU of .* is 0\.947"),
        (
            "after",
            {"segment2": exits(near=5, far=1)},
            {"segment2": exits(near=0, far=2)},
            r"flips before segment2: is 10\.0 % of the frames; the limit is at most 5 % of the frames",
        ),
    ],
)
def test_each_limit(spec: CascadeSpec, change: str, within: Any, beyond: Any, message: str) -> None:
    report(spec, row("fp32"), row("int8-cpu", **{change: within})).check()
    failing = report(spec, row("fp32"), row("int8-cpu", **{change: beyond}))
    assert not failing.passed
    assert not failing.row_passed("int8-cpu")
    with pytest.raises(ParityError, match=rf"parity of int8-cpu: {message}"):
        failing.check()


def test_the_selection_before_the_refit_is_not_judged(spec: CascadeSpec) -> None:
    report(spec, row("fp32"), row("int8-cpu", before={"accurate": agreement(1, 9)})).check()


def test_with_labels_their_loss_decides(spec: CascadeSpec) -> None:
    limit = 100 * MIOU_LOSS_LIMIT
    reference, changed = row("fp32", miou=0.6), {"label_agreement": 0.5}
    report(spec, reference, row("int8-cpu", miou=0.6 - 0.99 * MIOU_LOSS_LIMIT, **changed)).check()
    report(spec, reference, row("int8-cpu", miou=0.7, **changed)).check()
    for miou in (0.6 - 1.01 * MIOU_LOSS_LIMIT, math.nan):
        with pytest.raises(ParityError, match=rf"mIoU loss: is .* points; the limit is at most {limit:g} points"):
            report(spec, reference, row("int8-cpu", miou=miou)).check()


def test_the_first_failure_is_named(spec: CascadeSpec) -> None:
    failing = report(spec, row("fp32"), row("fp16", score_errors=errors(1.0)), row("int8-cpu", label_agreement=0.0))
    with pytest.raises(ParityError, match="parity of fp16: score error of fast"):
        failing.check()
    assert [check.row for check in failing.checks if not check.passed] == ["fp16", "int8-cpu"]


def test_what_shows_nothing_fails(spec: CascadeSpec) -> None:
    nothing = report(spec, row("fp32"), row("fp16"), vacuous=("one class everywhere",))
    assert not nothing.passed
    with pytest.raises(ParityError, match="parity: is vacuous: one class everywhere; give other frames"):
        nothing.check()


def test_nan_is_on_neither_side_of_a_limit() -> None:
    assert not Check("x", "y", math.nan, 0.5, at_least=True).passed
    assert not Check("x", "y", math.nan, 0.5, at_least=False).passed


def test_json_has_no_infinity(spec: CascadeSpec) -> None:
    data = json.loads(report(spec, row("fp32"), row("fp16")).to_json(), parse_constant=pytest.fail)
    assert data["rows"][1]["sqnr_db"] == {"fast": None}
    assert data["rows"][1]["after"]["accurate"]["iou"] == 1.0
    assert data["passed"] is True
    assert [check["limit"] for check in data["checks"] if "selection" in check["what"]] == [SELECTION_IOU_LIMIT]
