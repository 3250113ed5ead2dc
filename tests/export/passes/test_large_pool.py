import numpy as np
import pytest

from cascadert.errors import PassError
from cascadert.export.passes.large_pool import SplitLargeAveragePool


def pool(kernel: int, stride: int, height: int, width: int, extra: str = "") -> str:
    rows, columns = (height - kernel) // stride + 1, (width - kernel) // stride + 1
    return (
        f"agraph (float[n, 1, {height}, {width}] x) => (float[n, 1, {rows}, {columns}] y)"
        f" {{ y = AveragePool <kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}]{extra}> (x) }}"
    )


def test_a_large_kernel_becomes_reshape_and_mean(onnx_text, apply_checked, op_types):
    model = onnx_text(pool(320, 320, 320, 640))
    x = np.random.default_rng(0).random((2, 1, 320, 640), np.float32)
    apply_checked(SplitLargeAveragePool(), model, {"x": x}, atol=1e-5)
    assert op_types(model) == ["Reshape", "ReduceMean"]


@pytest.mark.parametrize("kernel", [2, 316])
def test_kernels_that_parse_stay(kernel, onnx_text, apply_checked, op_types):
    model = onnx_text(pool(kernel, kernel, 2 * kernel, kernel))
    x = np.ones((1, 1, 2 * kernel, kernel), np.float32)
    apply_checked(SplitLargeAveragePool(), model, {"x": x}, modified=False)
    assert op_types(model) == ["AveragePool"]


@pytest.mark.parametrize(
    ("stride", "width", "extra"),
    [(160, 640, ""), (320, 650, ""), (320, 640, ", pads = [0, 0, 0, 0], ceil_mode = 1")],
)
def test_kernels_that_do_not_tile_the_map_are_refused(stride, width, extra, onnx_text):
    model = onnx_text(pool(320, stride, 320, width, extra))
    with pytest.raises(PassError, match=r"AveragePool, .*: averages \(320, 320\) pixels with overlap"):
        SplitLargeAveragePool()(model)
