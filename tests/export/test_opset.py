"""Other opsets: real stages keep their bits, their names and their modules; what cannot be said is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from cascadert.errors import PassError
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.lowering import lower
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.opset import to_opset
from cascadert.export.passes.base import name_scopes
from cascadert.graph import Graph, TensorSpec

ROOT = Path(__file__).parents[2]
HERE = "(%s, from module 'network.head')"
REMEDY = "choose a target with a newer TensorRT, or replace that operation in the network"


def make(text: str, opset: int) -> Graph:
    """Parse ONNX's text form; nodes of the module `network.head`, named for their outputs."""
    ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    model = onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> agraph {text}')
    for node in model.graph.node:
        node.name = node.output[0]
        scopes = ["", "network", "network.head", node.name]
        node.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=repr(scopes)))
    model = onnx.shape_inference.infer_shapes(model)
    ports = [
        tuple(
            TensorSpec(
                port.name,
                np.dtype(onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)).name,
                tuple(size.dim_param or size.dim_value for size in port.type.tensor_type.shape.dim),
            )
            for port in ports
        )
        for ports in (model.graph.input, model.graph.output)
    ]
    return Graph(model.SerializeToString(), *ports, "tensorrt")


def run(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])
    rng, feeds = np.random.default_rng(seed), {}
    for port in graph.inputs:
        shape = tuple(2 if isinstance(size, str) else size for size in port.shape)
        if port.dtype.startswith("float"):
            feeds[port.name] = rng.normal(size=shape).astype(port.dtype)
        else:
            limit = 2 if port.name == "indices" else 4 if "labels" in port.name else 256
            feeds[port.name] = (np.arange(np.prod(shape)).reshape(shape) * 7 % limit).astype(port.dtype)
    return session.run(None, feeds)


def bits(arrays: list[np.ndarray]) -> list[tuple[np.dtype, tuple[int, ...], bytes]]:
    return [(array.dtype, array.shape, array.tobytes()) for array in arrays]


def anatomy(graph: Graph) -> dict[str, tuple[object, ...]]:
    """What must survive: of each node its name, operator and modules, and its outputs with type and shape."""
    return {
        str(node.name): (
            node.op_type,
            tuple(name_scopes(node)),
            tuple((value.name, value.dtype, str(value.shape)) for value in node.outputs),
        )
        for node in model_from_graph(graph).graph.all_nodes()
    }


@pytest.fixture(scope="module", params=["toy_bundle", "chain_bundle"])
def stages(request) -> list[Graph]:
    """Stages of the toy cascades, lowered for TensorRT."""
    return [lower(graph, "tensorrt") for graph in request.getfixturevalue(request.param).graphs.values()]


@pytest.mark.parametrize("opset", [17, 19, 20, 21, 22, 23, 24])
def test_a_stage_keeps_its_bits_names_modules_types_and_shapes(stages, opset):
    for graph in stages:
        converted = to_opset(graph, opset)
        assert model_from_graph(converted).opset_imports == {"": opset}
        assert (converted.inputs, converted.outputs, converted.dialect) == (graph.inputs, graph.outputs, "tensorrt")
        assert bits(run(converted)) == bits(run(graph))
        assert anatomy(converted) == anatomy(graph)


def test_the_opset_it_has_changes_nothing(stages):
    assert to_opset(stages[0], 18) is stages[0]


