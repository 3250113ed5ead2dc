import numpy as np

from cascadert.export.passes.prelu import ScalarPReluToLeakyRelu


def test_one_slope_becomes_leaky_relu(onnx_text, apply_checked, op_types):
    model = onnx_text(
        "agraph (float[1, 4, 2, 2] x) => (float[1, 4, 2, 2] y)"
        " <float[1, 1, 1] a = {0.25}, float[1] b = {-1.5}> { t = PRelu(x, a) y = PRelu(t, b) }"
    )
    x = np.linspace(-3, 3, 16, dtype=np.float32).reshape(1, 4, 2, 2)
    apply_checked(ScalarPReluToLeakyRelu(), model, {"x": x})
    assert op_types(model) == ["LeakyRelu", "LeakyRelu"]
    assert [node.attributes["alpha"].as_float() for node in model.graph] == [0.25, -1.5]


def test_one_slope_a_channel_stays(onnx_text, apply_checked, op_types):
    model = onnx_text(
        "agraph (float[1, 2, 1, 1] x) => (float[1, 2, 1, 1] y) <float[2, 1, 1] a = {0.25, 0.5}> { y = PRelu(x, a) }"
    )
    x = np.array([-1, -2], np.float32).reshape(1, 2, 1, 1)
    apply_checked(ScalarPReluToLeakyRelu(), model, {"x": x}, modified=False)
    assert op_types(model) == ["PRelu"]


def test_a_slope_that_is_computed_stays(onnx_text, op_types):
    model = onnx_text("agraph (float[1, 2] x, float[1] a) => (float[1, 2] y) { y = PRelu(x, a) }")
    assert ScalarPReluToLeakyRelu()(model).modified is False
    assert op_types(model) == ["PRelu"]
