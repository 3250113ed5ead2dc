"""What a graph takes: peaks that can be counted by hand, and what ONNX Runtime really takes."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from cascadert.bundle import Bundle, MemoryEntry
from cascadert.errors import GraphError
from cascadert.export.compile import export_bundle
from cascadert.export.lowering import lower
from cascadert.export.memory import estimate_memory, peak_bytes
from cascadert.export.onnx_io import graph_from_model
from cascadert.graph import Dialect, Graph
from cascadert.jetson.demo.make import SCENES


def parse(body: str, signature: str, dialect: Dialect = "semantic") -> Graph:
    """A graph in ONNX's own notation."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g {signature} {{ {body} }}')
    return graph_from_model(ir.serde.deserialize_model(model), dialect)


ROWS = "(float[n, 100] x) => (float[n, 100] y)"  # 400 bytes for each of n

PEAKS = {
    "two that follow each other": ("a = Softmax(x) b = Softmax(a) y = Softmax(b)", 800),
    "not what the pipeline holds": ("y = Softmax(x)", 0),
    "one that is kept for later": ("a = Softmax(x) b = Softmax(a) c = Softmax(b) y = Add(a, c)", 1200),
    "an operator in place": ("a = Softmax(x) b = Relu(a) y = Softmax(b)", 400),
    "not in place of what is read later": ("a = Softmax(x) b = Relu(a) y = Add(a, b)", 800),
    "not in place of an input of the graph": ("a = Relu(x) y = Softmax(a)", 400),
    "not in place of another size": ("a = Softmax(x) b = Equal(a, x) c = Where(b, a, x) y = Relu(c)", 500),
    "a view is nothing but keeps its source": (
        "a = Softmax(x) s = Constant<value_ints = [-1]>() v = Reshape(a, s) b = Softmax(v) t = Shape(x) "
        "y = Reshape(b, t)",
        800,
    ),
    "a view of an input is nothing": ("a = Identity(x) y = Softmax(a)", 0),
    "an output that nobody reads": ("k = Constant<value_ints = [10]>() a, b = TopK(x, k) y = Softmax(x)", 120),
}


@pytest.mark.parametrize("case", PEAKS)
def test_peaks_counted_by_hand(case: str) -> None:
    body, per_row = PEAKS[case]
    graph = parse(body, ROWS)
    small = 16 * ("Shape" in body) + 8 * ("Constant" in body)  # shapes are tensors, too
    for n in (1, 2, 9):
        assert per_row * n <= peak_bytes(graph, n) <= per_row * n + small


def test_weights_are_what_is_stored() -> None:
    graph = parse("y = Add(x, w)", "(float[n, 3] x) => (float[n, 3] y) <float[3] w = {1, 2, 3}>")
    assert estimate_memory(graph, 5) == MemoryEntry(weights_bytes=12, activation_bytes=0, activation_bytes_per_block=0)


def test_the_line_is_exact_at_both_ends_and_never_too_low() -> None:
    body = "a = Softmax(z) b = Softmax(a) u = Softmax(b) c = Softmax(x) d = Softmax(c) y = Softmax(d)"
    graph = parse(body, "(float[n, 100] x, float[1, 1000] z) => (float[n, 100] y, float[1, 1000] u)")
    peaks = [peak_bytes(graph, n) for n in range(1, 33)]
    assert peaks == [max(8000, 800 * n) for n in range(1, 33)]
    entry = estimate_memory(graph, 32)
    line = [entry.activations(n) for n in range(1, 33)]
    assert (line[0], line[-1]) == (8000, pytest.approx(25600, abs=32))
    assert all(above >= peak for above, peak in zip(line, peaks, strict=True))


def test_a_graph_of_fixed_sizes_does_not_depend_on_n() -> None:
    graph = parse("a = Softmax(x) b = Softmax(a) y = Softmax(b)", "(float[2, 100] x) => (float[2, 100] y)")
    entry = estimate_memory(graph, 32)
    assert entry == MemoryEntry(weights_bytes=0, activation_bytes=1600, activation_bytes_per_block=0)
    assert entry.activations(7) == 1600


def test_onnx_runtime_pads_channels_to_blocks_and_copies_where_they_are_left() -> None:
    weights = ", ".join(["1"] * 19 * 16)
    signature = f"(float[1, 16, 8, 8] x) => (float[1, 19, 8, 8] y) <float[19, 16, 1, 1] w = {{{weights}}}>"
    body, channel = "c = Conv(x, w) y = Softmax(c)", 8 * 8 * 4
    assert peak_bytes(parse(body, signature)) == 19 * channel
    assert peak_bytes(parse(body, signature, "onnxruntime")) == (32 + 19) * channel
    kept = "c = Conv(x, w) d = Relu(c) y = Softmax(d)"
    assert peak_bytes(parse(kept, signature, "onnxruntime")) == (32 + 19) * channel
    padded = "c = Conv(x, w) d = MaxPool<kernel_shape = [1, 1]>(c) y = Softmax(d)"
    assert peak_bytes(parse(padded, signature, "onnxruntime")) == (32 + 19) * channel


def test_sizes_that_do_not_follow_from_n_are_refused() -> None:
    graph = parse("a = NonZero(x) b = Cast<to = 1>(a) y = ReduceSum<keepdims = 0>(b)", "(float[n, 3] x) => (float y)")
    with pytest.raises(GraphError, match=r"\(NonZero, .*\): makes 'a' of unknown size; use operators whose sizes"):
        estimate_memory(graph, 2)


def test_a_bundle_says_what_its_stages_take(toy_bundle: Bundle) -> None:
    for stage in toy_bundle.manifest.stages:
        graph = lower(toy_bundle.graphs[stage.name], "onnxruntime")
        total = toy_bundle.spec.make_grid().size
        assert stage.memory.activations(1) == peak_bytes(graph, 1)
        assert 0 <= stage.memory.activations(total) - peak_bytes(graph, total) < total
        assert (stage.memory.activation_bytes_per_block > 0) == (stage.select is not None)
    fast = toy_bundle.manifest.stages[0]
    assert fast.memory.weights_bytes >= 4 * fast.network.parameters


RUN = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.enable_cpu_mem_arena, options.log_severity_level = 1, False, 3
session = onnxruntime.InferenceSession(sys.argv[1], options)
feeds = {"frame": np.zeros((1, 384, 768, 3), np.uint8), "prior_labels": np.zeros((1, 384, 768), np.uint8)}
feeds["indices"] = np.arange(int(sys.argv[2]), dtype=np.int32)
feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
def resident(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
before = resident("VmRSS")
session.run(None, feeds)
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
def test_onnx_runtime_takes_what_is_estimated(tmp_path: Path) -> None:
    bundle = export_bundle(SCENES, tmp_path / "scenes")
    # Freed tensors go back to the system at once, so that what is resident is what is alive.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for stage, n in zip((0, 1, 1), (1, 8, 18), strict=True):
        entry = bundle.manifest.stages[stage]
        path = tmp_path / f"{entry.name}.onnx"
        path.write_bytes(lower(bundle.graphs[entry.name], "onnxruntime").onnx)
        command = [sys.executable, "-c", RUN, str(path), str(n)]
        measured = int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
        assert 1 / 1.5 < entry.memory.activations(n) / measured < 1.5, (entry.name, n, measured)
