"""Requests against the facts are refused before anything is built, with the reason and what to choose instead."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.engines.facts import BackendFacts
from cascadert.engines.profiles import Target, list_targets, load_target
from cascadert.engines.request import check_request, int8_dialect, other_precisions
from cascadert.errors import TargetError
from cascadert.precision import PRECISIONS, Precision, QuantizationPlan, StageCalibration

INT8 = QuantizationPlan(calibrator="min-max", ranges={})
CALIBRATED = StageCalibration(peaks={}, int8={"tensorrt": INT8, "cpu": INT8})
TARGETS = [target for target in list_targets() if target.refused is None]
CASES = [(target, facts) for target in TARGETS for facts in target.backends]
every_builder = pytest.mark.parametrize(
    ("target", "facts"), CASES, ids=[f"{target.name}, {facts.name} {facts.versions}" for target, facts in CASES]
)


def check(
    target: Target | str,
    precision: Precision | Mapping[str, Precision],
    devices: Mapping[str, str] | None = None,
    tensorrt: str | None = None,
    calibrations: Mapping[str, StageCalibration] | None = None,
    facts: BackendFacts | None = None,
) -> None:
    """Ask for a cascade of two calibrated stages."""
    target = load_target(target) if isinstance(target, str) else target
    precisions = dict.fromkeys(("fast", "accurate"), precision) if isinstance(precision, str) else precision
    calibrations = dict.fromkeys(precisions, CALIBRATED) if calibrations is None else calibrations
    check_request(target, facts or target.backends[0], precisions, devices or {}, calibrations, tensorrt)


@every_builder
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_passes_or_is_refused_with_another(
    target: Target, facts: BackendFacts, precision: Precision
) -> None:
    fact = target.precisions[precision]
    if fact.speed != "refused" and precision not in facts.refused:
        check(target, precision, facts=facts)
        return
    with pytest.raises(TargetError) as caught:
        check(target, precision, facts=facts)
    error = caught.value
    assert error.subject == f"stage 'fast' in {precision} for {target.name}"
    assert error.found == facts.refused.get(precision, fact.why)
    choices = error.remedy.removeprefix("choose ").replace(" (fast)", "").split(" or ")
    offered = [choice for choice in choices if not choice.startswith("--backend ")]
    for choice in set(choices) - set(offered):
        check(target, precision, facts=target.backend(choice.split()[1]))
    assert precision not in offered
    for other in PRECISIONS:
        if other in offered:
            check(target, other, facts=facts)
    assert set(offered) <= set(PRECISIONS)


@every_builder
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_nothing_is_converted_without_a_calibration(target: Target, facts: BackendFacts, precision: Precision) -> None:
    if target.precisions[precision].speed == "refused" or precision in facts.refused:
        return
    with pytest.raises(TargetError, match=f"^stage 'accurate' in {precision} for {target.name}: .*not calibrated") as e:
        check(target, precision, calibrations={"fast": CALIBRATED}, facts=facts)
    assert e.value.remedy.startswith("run cascadert calibrate, or choose fp32")
    for uncalibrated in e.value.remedy.removeprefix("run cascadert calibrate, or choose ").split(" or "):
        check(target, {"fast": precision, "accurate": uncalibrated}, calibrations={"fast": CALIBRATED}, facts=facts)


@every_builder
def test_int8_needs_the_calibration_of_its_own_dialect(target: Target, facts: BackendFacts) -> None:
    if "int8" in facts.refused:
        return
    mine = int8_dialect(facts)
    other = "cpu" if mine == "tensorrt" else "tensorrt"
    foreign = StageCalibration(peaks={}, int8={other: INT8})
    message = (
        rf"stage 'fast' in int8 for {target.name}: it was not calibrated for the dialect '{mine}', only for: {other}"
    )
    with pytest.raises(TargetError, match=message):
        check(target, "int8", calibrations={"fast": foreign, "accurate": CALIBRATED}, facts=facts)
    assert (mine == "cpu") == (target.name == "cpu")


def test_the_reasons_read_well() -> None:
    with pytest.raises(TargetError) as caught:
        check("gtx-1080-ti", "fp16")
    assert str(caught.value) == (
        "stage 'fast' in fp16 for gtx-1080-ti: Pascal stores float16 but computes it at 1/64 of the rate of float32; "
        "choose int8 (fast) or fp32 (fast)"
    )
    with pytest.raises(TargetError, match=r"in tf32 for t4: TF32 needs .* 8\.0 or newer; choose fp32 \(fast\) or fp16"):
        check("t4", "tf32")
    with pytest.raises(
        TargetError, match=r"in fp16 for cpu: ONNX Runtime's .*; choose int8 \(fast\) or fp32 \(fast\)$"
    ):
        check("cpu", "fp16")
    with pytest.raises(
        TargetError, match=r"in int8 for orin-nano-8gb: it was not calibrated, so that its ranges for int8 are un"
    ):
        check("orin-nano-8gb", "int8", calibrations={})
    with pytest.raises(
        TargetError, match=r"it was not calibrated, so that what exceeds float16's range is unknown; run"
    ):
        check("orin-nano-8gb", "fp16", calibrations={})


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        (
            "gtx-1080-ti",
            "10.3.0",
            r"^tensorrt 10\.3\.0 for gtx-1080-ti: is not in >=8\.5,<8\.7; use tensorrt >=8\.5,<8\.7",
        ),
        ("agx-orin", "11.2.0", r"is not in >=10\.3,<11; use tensorrt >=10\.3,<11 or >=11\.4\.1,<12 or >=8\.5,<8\.7$"),
        ("h100", "10.2.0.19", r"^tensorrt 10\.2\.0\.19 for h100: 10\.2\.0 is known to be broken; use another of >=10"),
        (
            "rtx-40",
            "1.8.0",
            r"^tensorrt-rtx 1\.8\.0 for rtx-40: is not in >=1\.7,<1\.8; use tensorrt-rtx >=1\.7,<1\.8$",
        ),
        ("h100", "newest", r"^version 'newest': is no version"),
    ],
)
def test_versions(name: str, version: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        check(name, "fp32", tensorrt=version)


@pytest.mark.parametrize(("name", "version"), [("gtx-1080-ti", "8.6.1"), ("h100", "10.2.1"), ("rtx-40", "1.7.1.35")])
def test_versions_that_serve(name: str, version: str) -> None:
    check(name, "fp32", tensorrt=version)


@pytest.mark.parametrize(
    ("name", "device", "precision", "version", "message"),
    [
        ("thor", "dla0", "fp16", None, r"^stage 'fast' on dla0 for thor: it has no DLA; choose gpu$"),
        ("orin-nano-8gb", "dla0", "fp16", "10.3.0", r"for orin-nano-8gb: it has no DLA; choose gpu$"),
        ("agx-orin", "dla2", "fp16", None, r"it has 2 DLA cores; choose gpu or dla0 or dla1$"),
        ("agx-orin", "dlax", "fp16", None, r"it has 2 DLA cores; choose gpu or dla0 or dla1$"),
        (
            "agx-orin",
            "dla0",
            "fp16",
            "10.13.3",
            r"TensorRT 10\.13\.3 does not build for its DLA; choose gpu, or TensorRT",
        ),
        ("orin-nx", "dla0", "fp16", "10.16.1", r"does not build .*TensorRT >=8\.5,<8\.7 or >=10\.3,<10\.8$"),
        ("agx-orin", "dla1", "fp32", "10.3.0", r"a DLA computes in fp16 and int8, not in fp32; choose fp16, or gpu$"),
        ("agx-orin", "dla1", "tf32", None, r"not in tf32; choose fp16, or gpu$"),
        ("agx-xavier", "dla0", "int8", "8.5.2", r"TensorRT >=8\.5,<8\.6 takes no Q/DQ on a DLA; choose fp16, or gpu$"),
        ("agx-orin", "cpu", "fp16", None, r"its stages run on the gpu; choose gpu or dla0 or dla1$"),
        ("cpu", "gpu", "fp32", None, r"^stage 'fast' on gpu for cpu: its stages run on the cpu; choose cpu$"),
        ("cpu", "dla0", "fp32", None, r"it has no DLA; choose cpu$"),
    ],
)
def test_devices(name: str, device: str, precision: Precision, version: str | None, message: str) -> None:
    target = load_target(name)
    facts = target.backend(None if name == "cpu" else "tensorrt", version)
    with pytest.raises(TargetError, match=message):
        check(target, precision, {"fast": device}, version, facts=facts)


@pytest.mark.parametrize(
    ("name", "version", "precision"),
    [
        ("agx-orin", "10.3.0", "fp16"),
        ("agx-orin", "10.3.0", "int8"),
        ("agx-orin", "11.4.1", "int8"),
        ("orin-nx", "10.7.0", "fp16"),
        ("xavier-nx", "8.5.2", "fp16"),
        ("agx-orin", None, "fp16"),
    ],
)
def test_a_dla_is_used_where_there_is_one(name: str, version: str | None, precision: Precision) -> None:
    target = load_target(name)
    facts = target.backend("tensorrt", version)
    check(target, {"fast": precision, "accurate": "fp32"}, {"fast": "dla1", "accurate": "gpu"}, version, facts=facts)


def test_devices_of_unknown_stages_are_refused() -> None:
    with pytest.raises(TargetError, match=r"^device of stage 'fats': there is no such stage; choose fast, accurate$"):
        check("agx-orin", "fp16", {"fats": "dla0"})


@pytest.mark.parametrize("name", ["nano", "tx2"])
def test_refused_targets(name: str) -> None:
    with pytest.raises(TargetError, match=rf"^target '{name}': is refused: its last JetPack"):
        check(name, "fp32")


@given(st.sampled_from(TARGETS), st.sampled_from(PRECISIONS))
def test_other_precisions_are_offered_ones(target: Target, precision: Precision) -> None:
    offered = other_precisions(target, precision)
    assert precision not in offered
    assert set(offered) <= set(target.with_speed("fast", "works"))
    assert offered or precision == "fp32"


def test_a_builder_may_have_no_int8_where_another_has() -> None:
    message = (
        "stage 'fast' in int8 for t4: TensorRT-RTX 1.7.1 restores every int8 tensor to float16 before it is convolved "
        "here, which saves nothing; choose fp16 or fp32 or --backend tensorrt"
    )
    with pytest.raises(TargetError, match=f"^{re.escape(message)}$"):
        check("t4", "int8")
    check("t4", "int8", facts=load_target("t4").backend("tensorrt"))
