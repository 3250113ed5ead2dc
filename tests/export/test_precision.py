"""One call makes every precision of a stage, for every backend; all of them run in ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from cascadert.errors import GraphError
from cascadert.export.cpu_int8 import quantized_for_cpu
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.precision import as_measured, float32_operators, lower_to, quantized_operators
from cascadert.graph import Dialect
from cascadert.precision import Numerics, StageCalibration
from tests.export.precision_graphs import calibration, min_max, nodes, run, sqnr_db, stage_graph

FORMS = [
    ("onnxruntime", "fp32", 100, np.inf),
    ("tensorrt", "fp32", 100, np.inf),
    ("onnxruntime", "fp16", 55, 90),
    ("tensorrt", "fp16", 55, 90),
    ("onnxruntime", "int8-cpu", 25, 50),
    ("tensorrt", "int8-tensorrt", 25, 50),
    ("onnxruntime", "int8-tensorrt", 25, 50),
]


@pytest.mark.parametrize(("dialect", "numerics", "least_db", "most_db"), FORMS)
def test_every_form_has_the_noise_of_its_precision(
    dialect: Dialect, numerics: Numerics, least_db: float, most_db: float
) -> None:
    graph = lower_to(stage_graph(), dialect, numerics, calibration())
    assert (graph.inputs, graph.outputs, graph.dialect) == (stage_graph().inputs, stage_graph().outputs, dialect)
    wanted, found = run(stage_graph()), run(graph)
    assert least_db <= sqnr_db(wanted["peak"], found["peak"]) <= most_db
    assert np.mean(wanted["labels"] == found["labels"]) > 0.95


@pytest.mark.parametrize("numerics", ["int8-cpu", "int8-tensorrt"])
def test_int8_without_its_calibration_is_refused(numerics: Numerics) -> None:
    dialect = numerics.removeprefix("int8-")
    message = f"int8 for '{dialect}': was not calibrated; run cascadert calibrate on the bundle first"
    for found in (None, StageCalibration(peaks={})):
        with pytest.raises(GraphError, match=message):
            lower_to(stage_graph(), "tensorrt", numerics, found)


def test_what_calibration_keeps_in_float32_is_so_in_fp16() -> None:
    found = calibration().model_copy(update={"fp16_keep": {"wide_sum": "reaches 1e6"}})
    model = onnx.load_model_from_string(lower_to(stage_graph(), "tensorrt", "fp16", found).onnx)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert (types["wide_sum"], types["residual_sum"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)


def test_what_int8_leaves_can_be_float16() -> None:
    graph = lower_to(stage_graph(), "tensorrt", "int8-tensorrt", calibration(), rest="fp16")
    model = onnx.load_model_from_string(graph.onnx)
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert {t.data_type for t in model.graph.initializer if t.name in scales} == {TensorProto.FLOAT16}


def test_no_cast_parts_a_pair_from_what_stays_float32() -> None:
    found = calibration().model_copy(update={"fp16_keep": dict.fromkeys(("wide", "residual_sum"), "reaches 1e6")})
    graph = lower_to(stage_graph(), "tensorrt", "int8-tensorrt", found, rest="fp16")
    model = onnx.load_model_from_string(graph.onnx)
    makers = {node.output[0]: node for node in model.graph.node}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    residual = makers["residual_sum"]
    for restore in (makers[residual.input[0]], makers[residual.input[1]]):
        assert (restore.op_type, kinds[restore.input[1]]) == ("DequantizeLinear", TensorProto.FLOAT)
    assert makers[makers["wide_sum"].input[0]].op_type == "DequantizeLinear"


def test_what_is_measured_of_int8_has_its_rest_in_float16() -> None:
    wanted = run(stage_graph())["peak"]
    rest32 = sqnr_db(wanted, run(lower_to(stage_graph(), "onnxruntime", "int8-tensorrt", calibration()))["peak"])
    graph = as_measured(stage_graph(), "int8-tensorrt", calibration())
    assert {node.attribute[0].i for node in nodes(graph, "Cast")} >= {TensorProto.FLOAT16, TensorProto.FLOAT}
    assert 25 < sqnr_db(wanted, run(graph)["peak"]) < rest32 + 1
    found = calibration().model_copy(update={"fp16_keep": {"wide_sum": "reaches 1e6"}})
    exact = nodes(as_measured(stage_graph(), "int8-tensorrt", found), "Cast")
    assert len(exact) < len(nodes(graph, "Cast")), "what is kept in float32 is not rounded, nor are the pairs before it"


def test_the_cpu_dialect_is_unsigned_with_signed_weights_and_int32_bias() -> None:
    model = quantized_for_cpu(lower_to(stage_graph(), "onnxruntime"), min_max())
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    restored = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    found = {kinds[node.input[0]] for node in restored if node.input[0] in kinds}
    assert found == {TensorProto.INT8, TensorProto.INT32}
    zeros = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert {kinds[name] for name in zeros} == {TensorProto.UINT8}


def test_the_cpu_dialect_leaves_the_head_and_what_is_kept() -> None:
    model = quantized_for_cpu(lower_to(stage_graph(), "onnxruntime"), min_max(), keep=("wide_sum",))
    restored = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    float32 = {n.output[0] for n in model.graph.node if n.op_type == "Conv" and n.input[1] not in restored}
    assert float32 == {"wide_sum", "logits"}


def test_without_ranges_the_cpu_network_stays_as_it_is() -> None:
    model = quantized_for_cpu(lower_to(stage_graph(), "onnxruntime"), {})
    assert not [node for node in model.graph.node if node.op_type == "QuantizeLinear"]


@pytest.mark.parametrize("int8", ["cpu", "tensorrt"])
def test_quantized_operators_are_named_and_can_be_kept(int8) -> None:  # type: ignore[no-untyped-def]
    plan = calibration().int8[int8]
    every = quantized_operators(stage_graph(), int8, plan)
    assert {"wide_sum", "residual_sum", "added", "joined_sum"} <= every.keys()
    for name in every:
        kept = plan.model_copy(update={"keep": {name: "for a test"}})
        assert name not in quantized_operators(stage_graph(), int8, kept)
    nothing = plan.model_copy(update={"keep": dict.fromkeys(every, "for a test")})
    assert not quantized_operators(stage_graph(), int8, nothing)


def test_glue_and_exceptions_are_the_float32_operators() -> None:
    graph = lower_to(stage_graph(), "tensorrt")
    glue = float32_operators(graph)
    assert glue
    assert all(not name.startswith("network") for name in glue)
    found = calibration().model_copy(update={"fp16_keep": {"wide_sum": "reaches 1e6"}})
    (more,) = set(float32_operators(graph, found)) - set(glue)
    assert [node.output[0] for node in nodes(graph, "Conv") if node.name == more] == ["wide_sum"]
    assert len(model_from_graph(graph).graph) == len(glue) + 12
