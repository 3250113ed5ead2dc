"""`check_request`: whether what is asked for agrees with the facts of a target, before anything is built."""

from __future__ import annotations

from collections.abc import Mapping

from cascadert.engines.facts import BackendFacts
from cascadert.engines.profiles import Target, serves
from cascadert.errors import TargetError
from cascadert.precision import Int8Dialect, Precision, StageCalibration

_NEAREST: Mapping[Precision, tuple[Precision, ...]] = {
    "fp32": ("tf32", "fp16", "int8"),
    "tf32": ("fp32", "fp16"),
    "fp16": ("int8", "tf32", "fp32"),
    "int8": ("fp16", "tf32", "fp32"),
}
"""What comes nearest to a precision in speed, but for TF32: whoever asks for it wants the numbers of float32."""

_GPU, _CPU = "gpu", "cpu"


def check_request(
    target: Target,
    facts: BackendFacts,
    precisions: Mapping[str, Precision],
    devices: Mapping[str, str],
    calibrations: Mapping[str, StageCalibration],
    tensorrt: str | None,
) -> None:
    """Refuse what contradicts the facts.

    Args:
        target: what to build for.
        facts: which of its builders.
        precisions: of every stage.
        devices: "gpu", "cpu" or a DLA core as "dla0" of a stage; those left out run where the target's stages run.
        calibrations: of every calibrated stage.
        tensorrt: the builder's version; none where the build happens elsewhere, which checks again.

    Raises:
        TargetError: with the reason and the nearest sensible choice.
    """
    target.require_built_for()
    if tensorrt is not None:
        check_version(target, facts, tensorrt)
    unknown = sorted(set(devices) - set(precisions))
    if unknown:
        raise TargetError(
            f"device of stage '{unknown[0]}'", "there is no such stage", f"choose {', '.join(precisions)}"
        )
    for stage, precision in precisions.items():
        check_precision(target, precision, f"stage '{stage}'")
        _check_builder(target, facts, stage, precision)
        if stage in devices:
            _check_device(target, facts, stage, precision, devices[stage], tensorrt)
        _check_calibrated(target, facts, stage, precision, calibrations.get(stage))


def check_refittable(target: Target, facts: BackendFacts, precisions: Mapping[str, Precision]) -> None:
    """Refuse engines that could not take other weights.

    Raises:
        TargetError: with the reason.
    """
    for stage, precision in precisions.items():
        if precision == "int8":
            found = "its scales belong to the weights that were calibrated"
            remedy = f"leave --refittable out, or choose {_NEAREST['int8'][0]}"
            raise TargetError(f"a refittable engine of stage '{stage}' in int8", found, remedy)
    if facts.name == "tensorrt" and not facts.strongly_typed:
        found = f"TensorRT {facts.versions} cannot take the weights of an ONNX graph, TensorRT 10 was the first"
        raise TargetError(f"refittable engines for {target.name}", found, "leave --refittable out")


def check_version(target: Target, facts: BackendFacts, version: str) -> None:
    """Check that a version of a builder serves. One that is known to be bad stands for all its builds.

    Raises:
        TargetError: with the versions that serve.
    """
    subject = f"{facts.name} {version} for {target.name}"
    if not serves(facts.versions, version):
        ranges = " or ".join(other.versions for other in target.backends if other.name == facts.name)
        raise TargetError(subject, f"is not in {facts.versions}", f"use {facts.name} {ranges}")
    for bad in facts.known_bad:
        if serves(f"=={bad}.*", version):
            raise TargetError(subject, f"{bad} is known to be broken", f"use another of {facts.versions}")


def check_precision(target: Target, precision: Precision, what: str) -> None:
    """Check that a target takes a precision; `what` computes in it.

    Raises:
        TargetError: with the reason and the other precisions, nearest first.
    """
    fact = target.precisions[precision]
    if fact.speed == "refused":
        offered = " or ".join(
            f"{other} (fast)" if target.precisions[other].speed == "fast" else other
            for other in other_precisions(target, precision)
        )
        raise TargetError(f"{what} in {precision} for {target.name}", fact.why, f"choose {offered}")


