"""Passes on Resize: scales in place of sizes, and constants of its own for each."""

import numpy as np
import pytest
import torch
from torch import nn

from cascadert.export.exporter import trace
from cascadert.export.passes.clean_up import CleanUp
from cascadert.export.passes.resize_by_scales import ResizeByScales
from cascadert.export.passes.resize_scales import OwnResizeConstants

TWO_RESIZES = (
    "agraph (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y, float[1, 1, 4, 4] z, float[4] s)"
    " <float[4] scales = {1.0, 1.0, 2.0, 2.0}>"
    ' { y = Resize <mode = "linear"> (x, , scales) z = Resize <mode = "nearest"> (x, , scales) s = Identity(scales) }'
)


class UpSample(nn.Module):
    def __init__(self, size: tuple[int, int], **options) -> None:
        super().__init__()
        self.size, self.options = size, options

    def forward(self, x):
        return nn.functional.interpolate(x, size=self.size, **self.options)


@pytest.mark.parametrize(("size", "corners"), [((12, 16), False), ((7, 5), False), ((7, 5), True)])
def test_scales_give_what_sizes_gave(size, corners, apply_checked, run_model):
    x, module = torch.randn(2, 3, 6, 8), UpSample(size, mode="bilinear", align_corners=corners)
    model = trace(module, {"x": x}, ["y"], {"x": {0: "n"}})
    CleanUp()(model)
    sized = [node for node in model.graph if node.op_type == "Resize"]
    assert len(sized[0].inputs) == 4, "PyTorch exports sizes"
    apply_checked(ResizeByScales(), model, {"x": x.numpy()}, atol=1e-5)
    CleanUp()(model)
    assert [node.op_type for node in model.graph] == ["Resize"], "no arithmetic on shapes is left"
    np.testing.assert_allclose(run_model(model, {"x": x.numpy()})[0], module(x).numpy(), atol=1e-5)


@pytest.mark.parametrize(("mode", "modified"), [("nearest", False), ("linear", True)])
def test_nearest_keeps_sizes_where_the_scale_rounds_down(mode, modified, onnx_text, apply_checked):
    """The float32 nearest to 7 / 6 times 6 is 6.9999995, whose floor is a pixel too few."""
    assert int(float(np.float32(7 / 6)) * 6) == 6
    model = onnx_text(
        "agraph (float[1, 1, 6, 6] x) => (float[1, 1, 7, 7] y) <int64[4] sizes = {1, 1, 7, 7}>"
        f' {{ y = Resize <mode = "{mode}"> (x, , , sizes) }}'
    )
    x = np.random.default_rng(0).random((1, 1, 6, 6), np.float32)
    apply_checked(ResizeByScales(), model, {"x": x}, modified=modified, atol=1e-6)


def test_shared_constants_are_copied(onnx_text, apply_checked):
    model = onnx_text(TWO_RESIZES)
    apply_checked(OwnResizeConstants(), model, {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)})
    scales = [node.inputs[2] for node in model.graph if node.op_type == "Resize"]
    assert len({value.name for value in scales}) == 2
    assert all(len(value.uses()) == 1 for value in scales)
    assert len(model.graph.initializers) == 3


def test_merging_equal_initialisers_is_undone(onnx_text):
    model = onnx_text(TWO_RESIZES)
    OwnResizeConstants()(model)
    CleanUp()(model)
    assert OwnResizeConstants()(model).modified
