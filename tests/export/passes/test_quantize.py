"""Q/DQ pairs for TensorRT: where they are, what they hold, and that NVIDIA's parser takes them."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from cascadert.export.onnx_io import model_from_graph
from cascadert.export.passes.quantize import QuantizeForTensorRT
from cascadert.export.placement import place
from cascadert.graph import Graph
from tests.export.precision_graphs import (
    all_tensors,
    frames,
    min_max,
    nodes,
    passed,
    run,
    session,
    sqnr_db,
    stage_graph,
)

WIDE = {"wide_sum", "residual_sum", "joined_sum"}  # not the stem, which sees pixels, nor the head


def quantized(keep: tuple[str, ...] = (), ranges: dict[str, tuple[float, float]] | None = None) -> Graph:
    return passed(stage_graph("tensorrt"), QuantizeForTensorRT(min_max() if ranges is None else ranges, keep))


def test_wide_convolutions_residual_additions_and_joined_tensors_are_quantized() -> None:
    placement = place(model_from_graph(stage_graph("tensorrt")), min_max())
    assert set(placement.operators) == WIDE | {"added", "both"}
    read = {node.outputs[0].name: [node.inputs[i].name for i in found] for node, found in placement.readers.items()}
    assert read == {
        "wide_sum": ["stem"],
        "residual_sum": ["wide"],
        "added": ["residual_sum", "stem"],
        "both": ["block", "stem"],
        "joined_sum": ["both"],
    }


def test_what_a_concat_joins_has_one_scale() -> None:
    placement = place(model_from_graph(stage_graph("tensorrt")), min_max())
    ranges = {value.name: found for value, found in placement.ranges.items()}
    assert ranges["block"] == ranges["stem"] == ranges["both"]
    widest = max(float(all_tensors()[name].max()) for name in ("block", "stem", "both"))
    assert ranges["both"][1] == pytest.approx(widest)
    assert ranges["wide"] == min_max()["wide"]


@pytest.mark.parametrize("name", sorted(WIDE | {"added", "both"}))
def test_what_is_kept_reads_floating_point(name: str) -> None:
    (node,) = (
        node for node in onnx.load_model_from_string(quantized((name,)).onnx).graph.node if node.output[0] == name
    )
    assert not [value for value in node.input if value.endswith("_restored")]


def test_a_tensor_that_was_not_measured_is_not_quantized() -> None:
    ranges = {name: found for name, found in min_max().items() if name != "wide"}
    assert "residual_sum" not in place(model_from_graph(stage_graph("tensorrt")), ranges).operators


def test_every_scale_is_symmetric_and_every_zero_point_zero() -> None:
    model = onnx.load_model_from_string(quantized().onnx)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 2 * (5 + len(WIDE))  # stem, wide, block, both, residual_sum; and weights
    for node in pairs:
        assert constants[node.input[2]].dtype == np.int8
        assert not constants[node.input[2]].any()
    np.testing.assert_allclose(constants["wide_scale"], all_tensors()["wide"].max() / 127)


def test_weights_have_a_scale_for_each_output_channel() -> None:
    model = onnx.load_model_from_string(quantized().onnx)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = constants["wide.w"]
    np.testing.assert_allclose(constants["wide.w_scale"], np.abs(weights).max(axis=(1, 2, 3)) / 127, rtol=1e-6)


def test_it_computes_what_numpy_says_of_one_tensor() -> None:
    keep = tuple(WIDE - {"residual_sum"} | {"added", "both"})
    probe = onnx.load_model_from_string(quantized(keep).onnx)
    probe.graph.output.append(onnx.helper.make_tensor_value_info("wide_restored", onnx.TensorProto.FLOAT, None))
    (found,) = session(probe.SerializeToString()).run(["wide_restored"], {"frame": frames()})
    wide = all_tensors()["wide"]
    scale = np.float32(wide.max() / 127)
    np.testing.assert_allclose(found, np.clip(np.rint(wide / scale), -128, 127) * scale, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(sorted(WIDE | {"added", "both"}))))
def test_fewer_operators_in_int8_stay_near(keep: set[str]) -> None:
    graph = quantized(tuple(keep))
    sqnr = sqnr_db(run(stage_graph())["peak"], run(graph)["peak"])
    assert sqnr > 25
    if keep == WIDE | {"added", "both"}:
        assert not nodes(graph, "QuantizeLinear")


def test_a_channel_of_zeros_and_an_empty_tensor_have_a_scale() -> None:
    model = onnx.load_model_from_string(stage_graph("tensorrt").onnx)
    for tensor in model.graph.initializer:
        if tensor.name == "wide.w":
            array = numpy_helper.to_array(tensor).copy()
            array[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    graph = Graph(model.SerializeToString(), stage_graph().inputs, stage_graph().outputs, "tensorrt")
    ranges = {**min_max(), "wide": (0.0, 0.0)}
    assert np.isfinite(run(passed(graph, QuantizeForTensorRT(ranges)))["peak"]).all()


def test_the_tensorrt_rtx_parser_takes_it(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(quantized().onnx), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    assert kinds.count(trt.LayerType.QUANTIZE) == kinds.count(trt.LayerType.DEQUANTIZE) == 5 + len(WIDE)


def test_a_residual_addition_of_no_convolution_in_int8_stays_out() -> None:
    placement = place(model_from_graph(stage_graph("tensorrt")), min_max(), keep=("residual_sum",))
    assert "added" not in placement.operators


def test_a_convolution_that_sees_the_pixels_stays_out_however_wide() -> None:
    model = model_from_graph(stage_graph("tensorrt"))
    first = next(node for node in model.graph if node.op_type == "Conv")
    pixels = first.inputs[0]
    deeper = ir.Value(name="deeper", shape=ir.Shape([2, 48, 3, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    fold = ir.Node("", "SpaceToDepth", [pixels], [ir.AttrInt64("blocksize", 4)], outputs=[deeper], name="network/fold")
    model.graph.insert_before(first, fold)
    first.replace_input_with(0, deeper)
    weights = ir.tensor(np.ones((16, 48, 3, 3), np.float32), name="wide_stem")
    value = ir.Value(
        name="wide_stem", shape=ir.Shape(weights.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=weights
    )
    model.graph.register_initializer(value)
    first.replace_input_with(1, value)
    assert "stem_sum" not in place(model, {**min_max(), "deeper": (0.0, 4.0)}).operators


def test_small_weights_keep_their_scale() -> None:
    model = onnx.load_model_from_string(stage_graph("tensorrt").onnx)
    for tensor in model.graph.initializer:
        if tensor.name == "wide.w":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e-3), tensor.name))
    graph = Graph(model.SerializeToString(), stage_graph().inputs, stage_graph().outputs, "tensorrt")
    made = onnx.load_model_from_string(passed(graph, QuantizeForTensorRT(min_max())).onnx)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    weights, scale = constants["wide.w"], constants["wide.w_scale"]
    np.testing.assert_allclose(scale, np.abs(weights).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
