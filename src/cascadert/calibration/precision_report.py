"""What came of comparing precisions: a row for each, what it cost, and whether that is within the limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.exhibits import Exhibit
from cascadert.calibration.finite_json import dump
from cascadert.calibration.gate import Check, checks_of
from cascadert.calibration.selection_metrics import SelectionAgreement
from cascadert.errors import ParityError
from cascadert.geometry import Grid
from cascadert.spec import CascadeSpec
from cascadert.stage_spec import Unit

REFERENCE: Final = "fp32"
"""The row that all others are compared with: the bundle's float32 graphs in ONNX Runtime."""


@dataclass(frozen=True)
class Quality:
    """What needs labels.

    mIoU of the first stage that makes labels alone, of the cascade, and with every block refined; IoU by class: NaN for
    a class that occurs neither in the labels nor in the truth. `pavpu_before` and `pavpu` ask whether the first stage
    is uncertain where it is wrong (`pavpu.PAvPU`), above fp32's theta and above the refitted one; they are absent where
    no theta of its entropy decides.
    """

    miou_fast: float
    miou: float
    miou_every: float
    class_iou: tuple[float, ...]
    pavpu_before: float | None
    pavpu: float | None


@dataclass(frozen=True)
class ScoreError:
    """Mean and 99th percentile of the absolute change of a stage's scores, in their unit."""

    mean: float
    p99: float
    unit: Unit


@dataclass(frozen=True)
class PrecisionRow:
    """One way to compute, compared with fp32 on the same frames.

    `label_agreement` is of the whole cascade on its own decisions; `stage_agreement` of the pixels that a stage labels,
    given what it got in fp32, and `sqnr_db` of its network's logits and of each tensor that it carries there, the
    least. `score_errors` are of the stages that make scores: on what the row itself made before them where no decision
    lies between, else on fp32's inputs. By decision: `before` compares the refined blocks with
    theta as it was, `after` with theta refitted, and `mean_n` is how many are then refined: of a stage that runs as a
    whole, on which share of the frames it runs.
    """

    name: str
    label_agreement: float
    stage_agreement: Mapping[str, float]
    sqnr_db: Mapping[str, float]
    score_errors: Mapping[str, ScoreError]
    before: Mapping[str, SelectionAgreement]
    after: Mapping[str, SelectionAgreement]
    mean_n: Mapping[str, float]
    quality: Quality | None


@dataclass(frozen=True)
class Decisions:
    """The decisions before one stage, arrays `[frames, N * G]`; of a stage that runs as a whole `[frames, 1]`.

    `reference` and `found` are the scores of the blocks in fp32 and in one row, float32, minus infinity for a block
    that was no candidate; `wanted` and `chosen` tell which of them each refines. `theta` is fp32's and `refitted` the
    row's: absent for policies without one.
    """

    row: str
    stage: str
    reference: NDArray[np.float32]
    found: NDArray[np.float32]
    wanted: NDArray[np.bool_]
    chosen: NDArray[np.bool_]
    theta: float | None
    refitted: float | None
    unit: Unit = "bits"


@dataclass(frozen=True)
class PrecisionReport:
    """A row for each way to compute, fp32 among them, and what the comparison was made of.

    `notes` say what was left out and why; `vacuous` why the comparison could not have found anything. `decisions` and
    `exhibits` are for the page, not for JSON.
    """

    spec: CascadeSpec
    rows: tuple[PrecisionRow, ...]
    frames: int
    classes: int
    notes: tuple[str, ...] = ()
    vacuous: tuple[str, ...] = ()
    decisions: tuple[Decisions, ...] = field(default=(), repr=False)
    exhibits: tuple[Exhibit, ...] = field(default=(), repr=False)

    @property
    def grid(self) -> Grid:
        """The blocks."""
        return self.spec.make_grid()

    def row(self, name: str) -> PrecisionRow:
        """Return the row of a name."""
        return next(row for row in self.rows if row.name == name)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """Every limit, row by row; fp32 has none, since the others are compared with it."""
        reference = self.row(REFERENCE)
        return tuple(check for row in self.rows if row is not reference for check in checks_of(row, reference))

    @property
    def passed(self) -> bool:
        """Whether the comparison means something and every number is within its limit."""
        return not self.vacuous and all(check.passed for check in self.checks)

    def row_passed(self, name: str) -> bool:
        """Whether one row is within its limits."""
        return all(check.passed for check in self.checks if check.row == name)

    def check(self) -> None:
        """Raise what is wrong.

        Raises:
            ParityError: a vacuous comparison, or the first number beyond its limit.
        """
        if self.vacuous:
            raise ParityError("parity", f"is vacuous: {'; '.join(self.vacuous)}", "give other frames or weights")
        for check in self.checks:
            if not check.passed:
                remedy = f"the limit is {check.asked}; keep more in floating point, or calibrate on other frames"
                raise ParityError(f"parity of {check.row}: {check.what}", f"is {check.shown}", remedy)

    def to_json(self) -> str:
        """Return rows and checks as JSON; a number that is not finite is null, which JSON has no other word for."""
        content = {
            "frames": self.frames,
            "classes": self.classes,
            "blocks": self.spec.blocks,
            "rows": [_plain(row) | {"passed": self.row_passed(row.name)} for row in self.rows],
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
            "notes": self.notes,
            "vacuous": self.vacuous,
            "passed": self.passed,
        }
        return dump(content)


def _plain(row: PrecisionRow) -> dict[str, Any]:
    plain = asdict(row)
    for side, agreements in (("before", row.before), ("after", row.after)):
        for stage, agreement in agreements.items():
            plain[side][stage]["iou"] = agreement.iou
    return plain
