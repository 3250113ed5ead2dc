"""What a plan makes of each precision for strongly and weakly typed builders."""

from __future__ import annotations

import re
from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto

from cascadert.bundle import Bundle
from cascadert.engines.form import StageForm
from cascadert.engines.options import BuildOptions
from cascadert.engines.plan import make_plan
from cascadert.engines.profiles import load_target
from cascadert.errors import TargetError


def element_types(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


def network_opset(model: onnx.ModelProto) -> int:
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    return opset


@pytest.mark.parametrize(
    ("target", "precision", "version", "flags", "half", "quantized"),
    [
        ("rtx-30", "fp32", None, (), False, False),
        ("rtx-30", "tf32", None, ("TF32",), False, False),
        ("rtx-30", "fp16", None, (), True, False),
        ("rtx-30", "int8", None, (), True, True),
        ("orin-nano-8gb", "int8", "10.3.0", (), True, True),
        ("orin-nano-8gb", "tf32", "8.5.2", ("TF32",), False, False),
        ("orin-nano-8gb", "fp16", "8.5.2", ("FP16",), False, False),
        ("orin-nano-8gb", "int8", "8.5.2", ("INT8", "FP16"), False, True),
        ("gtx-1080-ti", "fp32", None, (), False, False),
        ("gtx-1080-ti", "int8", None, ("INT8",), False, True),
        ("cpu", "int8", None, (), False, True),
    ],
)
def test_where_precision_lies(
    calibrated: Bundle,
    target: str,
    precision: str,
    version: str | None,
    flags: tuple[str, ...],
    half: bool,
    quantized: bool,
) -> None:
    plan = make_plan(calibrated, load_target(target), BuildOptions(precision=precision, tensorrt=version))
    fast = plan.stages["fast"]
    model = onnx.load_from_string(fast.graph.onnx)
    assert fast.settings.flags == flags
    assert (TensorProto.FLOAT16 in element_types(model)) == half
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node) == quantized
    assert network_opset(model) <= plan.facts.opset
    if half and quantized:
        assert network_opset(model) >= 19
    named = {node.name for node in model.graph.node}
    assert set(fast.settings.float32_nodes) <= named
    assert bool(fast.settings.float32_nodes) == ("FP16" in flags)
    if "FP16" in flags:
        convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
        assert len(convolutions) == 3
        assert not convolutions & set(fast.settings.float32_nodes)
        kept = {node.op_type for node in model.graph.node if node.name in fast.settings.float32_nodes}
        assert {"Exp", "TopK", "ArgMax"} <= kept


def test_fp16_that_merely_works_is_fp16_all_the_same(calibrated: Bundle) -> None:
    target = load_target("orin-nano-8gb")
    works = target.precisions["fp16"].model_copy(update={"speed": "works", "why": "nobody measured it"})
    slower = target.model_copy(update={"precisions": {**target.precisions, "fp16": works}})
    plan = make_plan(calibrated, slower, BuildOptions(precision="fp16", tensorrt="8.5.2"))
    assert plan.stages["fast"].settings.flags == ("FP16",)


def test_operators_that_must_stay_float32_are_told_to_a_weakly_typed_builder(calibrated: Bundle) -> None:
    model = onnx.load_from_string(calibrated.graphs["fast"].onnx)
    kept = next(node for node in model.graph.node if node.op_type == "Conv")
    found = calibrated.calibrations["fast"].model_copy(update={"fp16_keep": {kept.output[0]: "too large"}})
    bundle = Bundle(calibrated.path, calibrated.manifest)
    bundle.__dict__["calibrations"] = {**calibrated.calibrations, "fast": found}
    plan = make_plan(bundle, load_target("orin-nano-8gb"), BuildOptions(precision="fp16", tensorrt="8.5.2"))
    names = {node.name for node in onnx.load_from_string(plan.stages["fast"].graph.onnx).graph.node}
    assert kept.name in names & set(plan.stages["fast"].settings.float32_nodes)


def test_a_plan_for_a_cpu_has_no_recipes(calibrated: Bundle) -> None:
    plan = make_plan(calibrated, load_target("cpu"))
    assert (plan.blocks, plan.stages["fast"].device) == (None, "cpu")
    with pytest.raises(TypeError, match="cpu has no engines"):
        plan.recipe("fast")


def test_every_stage_is_checked_in_the_form_that_the_builder_gets(
    calibrated: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = {}
    monkeypatch.setattr("cascadert.engines.form.check_graph", lambda *args: checked.setdefault(args[0], args[1:]))
    plan = make_plan(calibrated, load_target("gtx-1080-ti"), BuildOptions(precision="int8"))
    assert checked == {
        f"stage '{name}' for gtx-1080-ti": (stage.graph, plan.facts, "6.1") for name, stage in plan.stages.items()
    }


def test_a_dla_core_takes_no_stage_of_any_number_of_blocks(calibrated: Bundle) -> None:
    target = load_target("agx-orin")
    options = BuildOptions(precision="fp16", tensorrt="10.3.0", devices={"accurate": "dla0"})
    message = (
        "stage 'accurate' for agx-orin: dla0: takes stages of fixed size, and this one refines any number of blocks; "
        "run it on the GPU, or build it with --max-blocks 1"
    )
    with pytest.raises(TargetError, match=f"^{re.escape(message)}$"):
        make_plan(calibrated, target, options)
    one = make_plan(calibrated, target, replace(options, max_blocks=1))
    whole = make_plan(calibrated, target, replace(options, devices={"fast": "dla1"}))
    assert (one.stages["accurate"].settings.dla_core, whole.stages["fast"].settings.dla_core) == (0, 1)


@pytest.mark.parametrize(("target", "other"), [("rtx-30", "fp16"), ("cpu", "fp32"), ("gtx-1080-ti", "fp32")])
def test_int8_that_calibration_left_nothing_of_is_refused(calibrated: Bundle, target: str, other: str) -> None:
    plans = calibrated.calibrations["fast"].int8
    names = {name for plan in plans.values() for name in plan.ranges}
    kept = {d: plan.model_copy(update={"keep": dict.fromkeys(names, "sensitive: 3 dB")}) for d, plan in plans.items()}
    form = StageForm(
        f"stage 'fast' for {target}",
        "int8",
        load_target(target),
        load_target(target).backend(),
        calibrated.calibrations["fast"].model_copy(update={"int8": kept}),
    )
    message = (
        f"stage 'fast' for {target} in int8: calibration kept all of it in floating point (sensitive: 3 dB); "
        f"build it in {other}, as in --precision int8,NAME={other}"
    )
    with pytest.raises(TargetError, match=f"^{re.escape(message)}$"):
        form.lower(calibrated.graphs["fast"])
