"""What a precision may cost: the limits of the parity gate, and why each is where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascadert.stage_spec import Unit

if TYPE_CHECKING:
    from cascadert.calibration.precision_report import PrecisionRow

MIOU_LOSS_LIMIT = 0.005
"""Share of mIoU that the cascade may lose to fp32: half a point, less than two trainings of one network differ by."""

SCORE_ERROR_LIMITS: Mapping[Unit, float] = {"bits": 0.02, "share": 0.02}
"""Mean absolute change of a score, by its unit: a fiftieth of a useful theta of 1 bit, and of a share a fiftieth of
the whole scale. Refitting theta takes out a shift that all blocks share, and nothing else."""

SELECTION_IOU_LIMIT = 0.95
"""Intersection over union of the blocks that are refined with those of fp32, theta refitted: of 40 blocks, one may be
exchanged for another. More, and costs and quality that were measured in fp32 do not hold any longer."""

FLIPS_LIMIT = 0.05
"""Share of the frames on which a stage that runs as a whole may run where it does not in fp32, or the reverse, theta
refitted and scores next to theta aside: of 20 frames, one. An IoU of the frames would say little where few have it run.
"""

FP32_LABEL_AGREEMENT_LIMIT = 0.999
"""PyTorch and ONNX Runtime sum in different orders: only pixels between two classes that are equal but for rounding
differ, and what a tie inside a max-unpooling moves. `cascadert parity` alone tells those from true differences."""

FP16_LABEL_AGREEMENT_LIMIT = 0.995
"""float16 rounds to one part in 2048: of the pixels within some hundredths of a logit between two classes, half flip.
"""

INT8_LABEL_AGREEMENT_LIMIT = 0.96
"""Where labels are not given, this stands for the loss of mIoU. Labels change along borders, where int8 is right nearly
as often as fp32 was, so that a change of some per cent of the pixels costs some tenths of a point."""

FP32_SQNR_LIMIT_DB = 40.0
"""float32 gives more than 110 dB; one tie inside a max-unpooling that PyTorch and ONNX Runtime break differently takes
that down to 52 (ENet on eight CamVid frames). Noise of a hundredth is more than such ties make."""

FP16_SQNR_LIMIT_DB = 25.0
"""float16 gives 62 dB (PSPNet on CamVid), and 30 where a max-unpooling turns rounding into pixels that move (ENet). An
overflow or underflow costs far more than that."""

INT8_SQNR_LIMIT_DB = 15.0
"""Noise under a fifth of the logits' size. ENet on CamVid keeps its mIoU at 18 dB; below 15, classes that lead by as
much as logits usually differ begin to lose their lead, and with it whole regions rather than borders."""


@dataclass(frozen=True)
class Limits:
    """The least label agreement, where labels are not given, and the least SQNR of any stage."""

    label_agreement: float
    sqnr_db: float


LIMITS: Mapping[str, Limits] = {
    "torch": Limits(FP32_LABEL_AGREEMENT_LIMIT, FP32_SQNR_LIMIT_DB),
    "fp32": Limits(FP32_LABEL_AGREEMENT_LIMIT, FP32_SQNR_LIMIT_DB),
    "fp16": Limits(FP16_LABEL_AGREEMENT_LIMIT, FP16_SQNR_LIMIT_DB),
    "int8-tensorrt": Limits(INT8_LABEL_AGREEMENT_LIMIT, INT8_SQNR_LIMIT_DB),
    "int8-cpu": Limits(INT8_LABEL_AGREEMENT_LIMIT, INT8_SQNR_LIMIT_DB),
}
"""By what runs: PyTorch, or ONNX Runtime in one of the numerics."""


@dataclass(frozen=True)
class Check:
    """One number of one row against its limit; `at_least` tells which side of it is right. NaN never is."""

    row: str
    what: str
    found: float
    limit: float
    at_least: bool
    unit: str = ""
    digits: int = 3

    @property
    def passed(self) -> bool:
        """Whether the number is within its limit."""
        return self.found >= self.limit if self.at_least else self.found <= self.limit

    @property
    def shown(self) -> str:
        """The number in words."""
        return f"{round(self.found, self.digits) + 0.0:.{self.digits}f}{self.unit}"  # + 0.0: no "-0.00"

    @property
    def asked(self) -> str:
        """The limit in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}{self.unit}"


def checks_of(row: PrecisionRow, reference: PrecisionRow) -> Iterator[Check]:
    """Yield what a row is asked for, compared with fp32 on the same frames.

    Labels decide by mIoU where the truth is known, and by agreement where it is not.
    """
    limits = LIMITS[row.name]
    if row.quality is not None and reference.quality is not None:
        loss = 100 * (reference.quality.miou - row.quality.miou)
        yield Check(row.name, "mIoU loss", loss, 100 * MIOU_LOSS_LIMIT, False, " points", digits=2)
    else:
        agree = 100 * row.label_agreement
        yield Check(row.name, "label agreement", agree, 100 * limits.label_agreement, True, " %", digits=2)
    for stage, sqnr_db in row.sqnr_db.items():
        yield Check(row.name, f"SQNR of {stage}", sqnr_db, limits.sqnr_db, True, " dB", digits=1)
    for stage, error in row.score_errors.items():
        unit = " bits" if error.unit == "bits" else ""
        limit = SCORE_ERROR_LIMITS[error.unit]
        yield Check(row.name, f"score error of {stage}", error.mean, limit, False, unit, digits=4)
    yield from decision_checks(row)


def decision_checks(row: PrecisionRow) -> Iterator[Check]:
    """Yield what is asked of each decision, theta refitted."""
    for stage, agreement in row.after.items():
        if agreement.whole:
            flips = 100 * len(agreement.far_flips) / agreement.frames
            yield Check(
                row.name, f"flips before {stage}", flips, 100 * FLIPS_LIMIT, False, " % of the frames", digits=1
            )
        else:
            yield Check(row.name, f"selection IoU of {stage}", agreement.iou, SELECTION_IOU_LIMIT, True)