SPECS = {
    "camvid": (ROOT / "examples/camvid/camvid.toml", None),
    "scenes": (ROOT / "src/cascadert/jetson/specs/scenes.toml", None),
    "three stages": (ROOT / "examples/three-stage.toml", 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_examples_keep_their_bits(name, tmp_path):
    spec, random_weights = SPECS[name]
    bundle = export_bundle(spec, tmp_path / "bundle", ExportOptions(random_weights=random_weights))
    for graph in bundle.graphs.values():
        lowered = lower(graph, "tensorrt")
        expected = bits(run(lowered))
        for opset in (17, 20):
            converted = to_opset(lowered, opset)
            assert bits(run(converted)) == expected
            assert anatomy(converted) == anatomy(lowered)


def test_up_and_down_again(stages):
    for graph in stages:
        assert bits(run(to_opset(to_opset(graph, 24), 17))) == bits(run(graph))


def test_old_files_say_so(stages):
    """Opset 17 came with version 8 of the format, which is what a parser of its time knows."""
    assert model_from_graph(to_opset(stages[0], 17)).ir_version == 8


ADAPTED = {
    "axes": (18, "(float[2,3,4] x) => (float[2,1,1] y) <int64[2] a = {1, 2}> { y = ReduceMean(x, a) }"),
    "all axes": (18, "(float[2,3] x) => (float[1,1] y) { y = ReduceMax(x) }"),
    "no axes": (
        18,
        "(float[2,3] x) => (float[1,1] y) <int64[0] a = {}> { y = ReduceL2 <noop_with_empty_axes = 0> (x, a) }",
    ),
    "sum": (18, "(float[2,3] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceSum(x, a) }"),
    "even parts": (18, "(float[6] x) => (float[3] y, float[3] z) { y, z = Split <num_outputs = 2> (x) }"),
    "given parts": (18, "(float[6] x) => (float[2] y, float[4] z) <int64[2] p = {2, 4}> { y, z = Split(x, p) }"),
    "some pads": (
        18,
        "(float[2,3] x) => (float[2,6] y) <int64[2] p = {1, 2}, int64[1] a = {-1}, float v = {5.0}>"
        " { y = Pad(x, p, v, a) }",
    ),
    "resize": (
        18,
        "(float[1,1,4,4] x) => (float[1,1,8,8] y) <float[4] s = {1.0, 1.0, 2.0, 2.0}>"
        ' { y = Resize <mode = "linear", antialias = 0, keep_aspect_ratio_policy = "stretch"> (x, , s) }',
    ),
    "average": (
        19,
        "(float[1,1,4,4] x) => (float[1,1,2,2] y)"
        " { y = AveragePool <kernel_shape = [2, 2], strides = [2, 2], dilations = [1, 1]> (x) }",
    ),
    "cast": (19, "(float[4] x) => (int32[4] y) { y = Cast <to = 6, saturate = 1> (x) }"),
    "sample": (
        20,
        "(float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) { y = GridSample(x, g) }",
    ),
    "sample, cubic": (
        20,
        '(float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) { y = GridSample <mode = "cubic"> (x, g) }',
    ),
    "quantized": (
        21,
        "(float[4] x) => (float[4] y) <float s = {0.1}, int8 z = {0}>"
        " { q = QuantizeLinear <block_size = 0, saturate = 1> (x, s, z)"
        " y = DequantizeLinear <block_size = 0> (q, s, z) }",
    ),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_what_an_older_opset_says_otherwise(name):
    opset, text = ADAPTED[name]
    graph = make(text, opset)
    older = to_opset(graph, 17)
    for got, wanted in zip(run(older), run(graph), strict=True):
        # ONNX Runtime has another kernel for the older AveragePool, which rounds otherwise.
        np.testing.assert_allclose(got, wanted, rtol=1e-6 if name == "average" else 0)
    assert anatomy(older) == anatomy(graph)


def test_sampling_goes_up_by_its_new_name():
    graph = make(
        '(float[1,1,4,4] x, float[1,2,2,2] g) => (float[1,1,2,2] y) { y = GridSample <mode = "bilinear"> (x, g) }', 16
    )
    assert bits(run(to_opset(graph, 20))) == bits(run(graph))


REFUSED = {
    "an operator that is newer": (
        20,
        "(float[4] x) => (float[4] y) { y = Gelu(x) }",
        f"{HERE % 'Gelu'}: has no equal in ONNX opset 17",
    ),
    "antialias": (
        18,
        "(float[1,1,4,4] x) => (float[1,1,2,2] y) <float[4] s = {1.0, 1.0, 0.5, 0.5}>"
        ' { y = Resize <mode = "linear", antialias = 1> (x, , s) }',
        f"{HERE % 'Resize'}: has the attribute antialias=1, which it does not have in ONNX opset 17",
    ),
    "some axes of a resize": (
        18,
        "(float[1,1,4,4] x) => (float[1,1,8,8] y) <float[2] s = {2.0, 2.0}>"
        ' { y = Resize <mode = "linear", axes = [2, 3]> (x, , s) }',
        f"{HERE % 'Resize'}: has the attribute axes=(2, 3), which it does not have in ONNX opset 17",
    ),
    "axes at run time": (
        18,
        "(float[2,3] x, int64[1] a) => (float[b,c] y) { y = ReduceMean(x, a) }",
        f"{HERE % 'ReduceMean'}: has axes, sizes or a mode (no attributes) that cannot be said in ONNX opset 17",
    ),
    "no axes, nothing to do": (
        18,
        "(float[2,3] x) => (float[2,3] y) { y = ReduceMax <noop_with_empty_axes = 1> (x) }",
        f"{HERE % 'ReduceMax'}: has axes, sizes or a mode (noop_with_empty_axes=1) that cannot be said"
        " in ONNX opset 17",
    ),
    "uneven parts": (
        18,
        "(float[7] x) => (float[4] y, float[3] z) { y, z = Split <num_outputs = 2> (x) }",
        f"{HERE % 'Split'}: has axes, sizes or a mode (num_outputs=2) that cannot be said in ONNX opset 17",
    ),
    "wrapped pads": (
        19,
        '(float[4] x) => (float[6] y) <int64[2] p = {1, 1}> { y = Pad <mode = "wrap"> (x, p) }',
        f"{HERE % 'Pad'}: has mode='wrap', which it does not have in ONNX opset 17",
    ),
    "dilated average": (
        19,
        "(float[1,1,8,8] x) => (float[1,1,4,4] y) { y = AveragePool <kernel_shape = [3, 3], dilations = [2, 2]> (x) }",
        f"{HERE % 'AveragePool'}: has the attribute dilations=(2, 2), which it does not have in ONNX opset 17",
    ),
    "largest of duplicates": (
        18,
        '(float[4] x, int64[1,1] i, float[1] v) => (float[4] y) { y = ScatterND <reduction = "max"> (x, i, v) }',
        f"{HERE % 'ScatterND'}: has reduction='max', which it does not have in ONNX opset 17",
    ),
    "float16 to quantize": (
        19,
        "(float16[4] x, float16 s) => (float16[4] y) <int8 z = {0}>"
        " { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        f"{HERE % 'QuantizeLinear'}: handles 'x' as float16, which it does not in ONNX opset 17",
    ),
    "volumes": (
        20,
        "(float[1,1,4,4,4] x, float[1,2,2,2,3] g) => (float[1,1,2,2,2] y) { y = GridSample(x, g) }",
        f"{HERE % 'GridSample'}: has axes, sizes or a mode (no attributes) that cannot be said in ONNX opset 17",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_older_opset_cannot_say_names_node_and_module(name):
    opset, text, message = REFUSED[name]
    with pytest.raises(PassError) as caught:
        to_opset(make(text, opset), 17)
    assert str(caught.value).partition(" ")[2].partition(" ")[2] == f"{message}; {REMEDY}"


GROUPS = (
    "(float[1,4,2,2] x) => (float[1,4,2,2] y) <float[{0}] s = {{1.0{1}}}, float[{0}] b = {{0.0{2}}}>"
    " {{ y = GroupNormalization <num_groups = 2> (x, s, b) }}"
)


def test_an_operator_that_came_to_mean_something_else():
    """One scale per group until 20, one per channel from 21."""
    old, new = GROUPS.format(2, ", 2.0", ", 0.0"), GROUPS.format(4, ", 1.0, 2.0, 2.0", ", 0.0, 0.0, 0.0")
    with pytest.raises(PassError, match=r"node 'y' \(GroupN.*head'\): means something else in ONNX opset 21; choose a"):
        to_opset(make(old, 18), 21)
    with pytest.raises(PassError, match=r"node 'y' \(GroupN.*head'\): has no equal in ONNX opset 20; choose a"):
        to_opset(make(new, 21), 20)


@pytest.mark.parametrize(
    ("opset", "message"), [(16, "is older than any backend needs"), (25, "is newer than any back")]
)
def test_opsets_that_nobody_asks_for(stages, opset, message):
    with pytest.raises(PassError, match=f"^opset {opset}: {message}"):
        to_opset(stages[0], opset)
