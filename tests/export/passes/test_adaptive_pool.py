import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cascadert.errors import PassError
from cascadert.export.exporter import trace
from cascadert.export.functions import add_functions
from cascadert.export.passes.adaptive_pool import SpecialiseAdaptivePool, bin_weights


@given(st.integers(1, 40), st.integers(1, 40))
def test_bin_weights_are_pytorchs_bins(length, bins):
    x = torch.arange(length, dtype=torch.float32)[None, None] ** 1.5
    expected = nn.functional.adaptive_avg_pool1d(x, bins)[0, 0]
    np.testing.assert_allclose(bin_weights(length, bins) @ x[0, 0].numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(bin_weights(length, bins).sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "bins", "operators"),
    [
        ((32, 32), (6, 6), ["MatMul", "MatMul"]),
        ((45, 60), (2, 3), ["MatMul", "MatMul"]),
        ((5, 7), (8, 3), ["MatMul", "MatMul"]),
        ((60, 60), (6, 6), ["AveragePool"]),
        ((8, 12), (1, 3), ["AveragePool"]),
        ((9, 4), (1, 1), ["ReduceMean"]),
        ((6, 6), (6, 6), ["AveragePool"]),
        ((320, 960), (1, 3), ["MatMul", "MatMul"]),
    ],
)
def test_every_form_equals_pytorch(size, bins, operators, onnx_text, apply_checked, run_model, op_types):
    x, module = torch.randn(2, 3, *size), nn.AdaptiveAvgPool2d(bins)
    (height, width), (rows, columns) = size, bins
    model = onnx_text(
        f"agraph (float[n, 3, {height}, {width}] x) => (float[n, 3, {rows}, {columns}] y)"
        f" <int64[2] size = {{{rows}, {columns}}}> {{ y = cascadert.AdaptiveAvgPool2d(x, size) }}"
    )
    add_functions(model)
    apply_checked(SpecialiseAdaptivePool(), model, {"x": x.numpy()}, atol=1e-6)
    assert op_types(model) == operators
    np.testing.assert_allclose(run_model(model, {"x": x.numpy()})[0], module(x).numpy(), atol=1e-6)


def test_pytorchs_module_arrives_as_one_call(op_types):
    model = trace(nn.AdaptiveAvgPool2d((None, 3)), {"x": torch.rand(1, 2, 4, 9)}, ["y"])
    assert op_types(model) == ["AdaptiveAvgPool2d"]
    SpecialiseAdaptivePool()(model)
    assert op_types(model) == ["AveragePool"]


def test_a_map_of_unknown_size_is_refused(onnx_text):
    model = onnx_text(
        "agraph (float[1, 3, h, 8] x) => (float[1, 3, a, b] y) <int64[2] size = {2, 2}>"
        " { y = cascadert.AdaptiveAvgPool2d(x, size) }"
    )
    with pytest.raises(PassError, match="use a fixed image size"):
        SpecialiseAdaptivePool()(model)
