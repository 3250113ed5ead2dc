"""What float16 cannot hold stays in float32, each with its reason."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cascadert.calibration.half_range import HEADROOM, operators_beyond_half
from cascadert.export.precision import lower_to
from cascadert.graph import Graph
from cascadert.precision import FP16_MAX
from tests.export.precision_graphs import all_tensors, calibration, run, stage_graph

PEAKS = {name: float(np.abs(a).max()) for name, a in all_tensors().items()}


def test_within_the_range_nothing_is_kept() -> None:
    assert operators_beyond_half(stage_graph(), PEAKS) == {}
    assert operators_beyond_half(stage_graph(), {**PEAKS, "wide": FP16_MAX / HEADROOM}) == {}


def test_who_makes_and_who_reads_a_large_tensor_is_kept() -> None:
    kept = operators_beyond_half(stage_graph(), {**PEAKS, "wide": 40000.0})
    assert set(kept) == {"wide", "residual_sum"}
    assert kept["wide"] == "node 'network/wide' (Relu, from the stage's own code): 'wide' reaches 4e+04"


@pytest.mark.parametrize("peak", [np.inf, np.nan])
def test_what_is_not_finite_is_kept(peak: float) -> None:
    assert "wide" in operators_beyond_half(stage_graph(), {**PEAKS, "wide": peak})


def test_a_tensor_that_lowering_added_is_no_larger_than_what_it_is_made_of() -> None:
    known = {name: peak for name, peak in PEAKS.items() if name != "wide"}
    assert set(operators_beyond_half(stage_graph(), {**known, "wide_sum": 1e5})) == {"wide_sum", "wide", "residual_sum"}


def test_large_weights_are_kept_and_overflow_otherwise() -> None:
    model = onnx.load_model_from_string(stage_graph().onnx)
    for tensor in model.graph.initializer:
        if tensor.name in ("wide.w", "residual.w"):
            factor = 1e6 if tensor.name == "wide.w" else 1e-6
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    graph = Graph(model.SerializeToString(), stage_graph().inputs, stage_graph().outputs)
    kept = operators_beyond_half(graph, {**PEAKS, "wide_sum": 1e6, "wide": 1e6})
    assert kept["wide_sum"].endswith("its weights reach 6.74e+05") or "its weights reach" in kept["wide_sum"]
    assert set(kept) == {"wide_sum", "wide", "residual_sum"}
    wanted = run(graph)["peak"]
    found = calibration().model_copy(update={"fp16_keep": kept})
    right = run(lower_to(graph, "onnxruntime", "fp16", found))["peak"]
    wrong = run(lower_to(graph, "onnxruntime", "fp16", calibration()))["peak"]
    assert np.abs(right - wanted).max() < 0.02
    assert not np.isfinite(wrong).all() or np.abs(wrong - wanted).max() > 0.1
