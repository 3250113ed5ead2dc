"""The network in float16, typed for GPUs and rounded for CPUs."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from cascadert.errors import PassError
from cascadert.export.network import network_nodes
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.passes.half import NetworkToFloat16
from cascadert.export.passes.half_rounding import RoundNetworkToFloat16
from tests.export.precision_graphs import frames, nodes, passed, run, session, sqnr_db, stage_graph

OPERATORS = [node.outputs[0].name for node in network_nodes(model_from_graph(stage_graph()))]
KINDS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


def types_of(graph: onnx.ModelProto) -> dict[str, str]:
    """Floating-point type of every tensor, by ONNX's own inference."""
    inferred = onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True).graph
    values = [*inferred.value_info, *inferred.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return {name: KINDS[kind] for name, kind in kinds.items() if kind in KINDS}


def typed(keep: tuple[str, ...] = ()) -> dict[str, str]:
    return types_of(onnx.load_model_from_string(passed(stage_graph(), NetworkToFloat16(keep)).onnx))


def test_the_network_is_float16_and_the_glue_float32() -> None:
    types = typed()
    for name in OPERATORS[:-1]:
        assert types[name] == "float16", name
    assert {types[name] for name in ("pixels", "logits", "peak")} == {"float32"}


def test_there_is_one_cast_at_either_edge() -> None:
    casts = [node for node in nodes(passed(stage_graph(), NetworkToFloat16()), "Cast") if "glue" not in node.name]
    assert [(node.input[0], node.output[0]) for node in casts] == [
        ("pixels", "pixels_float16"),
        ("logits_float16", "logits"),
    ]


def test_sizes_of_a_resize_stay_float32() -> None:
    model = onnx.load_model_from_string(passed(stage_graph(), NetworkToFloat16()).onnx)
    (resize,) = (node for node in model.graph.node if node.op_type == "Resize")
    (factors,) = (tensor for tensor in model.graph.initializer if tensor.name == resize.input[2])
    assert factors.data_type == TensorProto.FLOAT


def test_sizes_of_a_resize_are_not_rounded() -> None:
    model = onnx.load_model_from_string(stage_graph().onnx)
    (factors,) = (tensor for tensor in model.graph.initializer if tensor.name == "factors")
    wanted = np.float32([1, 1, 64 / 6, 64 / 6])  # of PSPNet's pyramid: 6 by 10.66 would be 63
    factors.CopyFrom(onnx.numpy_helper.from_array(wanted, "factors"))
    rounded = ir.from_proto(model)
    RoundNetworkToFloat16()(rounded)
    found = rounded.graph.initializers["factors"].const_value
    assert found is not None
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_what_makes_its_own_type_is_cast_behind() -> None:
    model = onnx.load_model_from_string(stage_graph().onnx)
    place = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "wide")
    model.graph.node.insert(
        place + 1, onnx.helper.make_node("ConstantOfShape", ["shape"], ["halves"], name="network/c")
    )
    model.graph.node.insert(place + 1, onnx.helper.make_node("Shape", ["wide"], ["shape"], name="network/s"))
    half = onnx.numpy_helper.from_array(np.float32([0.5]))
    model.graph.node[place + 2].attribute.append(onnx.helper.make_attribute("value", half))
    residual = next(node for node in model.graph.node if node.output[0] == "added")
    residual.input[1] = "halves"
    graph = replace(stage_graph(), onnx=onnx.shape_inference.infer_shapes(model).SerializeToString())
    lowered = passed(graph, NetworkToFloat16())
    assert types_of(onnx.load_model_from_string(lowered.onnx))["halves"] == "float32"
    assert sqnr_db(run(graph)["peak"], run(lowered)["peak"]) > 50


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(OPERATORS)))
def test_whatever_stays_float32_the_graph_is_valid_and_near(keep: set[str]) -> None:
    graph = passed(stage_graph(), NetworkToFloat16(tuple(keep)))
    types = types_of(onnx.load_model_from_string(graph.onnx))
    for name in OPERATORS[:-1]:
        assert types[name] == ("float32" if name in keep else "float16")
    assert sqnr_db(run(stage_graph())["peak"], run(graph)["peak"]) > 50


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(OPERATORS)))
def test_rounding_by_hand_keeps_what_is_kept(keep: set[str]) -> None:
    graph = passed(stage_graph(), RoundNetworkToFloat16(tuple(keep)))
    probe = onnx.load_model_from_string(graph.onnx)
    shown = [name for name in OPERATORS if name != "logits"]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in shown)
    made = session(probe.SerializeToString()).run(shown, {"frame": frames()})
    for name, value in zip(shown, made, strict=True):
        rounded = np.array_equal(value, value.astype(np.float16).astype(np.float32))
        assert rounded or name in keep
        assert not (rounded and name == "wide_sum" and name in keep), "a kept sum would not be on float16's grid"


def test_rounding_equals_float16_of_numpy_for_one_operator() -> None:
    model = onnx.load_model_from_string(stage_graph().onnx)
    graph = passed(stage_graph(), RoundNetworkToFloat16([name for name in OPERATORS if name != "stem_sum"]))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    half = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_model_from_string(graph.onnx).graph.initializer}
    np.testing.assert_array_equal(half["stem.w"], weights["stem.w"].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(half["wide.w"], weights["wide.w"])
    assert 50 < sqnr_db(run(stage_graph())["peak"], run(graph)["peak"]) < 90


def test_a_graph_inside_the_network_is_refused() -> None:
    model = model_from_graph(stage_graph())
    relu = next(node for node in model.graph if node.op_type == "Relu")
    inner = ir.Graph([], [], nodes=[], name="branch", opset_imports={"": 18})
    relu.attributes["then_branch"] = ir.AttrGraph("then_branch", inner)
    with pytest.raises(PassError, match=r"node 'network/stem' \(Relu, .*\): holds a graph of its own"):
        NetworkToFloat16()(model)
