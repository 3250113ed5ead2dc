import pytest

from cascadert.errors import PassError
from cascadert.export.passes.tensorrt_ops import CheckTensorRTOperators

REFUSED = {
    "indices": (
        "(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y, int32[1, 1, 2, 2] i)"
        " { y, j = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) i = Cast <to = 6> (j) }",
        "MaxPool, .*returns indices",
    ),
    "nonzero": ("(float[4] x) => (int32[1, k] y) { j = NonZero(x) y = Cast <to = 6> (j) }", "NonZero, .*does not have"),
    "reduction": (
        "(float[4] x, int32[1, 1] i, float[1] v) => (float[4] y)"
        ' { j = Cast <to = 7> (i) y = ScatterND <reduction = "none"> (x, j, v) }',
        "ScatterND, .*attribute 'reduction'",
    ),
    "large pool": (
        "(float[1, 1, 317, 317] x) => (float[1, 1, 1, 1] y) { y = AveragePool <kernel_shape = [317, 317]> (x) }",
        "AveragePool, .*99,856",
    ),
    "run-time k": (
        "(float[4] x, int32[1] k) => (float[m] y) { l = Cast <to = 7> (k) y, i = TopK <axis = 0> (x, l) }",
        "TopK, .*computed at run time",
    ),
    "antialias": (
        "(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y) <float[4] s = {1.0, 1.0, 0.5, 0.5}>"
        ' { y = Resize <mode = "linear", antialias = 1> (x, , s) }',
        "Resize, .*antialiasing",
    ),
    "uint8 gather": (
        "(uint8[4] x, int32[2] i) => (float[2] y) { g = Gather(x, i) y = Cast <to = 1> (g) }",
        "Gather, .*uint8 inside the graph",
    ),
    "uint8 transpose": (
        "(uint8[4, 2] x) => (float[2, 4] y) { t = Transpose <perm = [1, 0]> (x) y = Cast <to = 1> (t) }",
        "Transpose, .*uint8",
    ),
    "foreign domain": (
        "(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y) <int64[2] s = {2, 2}>"
        " { y = cascadert.AdaptiveAvgPool2d(x, s) }",
        "AdaptiveAvgPool2d, .*domain 'cascadert'",
    ),
    "int64 input": ("(int64[2] x) => (float[2] y) { y = Cast <to = 1> (x) }", "input 'x': has the type INT64"),
    "int64 output": ("(float[2] x) => (int64[2] y) { y = Cast <to = 7> (x) }", "output 'y': has the type INT64"),
    "float64": ("(double[2] x) => (float[2] y) { y = Cast <to = 1> (x) }", "input 'x': has the type DOUBLE"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_parser_takes_is_refused_before_the_build(name, onnx_text):
    graph, message = REFUSED[name]
    with pytest.raises(PassError, match=message) as caught:
        CheckTensorRTOperators()(onnx_text(f"agraph {graph}"))
    assert "\n" not in str(caught.value)


def test_a_plain_graph_passes_unchanged(onnx_text):
    model = onnx_text("agraph (uint8[2] x) => (float[2] y) { f = Cast <to = 1> (x) y = Relu(f) }")
    assert CheckTensorRTOperators()(model).modified is False
