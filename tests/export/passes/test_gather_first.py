import numpy as np
import onnx_ir as ir

from cascadert.export.passes.gather_first import GatherBeforeCast

CAST_FIRST = """agraph (uint8[2, 4, 3] frame, int64[n] indices) => (float[3, n] crops)
    <int64[2] flat = {8, 3}>
{
    whole = Cast <to = 1> (frame)
    pixels = Reshape(whole, flat)
    chosen = Gather <axis = 0> (pixels, indices)
    crops = Transpose <perm = [1, 0]> (chosen)
}"""


def test_the_cast_comes_last(onnx_text, apply_checked, op_types):
    model = onnx_text(CAST_FIRST)
    frame = np.random.default_rng(0).integers(0, 256, (2, 4, 3), dtype=np.uint8)
    apply_checked(GatherBeforeCast(), model, {"frame": frame, "indices": np.array([7, 0, 3, 3])})
    assert op_types(model) == ["Reshape", "Gather", "Transpose", "Cast"]
    assert model.graph.outputs[0].name == "crops"
    ir.passes.common.CheckerPass(full_check=True)(model)


def test_a_cast_with_two_readers_stays(onnx_text, apply_checked):
    model = onnx_text(
        "agraph (uint8[2, 2] x) => (float[2, 2] y, float[2, 2] z)"
        " { f = Cast <to = 1> (x) y = Transpose <perm = [1, 0]> (f) z = Relu(f) }"
    )
    x = np.arange(4, dtype=np.uint8).reshape(2, 2)
    apply_checked(GatherBeforeCast(), model, {"x": x}, modified=False)


def test_indices_are_not_data(onnx_text, apply_checked):
    model = onnx_text(
        "agraph (uint8[2] i, float[4] x) => (float[2] y) { j = Cast <to = 7> (i) y = Gather <axis = 0> (x, j) }"
    )
    feeds = {"i": np.array([3, 1], np.uint8), "x": np.arange(4, dtype=np.float32)}
    apply_checked(GatherBeforeCast(), model, feeds, modified=False)
