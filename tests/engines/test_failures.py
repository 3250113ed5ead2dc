"""Builds that fail: refused graphs, dying and hanging processes, missing packages."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from cascadert.bundle import Bundle
from cascadert.engines.blame import build_error, find_culprit
from cascadert.engines.build import build_engine
from cascadert.engines.process import BuiltEngine, Fault, Message, RefusedGraph, run_worker
from cascadert.engines.recipe import EngineRecipe, TensorRTBackend
from cascadert.errors import BuildError, CascadertError, MissingExtra
from cascadert.graph import Graph

MakeGraph = Callable[..., Graph]
OneStage = Callable[[Graph], Bundle]

SUBJECT = "stage 'fast'"


@pytest.fixture(autouse=True)
def needs_the_builder() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")


def build(
    graph: Graph,
    folder: Path,
    compute_capability: str = "8.6",
    timeout_s: float = 60,
    hear: Callable[[Message], None] = lambda _: None,
    backend: TensorRTBackend = "tensorrt-rtx",
) -> BuiltEngine:
    """Hand a graph to TensorRT as it is, past the lowering's own checks."""
    recipe = EngineRecipe("fast", graph, "fp32", backend, compute_capability, True, {})
    return run_worker(recipe, folder, SUBJECT, timeout_s, hear)


@pytest.fixture
def graph(make_graph: MakeGraph) -> Graph:
    """One that builds."""
    return make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], [4, 4])


def constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value))


def refusal(graph: Graph, folder: Path, compute_capability: str = "8.6") -> BuildError:
    with pytest.raises(RefusedGraph) as caught:
        build(graph, folder, compute_capability)
    return build_error(SUBJECT, graph, caught.value)


def test_parser_names_node_and_module(make_graph: MakeGraph, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("NonZero", ["r"], ["i"], name="culprit"),
        helper.make_node("Cast", ["i"], ["y"], name="cast", to=onnx.TensorProto.FLOAT),
    ]
    error = refusal(make_graph(nodes, [4, 4]), tmp_path)
    assert error.found.startswith(
        "TensorRT-RTX's parser refused node 'culprit' (NonZero, from module 'network.culprit'): Assertion failed"
    )
    assert "NonZero plugin creator version 1 was not found" in error.found
    assert "\n" not in str(error)


def test_parser_errors_beyond_the_first_are_counted(make_graph: MakeGraph, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p", "i"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxUnpool", ["p", "i"], ["y"], name="unpool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    error = refusal(make_graph(nodes, [1, 4, 8, 8]), tmp_path)
    assert "refused node 'pool' (MaxPool, from module 'network.pool')" in error.found
    assert error.found.endswith("(and 1 more)")


def test_missing_driver_is_not_part_of_the_message(make_graph: MakeGraph, tmp_path: Path) -> None:
    """On a machine without a GPU, TensorRT mixes its complaint of the driver into that of the node."""
    node = helper.make_node("AveragePool", ["x"], ["y"], name="pool", kernel_shape=[400, 400])
    error = refusal(make_graph([node], [1, 1, 800, 800]), tmp_path)
    assert "refused node 'pool'" in error.found
    assert "Parameter check failed" in error.found
    assert "driver" not in str(error)


def test_builder_names_node_and_module(make_graph: MakeGraph, tmp_path: Path) -> None:
    nodes = [
        constant("k", np.array([5000])),
        helper.make_node("TopK", ["x", "k"], ["y", "i"], name="network.sort/TopK"),
    ]
    error = refusal(make_graph(nodes, [10000]), tmp_path)
    assert error.found.startswith("TensorRT-RTX's builder refused node 'network.sort/TopK' (TopK, from module")
    assert "K exceeds the maximum value allowed (3840)" in error.found


def test_turing_has_no_fp32_matrix_product(make_graph: MakeGraph, tmp_path: Path) -> None:
    """The fact behind the comment in targets/rtx-20.toml; when this fails, TensorRT-RTX has learned it."""
    nodes = [
        constant("w", np.ones((8, 8), np.float32)),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    error = refusal(make_graph(nodes, [4, 8]), tmp_path, "7.5")
    assert "refused node 'product' (MatMul, from module 'network.product')" in error.found
    assert "FP32 GEMM is not supported" in error.found


def test_compute_capability_that_tensorrt_does_not_know(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"tensorrt_rtx 1\.\S+ does not build for SM87, only for SM75, SM80, SM86, SM89"
    ):
        build(graph, tmp_path, "8.7")


def test_build_engine_refuses_an_unsupported_node(make_graph: MakeGraph, one_stage: OneStage, tmp_path: Path) -> None:
    graph = make_graph([helper.make_node("Det", ["x"], ["y"], name="det")], [2, 4, 4], "semantic")
    with pytest.raises(CascadertError, match=r"Det.* from module 'network\.det'"):
        build_engine(one_stage(graph), "rtx-30", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fault_without_a_known_node(graph: Graph) -> None:
    assert find_culprit(graph, (Fault("out of memory", ""),)) == (None, "out of memory")
    assert find_culprit(graph, ()) == (None, "no reason given")


def test_time_out(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"^stage 'fast': did not finish within 0\.05 s; allow more time"):
        build(graph, tmp_path, timeout_s=0.05)


@pytest.mark.parametrize(
    ("number", "advice"), [(signal.SIGSEGV, "report it with the bundle"), (signal.SIGKILL, "free memory and try again")]
)
def test_crash(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, advice: str
) -> None:
    class Shot(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
            super().__init__(*args, **kwargs)
            self.send_signal(number)

    monkeypatch.setattr(subprocess, "Popen", Shot)
    with pytest.raises(BuildError, match=f"^stage 'fast': the build process was ended by {number.name}.*{advice}"):
        build(graph, tmp_path)


def replace_module(name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module before the real one of that name, for the worker only."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)


def test_crash_of_a_library_says_where(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_module("tensorrt_rtx", "import faulthandler; faulthandler._sigsegv()", tmp_path, monkeypatch)
    with pytest.raises(BuildError, match="ended by SIGSEGV after 'Fatal Python error: Segmentation fault'"):
        build(graph, tmp_path)


def test_python_error_in_the_worker(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_module("tensorrt_rtx", "raise OSError('libcudart.so.13: not found')", tmp_path, monkeypatch)
    with pytest.raises(BuildError, match=r"stopped with status 1: OSError: libcudart\.so\.13: not found; report it"):
        build(graph, tmp_path)


@pytest.mark.parametrize(
    ("backend", "module", "product", "extra"),
    [("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX", "rtx"), ("tensorrt", "tensorrt", "TensorRT", "tensorrt")],
)
def test_missing_extra(
    graph: Graph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: TensorRTBackend,
    module: str,
    product: str,
    extra: str,
) -> None:
    code = f"raise ModuleNotFoundError('No module named {module}', name='{module}')"
    replace_module(module, code, tmp_path, monkeypatch)
    message = (
        rf"^to build engines with {product}: the Python module '{module}' is not installed; "
        rf"pip install \"cascadert\[{extra}\]\"$"
    )
    with pytest.raises(MissingExtra, match=message):
        build(graph, tmp_path, backend=backend)


def test_an_error_in_the_callback_ends_the_worker(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def keep(*args, **kwargs):  # type: ignore[no-untyped-def]
        started.append(real(*args, **kwargs))
        return started[-1]

    def fail(message: Message) -> None:
        if message["fraction"] > 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", keep)
    with pytest.raises(KeyboardInterrupt):
        build(graph, tmp_path, hear=fail)
    assert len(started) == 1
    assert started[0].poll() is not None
