import numpy as np
import onnx_ir as ir
import pytest

from cascadert.errors import PassError
from cascadert.export.passes.uint8_boundary import Uint8AtBoundary, inner_uint8

CROP_AND_PASTE = """agraph (uint8[1, 4, 4, 3] frame, int64[n] indices, uint8[16] labels)
    => (uint8[16] pasted, float[n, 3] crops)
    <int64[2] flat = {16, 3}, uint8[1] limit = {200}, int64[1] column = {1}>
{
    pixels = Reshape(frame, flat)
    chosen = Gather <axis = 0> (pixels, indices)
    crops = Cast <to = 1> (chosen)
    best = ArgMax <axis = 1, keepdims = 0> (crops)
    small = Cast <to = 2> (best)
    capped = Min(small, limit)
    where = Unsqueeze(indices, column)
    pasted = ScatterND(labels, where, capped)
}"""
RNG = np.random.default_rng(0)
FEEDS = {
    "frame": RNG.integers(0, 256, (1, 4, 4, 3), dtype=np.uint8),
    "indices": np.array([3, 0, 15]),
    "labels": RNG.integers(0, 256, 16, dtype=np.uint8),
}


def test_uint8_stays_at_the_boundary(onnx_text, apply_checked):
    model = onnx_text(CROP_AND_PASTE)
    apply_checked(Uint8AtBoundary(), model, FEEDS)
    assert not inner_uint8(model)
    assert [value.dtype for value in model.graph.inputs] == [ir.DataType.UINT8, ir.DataType.INT64, ir.DataType.UINT8]
    assert model.graph.outputs[0].name == "pasted"
    for node in model.graph.all_nodes():
        touches = [value.name for value in (*node.inputs, *node.outputs) if value and value.dtype == ir.DataType.UINT8]
        assert not touches or node.op_type == "Cast", touches


def test_shape_inference_agrees_with_the_new_types(onnx_text):
    model = onnx_text(CROP_AND_PASTE)
    Uint8AtBoundary()(model)
    ir.passes.common.CheckerPass(full_check=True)(model)


def test_a_cast_from_float_still_drops_the_fraction(onnx_text, apply_checked):
    model = onnx_text(
        "agraph (float[3] x) => (uint8[3] y, float[3] z)"
        " { t = Cast <to = 2> (x) y = Identity(t) z = Cast <to = 1> (t) }"
    )
    apply_checked(Uint8AtBoundary(), model, {"x": np.array([0.9, 1.0, 254.7], np.float32)})


def test_an_input_that_is_also_the_output(onnx_text, apply_checked):
    model = onnx_text("agraph (uint8[4] x) => (uint8[2, 2] y) <int64[2] s = {2, 2}> { y = Reshape(x, s) }")
    apply_checked(Uint8AtBoundary(), model, {"x": np.array([0, 1, 254, 255], np.uint8)})


def test_a_graph_that_is_clean_stays(onnx_text, apply_checked):
    model = onnx_text("agraph (uint8[2] x) => (uint8[2] y) { f = Cast <to = 1> (x) r = Relu(f) y = Cast <to = 2> (r) }")
    apply_checked(Uint8AtBoundary(), model, {"x": np.array([3, 255], np.uint8)}, modified=False)


def test_arithmetic_in_uint8_is_refused(onnx_text):
    model = onnx_text("agraph (uint8[2] x) => (uint8[2] y) { y = Add(x, x) }")
    with pytest.raises(PassError, match=r"\(Add, .*computes in uint8.*convert to float32"):
        Uint8AtBoundary()(model)


def test_unknown_types_are_refused(onnx_text):
    model = onnx_text("agraph (uint8[2] x) => (float[2] y) { t = Identity(x) y = Cast <to = 1> (t) }")
    model.graph[0].outputs[0].type = None
    with pytest.raises(PassError, match="unknown type; run shape inference"):
        Uint8AtBoundary()(model)