def _check_builder(target: Target, facts: BackendFacts, stage: str, precision: Precision) -> None:
    """Refuse what the target computes in, but this builder does not."""
    if precision in facts.refused:
        others = [other for other in other_precisions(target, precision) if other not in facts.refused]
        builders = {other.name for other in target.backends if precision not in other.refused}
        remedy = " or ".join([*others, *(f"--backend {name}" for name in sorted(builders))])
        subject = f"stage '{stage}' in {precision} for {target.name}"
        raise TargetError(subject, facts.refused[precision], f"choose {remedy}")


def other_precisions(target: Target, precision: Precision) -> tuple[Precision, ...]:
    """Return what a target offers in place of a precision, nearest first."""
    return tuple(other for other in _NEAREST[precision] if target.precisions[other].speed != "refused")


def int8_dialect(facts: BackendFacts) -> Int8Dialect:
    """Return the kind of int8 graph that a builder is given."""
    return "cpu" if facts.name == "onnxruntime" else "tensorrt"


def _check_device(
    target: Target, facts: BackendFacts, stage: str, precision: Precision, device: str, tensorrt: str | None
) -> None:
    subject, home = f"stage '{stage}' on {device} for {target.name}", _home(target)
    if device.startswith("dla"):
        why = _why_no_dla(target, facts, precision, device, tensorrt)
        if why is not None:
            raise TargetError(subject, *why)
    elif device != home:
        raise TargetError(subject, f"its stages run on the {home}", f"choose {' or '.join(_devices(target))}")


def _why_no_dla(
    target: Target, facts: BackendFacts, precision: Precision, device: str, version: str | None
) -> tuple[str, str] | None:
    """Return why a stage cannot run on a DLA core and what to do instead, or none where it can."""
    home = _home(target)
    if target.dla is None:
        return "it has no DLA", f"choose {home}"
    if device not in _devices(target):
        return f"it has {target.dla.cores} DLA cores", f"choose {' or '.join(_devices(target))}"
    if facts.name != "tensorrt":
        return f"{facts.name} does not build for a DLA", f"choose {home}"
    if version is not None and not target.dla.takes(version):
        usable = " or ".join(target.dla.tensorrt)
        return f"TensorRT {version} does not build for its DLA", f"choose {home}, or TensorRT {usable}"
    if precision not in ("fp16", "int8"):
        return f"a DLA computes in fp16 and int8, not in {precision}", f"choose fp16, or {home}"
    if precision == "int8" and not facts.strongly_typed:
        return f"TensorRT {facts.versions} takes no Q/DQ on a DLA", f"choose fp16, or {home}"
    return None


def _home(target: Target) -> str:
    return _CPU if target.compute_capability is None else _GPU


def _devices(target: Target) -> tuple[str, ...]:
    return (_home(target), *(f"dla{core}" for core in range(target.dla_cores)))


def _check_calibrated(
    target: Target, facts: BackendFacts, stage: str, precision: Precision, calibration: StageCalibration | None
) -> None:
    if precision not in ("fp16", "int8"):
        return
    subject = f"stage '{stage}' in {precision} for {target.name}"
    remedy = "run cascadert calibrate, or choose " + " or ".join(_uncalibrated(target))
    if calibration is None:
        unknown = "what exceeds float16's range is" if precision == "fp16" else "its ranges for int8 are"
        raise TargetError(subject, f"it was not calibrated, so that {unknown} unknown", remedy)
    dialect = int8_dialect(facts)
    if precision == "int8" and dialect not in calibration.int8:
        there = ", ".join(calibration.int8) or "none"
        raise TargetError(subject, f"it was not calibrated for the dialect '{dialect}', only for: {there}", remedy)


def _uncalibrated(target: Target) -> tuple[Precision, ...]:
    offered: tuple[Precision, ...] = ("fp32", "tf32")
    return tuple(precision for precision in offered if target.precisions[precision].speed != "refused")
