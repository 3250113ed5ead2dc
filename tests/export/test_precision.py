"""One call makes every precision of a stage, for every backend; all of them run in ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from cascadert.calibration.ranges import measure_ranges
from cascadert.errors import GraphError
from cascadert.export.cpu_int8 import quantized_for_cpu
from cascadert.export.exporter import export_graph
from cascadert.export.network import network_graph
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.precision import as_measured, float32_operators, lower_to, quantized_operators
from cascadert.graph import Dialect, Graph
from cascadert.precision import Int8Dialect, Numerics, QuantizationPlan, StageCalibration
from tests.export.precision_graphs import calibration, min_max, nodes, run, sqnr_db, stage_graph

DIALECTS: tuple[Int8Dialect, ...] = ("tensorrt", "cpu")
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


class Carried(nn.Module):
    """A stage without labels: carried maps and an image come in, two carried maps go out."""

    def __init__(self, weights: bool = True) -> None:
        super().__init__()
        self.network: nn.Module = Blend() if weights else Mean()

    def forward(self, image: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found: tuple[torch.Tensor, ...] = self.network(image / 64, features)
        return found


class Mean(nn.Module):
    def forward(self, image: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return image.mean(1, keepdim=True) + features.mean(1, keepdim=True), features * 2


class Blend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.around = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.joined = nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, image: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        around = self.around(features)
        return around, self.joined(torch.cat([self.stem(image).relu(), around.relu()], dim=1))


def carried_graph(weights: bool = True) -> Graph:
    torch.manual_seed(0)
    inputs = {"image": torch.rand(1, 3, 8, 8), "before.features": torch.rand(1, 16, 8, 8)}
    return export_graph(Carried(weights).eval(), inputs, ["around", "joined"])


def carried_feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.uniform(0, 255, (1, 3, 8, 8)).astype(np.float32),
        "before.features": rng.normal(size=(1, 16, 8, 8)).astype(np.float32),
    }


def carried_calibration() -> StageCalibration:
    network = network_graph(carried_graph())
    seen = {"image": carried_feeds()["image"] / 64, "features": carried_feeds()["before.features"]}
    by_width = {array.shape[1]: array for array in seen.values()}
    measured = measure_ranges(network, {spec.name: by_width[spec.shape[1]] for spec in network.inputs}, threads=1)
    plans = {d: QuantizationPlan(calibrator="min-max", ranges=measured.ranges("min-max", d)) for d in DIALECTS}
    return StageCalibration(peaks=measured.peaks, int8=plans)


@pytest.mark.parametrize(("dialect", "numerics", "least_db", "most_db"), FORMS)
def test_a_stage_without_labels_has_every_form_too(
    dialect: Dialect, numerics: Numerics, least_db: float, most_db: float
) -> None:
    graph = carried_graph()
    lowered = lower_to(graph, dialect, numerics, carried_calibration(), "fp16" if numerics == "fp16" else "fp32")
    assert (lowered.inputs, lowered.outputs) == (graph.inputs, graph.outputs), "ports are float32 in every precision"
    wanted, found = run(graph, **carried_feeds()), run(lowered, **carried_feeds())
    for port in ("around", "joined"):
        assert least_db <= sqnr_db(wanted[port], found[port]) <= most_db


@pytest.mark.parametrize("int8", DIALECTS)
def test_what_reads_and_makes_carried_maps_is_quantized(int8: Int8Dialect) -> None:
    names = quantized_operators(carried_graph(), int8, carried_calibration().int8[int8])
    modules = {module.rpartition(".")[2] for module in names.values()}
    assert {"around", "joined"} <= modules, "a carried map is no picture, and no head follows"
    assert ("stem" in modules) == (int8 == "cpu")


@pytest.mark.parametrize("numerics", ["fp16", "int8-tensorrt", "int8-cpu"])
def test_a_network_without_weights_stays_float32(numerics: Numerics) -> None:
    graph, plan = carried_graph(weights=False), QuantizationPlan(calibrator="min-max", ranges={})
    found = StageCalibration(peaks={}, int8={"tensorrt": plan, "cpu": plan})
    for dialect in ("onnxruntime", "tensorrt"):
        lowered = lower_to(graph, dialect, numerics, found, "fp16")
        assert len(float32_operators(lowered)) == len(model_from_graph(lowered).graph)
        for port, value in run(graph, **carried_feeds()).items():
            np.testing.assert_allclose(run(lowered, **carried_feeds())[port], value, rtol=1e-6)
    with pytest.raises(GraphError, match="has no tensors 'pixels' and 'logits'"):
        network_graph(graph)
