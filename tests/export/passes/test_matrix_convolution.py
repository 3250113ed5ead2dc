import numpy as np
import pytest

from cascadert.export.passes.matrix_convolution import MatrixProductToConvolution

RNG = np.random.default_rng(0)


def listed(*shape: int) -> str:
    return ", ".join(f"{value:.3f}" for value in RNG.random(shape).reshape(-1))


@pytest.mark.parametrize("batch", [1, 3])
def test_pooling_by_two_products_becomes_two_convolutions(batch, onnx_text, apply_checked, op_types):
    """The second product reads what the first was replaced by."""
    model = onnx_text(
        f"agraph (float[n, 2, 5, 7] x) => (float[n, 2, 3, 4] y)"
        f" <float[3, 5] rows = {{{listed(3, 5)}}}, float[7, 4] columns = {{{listed(7, 4)}}}>"
        " { t = MatMul(rows, x) y = MatMul(t, columns) }"
    )
    apply_checked(MatrixProductToConvolution(), model, {"x": RNG.random((batch, 2, 5, 7), np.float32)}, atol=1e-6)
    assert op_types(model) == ["Transpose", "Conv", "Transpose"] * 2


@pytest.mark.parametrize(
    "graph",
    [
        f"(float[2, 5] x) => (float[2, 4] y) <float[5, 4] w = {{{listed(5, 4)}}}> {{ y = MatMul(x, w) }}",
        "(float[1, 2, 5, 5] x) => (float[1, 2, 5, 5] y) { y = MatMul(x, x) }",
    ],
)
def test_other_products_stay(graph, onnx_text, apply_checked):
    model = onnx_text(f"agraph {graph}")
    shape = tuple(model.graph.inputs[0].shape.numpy())
    apply_checked(MatrixProductToConvolution(), model, {"x": RNG.random(shape, np.float32)}, modified=False)
