import numpy as np
import pytest

from cascadert.errors import PassError
from cascadert.export.passes.reduction import StripReductionNone

SCATTER = (
    'agraph (float[4] x, int64[2, 1] i, float[2] v) => (float[4] y) {{ y = ScatterND <reduction = "{}"> (x, i, v) }}'
)
FEEDS = {"x": np.zeros(4, np.float32), "i": np.array([[1], [3]]), "v": np.array([5, 7], np.float32)}


def test_none_is_stripped(onnx_text, apply_checked):
    model = onnx_text(SCATTER.format("none"))
    apply_checked(StripReductionNone(), model, FEEDS)
    assert not model.graph[0].attributes


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_any_other_reduction_is_refused_by_name(reduction, onnx_text):
    model = onnx_text(SCATTER.format(reduction))
    model.graph[0].name = "merge"
    model.graph[0].metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'paste', 'index_put']"
    with pytest.raises(PassError, match=f"node 'merge' .ScatterND, from module 'paste'.: .*reduction '{reduction}'"):
        StripReductionNone()(model)


def test_a_scatter_without_the_attribute_stays(onnx_text, apply_checked):
    model = onnx_text(SCATTER.replace(' <reduction = \\"{}\\">', "").replace('<reduction = "{}"> ', "").format())
    apply_checked(StripReductionNone(), model, FEEDS, modified=False)
