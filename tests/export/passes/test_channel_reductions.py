import numpy as np
import pytest

from cascadert.export.passes.channel_reductions import FastChannelReductions


def reductions(classes: int, height: int, width: int, keepdims: int) -> str:
    out = f"n, 1, {height}, {width}" if keepdims else f"n, {height}, {width}"
    return (
        f"agraph (float[n, {classes}, {height}, {width}] x) => (float[{out}] most, float[{out}] total)"
        " <int64[1] axis = {1}>"
        f" {{ most = ReduceMax <keepdims = {keepdims}> (x, axis) total = ReduceSum <keepdims = {keepdims}> (x, axis) }}"
    )


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("batch", "classes", "height", "width"), [(1, 19, 8, 16), (2, 1, 16, 8), (3, 4, 40, 56), (1, 3, 64, 2048)]
)
def test_reductions_keep_their_values(batch, classes, height, width, keepdims, onnx_text, apply_checked, op_types):
    model = onnx_text(reductions(classes, height, width, keepdims))
    x = np.random.default_rng(0).standard_normal((batch, classes, height, width)).astype(np.float32) * 20
    apply_checked(FastChannelReductions(), model, {"x": x}, atol=1e-4)
    assert op_types(model) == ["Reshape", "MaxPool", "Reshape", "Reshape", "MatMul", "Reshape"]


def test_the_maximum_is_exact_and_below_zero(onnx_text, run_model):
    model = onnx_text(reductions(5, 8, 16, 1))
    x = -1 - np.random.default_rng(0).random((1, 5, 8, 16), np.float32)
    FastChannelReductions()(model)
    np.testing.assert_array_equal(run_model(model, {"x": x})[0], x.max(1, keepdims=True))


def test_a_plane_without_a_good_row_keeps_its_maximum(onnx_text, apply_checked, op_types):
    model = onnx_text(reductions(2, 1, 1031, 1))  # a prime above the widest row
    x = np.random.default_rng(0).random((1, 2, 1, 1031), np.float32)
    apply_checked(FastChannelReductions(), model, {"x": x}, atol=1e-6)
    assert "ReduceMax" in op_types(model)


@pytest.mark.parametrize("axes", ["{0}", "{2}", "{3}"])
def test_other_axes_stay(axes, onnx_text, apply_checked):
    model = onnx_text(
        f"agraph (float[2, 3, 4, 5] x) => (float[a, b, c] y) <int64[1] axis = {axes}>"
        " { y = ReduceSum <keepdims = 0> (x, axis) }"
    )
    x = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    apply_checked(FastChannelReductions(), model, {"x": x}, modified=False)
