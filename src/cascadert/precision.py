"""What a stage computes in, and what calibration found out about it.

Precision is a property of the graph: fp16 is casts, int8 is Q/DQ. A bundle holds one float32 graph per stage, and for
a calibrated stage the measured ranges and the operators that stay in floating point; both together make the graph of
any precision (`export.precision`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from cascadert.spec import Strict

Precision = Literal["fp32", "tf32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Int8Dialect = Literal["tensorrt", "cpu"]
"""`tensorrt`: signed, symmetric, float bias. `cpu`: U8S8, asymmetric, which VNNI multiplies at full rate."""

Numerics = Literal["fp32", "fp16", "int8-tensorrt", "int8-cpu"]
"""What decides a stage's numbers as far as they can be measured without its GPU; TF32 counts as fp32."""

Calibrator = Literal["min-max", "percentile", "entropy", "mse"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)

FP16_SCALES_OPSET = 19
"""The first ONNX opset that defines float16 scales of Q/DQ; onnx-tensorrt takes them earlier, other readers do not."""

FP16_MAX = 65504.0
"""Largest finite float16."""

Range = tuple[float, float]


class QuantizationPlan(Strict):
    """How a stage's network becomes int8 in one dialect.

    `ranges` maps a tensor of the network to the smallest and largest value that int8 shall tell apart; what lies
    outside saturates. `keep` maps an operator, by the name of its first output, to the reason why it stays in floating
    point although the placement rules would quantize it.
    """

    calibrator: Calibrator
    ranges: dict[str, Range]
    keep: dict[str, str] = Field(default_factory=dict)


class StageCalibration(Strict):
    """What calibration found out about one stage's network.

    Operators are named by their first output: lowering adds and removes tensors but renames none.

    `peaks` maps each floating-point tensor to its largest absolute value. `fp16_keep` maps operators that stay float32
    in fp16 to the reason. `int8` has one plan for each dialect that was calibrated.
    """

    schema_: Annotated[Literal["cascadert-calibration-1"], Field(alias="schema")] = "cascadert-calibration-1"
    peaks: dict[str, float]
    fp16_keep: dict[str, str] = Field(default_factory=dict)
    int8: dict[Int8Dialect, QuantizationPlan] = Field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the content of its file."""
        return self.model_dump_json(by_alias=True, indent=1).encode()


def int8_numerics(dialect: Int8Dialect) -> Numerics:
    """Return what decides the numbers of a stage in int8."""
    return "int8-cpu" if dialect == "cpu" else "int8-tensorrt"


def numerics_of(precision: Precision, on_cpu: bool) -> Numerics:
    """Return what decides the numbers of a stage of some precision."""
    if precision == "int8":
        return int8_numerics("cpu" if on_cpu else "tensorrt")
    return "fp16" if precision == "fp16" else "fp32"


def precision_names(precisions: Mapping[str, Precision]) -> str:
    """Name the precisions of stages, briefly: `int8`, or `fast=int8, accurate=fp16`."""
    distinct = set(precisions.values())
    if len(distinct) == 1:
        return str(distinct.pop())
    return ", ".join(f"{stage}={precision}" for stage, precision in precisions.items())
