"""One build worker for TensorRT 8.5 to 11, on a double of each version; real builds are in test_inspection.py."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime" / "executables"))

from hand_graphs import CONVOLUTIONS, GLUE, QUANTIZED, SIZE, network, recipe
from tensorrt_double import DoubleGpu, Surface, make_tensorrt

from cascadert.bundle import Bundle
from cascadert.engines.blame import build_error
from cascadert.engines.build_request import REQUEST_FILE, BuildRequest
from cascadert.engines.process import BuiltEngine, Message, RefusedGraph, run_worker
from cascadert.engines.recipe import EngineRecipe
from cascadert.engines.worker import send, serve
from cascadert.errors import BuildError
from cascadert.export.lowering import lower
from cascadert.export.opset import to_opset
from cascadert.export.precision import float32_operators
from cascadert.graph import Graph, TensorSpec
from cascadert.runtime.executables.tensorrt import StageEngine, TensorRT, TensorRTExecutable

WEAK, STRONG, EVERY = ("8.5", "8.6"), ("10.3", "10.16", "11.4"), ("8.5", "8.6", "10.3", "10.16", "11.4")

Build = Callable[..., BuiltEngine]


@contextmanager
def in_this_process(folder: Path, noise: Path) -> Iterator[tuple[Any, Iterator[str]]]:
    """Serve a request as the worker does, without the second that starting a process takes."""
    report = io.StringIO()
    send(report, serve(BuildRequest.read(folder / REQUEST_FILE), report))
    yield SimpleNamespace(wait=lambda: 0), iter(report.getvalue().splitlines(keepends=True))


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`double(version)` makes the double of that version what is imported as `tensorrt`."""
    monkeypatch.syspath_prepend(Path(__file__).with_name("builder_double"))

    def double(version: str, **variables: str) -> None:
        _forget_tensorrt()
        for name, value in {"TENSORRT": version, **variables}.items():
            monkeypatch.setenv(f"CASCADERT_DOUBLE_{name}", value)

    yield double
    _forget_tensorrt()


def _forget_tensorrt() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
        del sys.modules[name]


@pytest.fixture
def build(double: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """`build(version, recipe)` builds with the double of that version; `process=True` in a worker of its own."""

    def build(
        version: str,
        what: EngineRecipe,
        hear: Callable[[Message], None] = lambda _: None,
        timing_cache: bytes | None = None,
        process: bool = False,
        base: bytes | None = None,
        **variables: str,
    ) -> BuiltEngine:
        double(version, **variables)
        folder = tmp_path / f"build-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        with monkeypatch.context() as patch:
            if not process:
                patch.setattr("cascadert.engines.process._worker", in_this_process)
            return run_worker(what, folder, "stage 'fast'", 60, hear, timing_cache, base)

    return build


def typed(version: str) -> bool:
    return version in STRONG


def told(built: BuiltEngine) -> dict[str, Any]:
    """What the builder was told when it built."""
    model = onnx.load_from_string(built.engine.split(b"\n", 2)[2])
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return dict(json.loads(properties["told"]))


def in_onnxruntime(graph: Graph, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = ort.InferenceSession(graph.onnx, providers=["CPUExecutionProvider"])
    return list(session.run([spec.name for spec in graph.outputs], inputs))


def on_the_double(
    surface: Surface, built: BuiltEngine, graph: Graph, inputs: dict[str, np.ndarray], n: int = 1
) -> list[np.ndarray]:
    """Load an engine with the project's own executable, and run it on the run-time double."""
    gpu = DoubleGpu()
    stream = gpu.create_stream("a")
    source = StageEngine("fast", built.engine, graph.inputs, graph.outputs)
    with TensorRTExecutable(source, TensorRT(make_tensorrt(surface, gpu))) as executable:
        specs = (*graph.inputs, *graph.outputs)
        bindings = {spec.name: gpu.allocate(_shape(spec, n), spec.dtype) for spec in specs}
        for name, value in inputs.items():
            bindings[name].array[...] = value
        stream.begin()
        executable.enqueue(bindings, stream)
        event = stream.record()
        assert event.synchronize(30)
        assert event.error is None, event.error
        found = [bindings[spec.name].array.copy() for spec in graph.outputs]
    assert stream.close(30)
    return found


def pictures(n: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((n, 3, SIZE, SIZE)).astype(np.float32)}


@pytest.mark.parametrize("version", EVERY)
def test_fp32_clears_every_precision_flag(build: Build, version: str) -> None:
    graph = network()
    built = build(version, recipe(graph, strongly_typed=typed(version)))
    assert told(built)["flags"] == []
    assert list(built.versions) == ["tensorrt"]
    assert built.versions["tensorrt"].startswith(version)
    assert [layer.name for layer in built.network] == list(CONVOLUTIONS)
    assert {layer.inputs for layer in built.network} == {("float32",)}
    assert {layer.precision for layer in built.network} == {""}


@pytest.mark.parametrize("version", EVERY)
def test_tf32_is_a_flag_everywhere(build: Build, version: str) -> None:
    built = build(version, recipe(network(), strongly_typed=typed(version), flags=("TF32",)))
    assert told(built)["flags"] == ["TF32"]


@pytest.mark.parametrize("version", EVERY)
def test_weak_flags_are_refused_where_precision_is_in_the_graph(build: Build, version: str) -> None:
    what = recipe(network(), flags=("FP16",))
    if version == "11.4":
        with pytest.raises(
            BuildError, match=r"^stage 'fast': flag FP16 is asked for, and tensorrt 11\.4\.1 has no FP16"
        ):
            build(version, what)
        return
    assert told(build(version, what))["flags"] == ["FP16"]
    if version in STRONG:
        with pytest.raises(RefusedGraph, match="cannot be set for a strongly typed network"):
            build(version, recipe(network(), strongly_typed=True, flags=("FP16",)))


@pytest.mark.parametrize("version", EVERY)
def test_strong_typing_needs_tensorrt_10(build: Build, version: str) -> None:
    what = recipe(network("fp16"), strongly_typed=True)
    if version in WEAK:
        with pytest.raises(BuildError, match=r"^stage 'fast': strong typing is asked for, .* has no STRONGLY_TYPED;"):
            build(version, what)
        with pytest.raises(RefusedGraph, match="float16 casts are not what flags allow"):
            build(version, recipe(network("fp16")))
        return
    built = build(version, what)
    assert {(layer.inputs, layer.outputs) for layer in built.network} == {(("float16",), ("float16",))}


@pytest.mark.parametrize("version", EVERY)
def test_int8_needs_its_flag_only_where_typing_is_weak(build: Build, version: str) -> None:
    built = build(
        version, recipe(network("int8"), strongly_typed=typed(version), flags=() if typed(version) else ("INT8",))
    )
    inputs = {layer.name: layer.inputs for layer in built.network}
    assert {name for name in CONVOLUTIONS if inputs[name] == ("int8", "int8")} == set(QUANTIZED)
    if not typed(version):
        with pytest.raises(RefusedGraph, match="Q/DQ layers need the INT8 builder flag"):
            build(version, recipe(network("int8")))


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize(
    ("setting", "attribute"), [("optimization_level", "builder_optimization_level"), ("aux_streams", "max_aux_streams")]
)
def test_limits(build: Build, version: str, setting: str, attribute: str) -> None:
    what = recipe(network(), strongly_typed=typed(version), workspace_bytes=1 << 20, **{setting: 1})
    if version == "8.5":
        with pytest.raises(
            BuildError, match=rf"is asked for, and tensorrt 8\.5\.2\.2 has no {attribute}; leave it out"
        ):
            build(version, what)
        return
    built = told(build(version, what))
    assert (built[attribute], built["limits"]) == (1, {"WORKSPACE": 1 << 20})


@pytest.mark.parametrize("version", EVERY)
def test_no_auxiliary_streams(build: Build, version: str) -> None:
    """8.5 has none, whatever is asked for."""
    built = told(build(version, recipe(network(), strongly_typed=typed(version), aux_streams=0)))
    assert built["max_aux_streams"] == (None if version == "8.5" else 0)


def test_dla(build: Build) -> None:
    what = recipe(network(), flags=("FP16",), dla_core=1)
    built = told(build("8.5", what, DLA_CORES="2"))
    assert (built["device"], built["flags"]) == ("DLA1", ["FP16", "GPU_FALLBACK"])
    with pytest.raises(BuildError, match=r"DLA core 1 is asked for, and tensorrt 8\.5\.2\.2 finds 1 here; build for"):
        build("8.5", what, DLA_CORES="1")


@pytest.mark.parametrize(("version", "surface"), [("8.6", "8.6"), ("10.3", "10"), ("11.4", "10")])
def test_an_engine_runs_as_onnx_runtime_does(build: Build, version: str, surface: Surface) -> None:
    """From recipe to labels: worker, plan, executable; for every n of the profile."""
    graph = network(batch="n")
    shapes = {"x": tuple((n, 3, SIZE, SIZE) for n in (1, 2, 4))}
    built = build(version, recipe(graph, strongly_typed=typed(version), shapes=shapes), process=True)
    for n in (1, 3, 4):
        inputs = pictures(n)
        found = on_the_double(surface, built, graph, inputs, n)
        assert all(np.array_equal(a, b) for a, b in zip(found, in_onnxruntime(graph, inputs), strict=True))


@pytest.mark.parametrize("version", WEAK)
def test_weak_fp16_leaves_the_glue_in_float32(build: Build, version: str) -> None:
    """With FP16 allowed, the double computes in float16 whatever was not pinned, the parser's own layers included."""
    graph, inputs = network(), pictures()

    def run(nodes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        built = build(version, recipe(graph, flags=("FP16",), float32_nodes=nodes))
        logits, scores = on_the_double("8.6", built, graph, inputs)
        return logits, scores

    def is_half(values: np.ndarray) -> bool:
        return bool(np.array_equal(values, values.astype(np.float16)))

    logits, scores = run(GLUE)
    shift = np.linspace(0.1, 0.7, logits.shape[1], dtype=np.float32)[:, None, None]
    powers = np.exp((logits - shift) - (logits - shift).max(1, keepdims=True))
    assert is_half(logits)
    assert not is_half(scores)
    np.testing.assert_allclose(scores, powers / powers.sum(1, keepdims=True), atol=1e-6)
    assert is_half(run(("net.residual",))[1])
    reference = in_onnxruntime(graph, inputs)[0]
    assert 0 < np.abs(logits - reference).max() < 0.02
    everything = tuple(node.name for node in onnx.load_from_string(graph.onnx).graph.node)
    assert np.array_equal(run(everything)[0], reference)


def test_operators_to_pin_that_are_not_there(build: Build) -> None:
    with pytest.raises(BuildError, match="none of the operators to keep in float32 is in the parsed network"):
        build("8.6", recipe(network(), flags=("FP16",), float32_nodes=("glue.entropy",)))
    with pytest.raises(BuildError, match=r"a float32 operator is asked for, and tensorrt 11\.4\.1 has no OBEY_PREC"):
        build("11.4", recipe(network(), strongly_typed=True, float32_nodes=GLUE))


def test_a_dynamic_input_needs_a_profile(build: Build) -> None:
    with pytest.raises(RefusedGraph, match="no optimization profile has been defined"):
        build("8.6", recipe(network(batch="n")))


@pytest.mark.parametrize("version", EVERY)
def test_timing_cache(build: Build, version: str) -> None:
    first = build(version, recipe(network(), strongly_typed=typed(version)))
    assert first.timing_cache is not None
    assert b"glue.softmax" in first.timing_cache
    other = Graph(*_one_node(helper.make_node("Relu", ["x"], ["y"], name="other")))
    second = build(version, recipe(other, strongly_typed=typed(version)), timing_cache=first.timing_cache)
    assert second.timing_cache is not None
    assert b"glue.softmax" in second.timing_cache
    assert b"other" in second.timing_cache
    with pytest.raises(
        BuildError, match="does not take this timing cache; give one of this device and version, or none"
    ):
        build(version, recipe(network(), strongly_typed=typed(version)), timing_cache=b"of another version")


def test_tensorrt_rtx_times_nothing(build: Build) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    what = recipe(network(), "tensorrt-rtx", strongly_typed=True)
    assert build("8.6", what).timing_cache is None
    with pytest.raises(BuildError, match="has no use for a timing cache"):
        build("8.6", what, timing_cache=b"")


@pytest.mark.parametrize("version", EVERY)
def test_refittable_engines_need_something_that_refits_them(build: Build, version: str) -> None:
    what = recipe(network(), strongly_typed=typed(version), refittable=True)
    if version in WEAK:
        with pytest.raises(
            BuildError, match=r"a refittable engine is asked for, and tensorrt 8.* has no OnnxParserRefitter"
        ):
            build(version, what)
        return
    built = build(version, what)
    assert told(built)["flags"] == ["REFIT"]
    again = build(version, replace(what, graph=with_other_weights(what.graph)), base=built.engine)
    assert told(again)["flags"] == ["REFIT"]
    found, expected = (on_the_double("10", built, what.graph, pictures()) for built in (again, built))
    assert np.array_equal(found[0], -expected[0])
    plain = build(version, recipe(network(), strongly_typed=typed(version)))
    with pytest.raises(BuildError, match="its engine does not take other weights; build it with --refittable"):
        build(version, what, base=plain.engine)
    with pytest.raises(BuildError, match=r"does not load the engine: Error Code 1: .*; refit it where it was built"):
        build(version, what, base=b"of another version")
    with pytest.raises(BuildError, match=r"does not start: createInferRuntime: .*; refit where its GPU and driver are"):
        build(version, what, base=built.engine, GPU="no")


def test_weights_of_another_network_are_refused(build: Build) -> None:
    built = build("10.3", recipe(network(), strongly_typed=True, refittable=True))
    other = Graph(*_one_node(helper.make_node("Relu", ["x"], ["y"], name="other")))
    with pytest.raises(RefusedGraph, match="Failed to refit all the weights: first_bias"):
        build("10.3", recipe(other, strongly_typed=True, refittable=True), base=built.engine)


def test_a_version_that_loses_biases_is_refused(build: Build) -> None:
    build("11.3", recipe(network(), strongly_typed=True))
    with pytest.raises(
        BuildError, match=r"that of tensorrt 11\.3\.0 may take a bias for zero .*; leave it out, or build"
    ):
        build("11.3", recipe(network(), strongly_typed=True, refittable=True))


def with_other_weights(graph: Graph) -> Graph:
    """Turn the sign of the last convolution, and with it of the logits."""
    model = onnx.load_model_from_string(graph.onnx)
    for tensor in model.graph.initializer:
        if tensor.name in ("last_weights", "last_bias"):
            tensor.raw_data = (-numpy_helper.to_array(tensor)).tobytes()
    return replace(graph, onnx=model.SerializeToString())


@pytest.mark.parametrize("version", EVERY)
def test_progress(build: Build, version: str) -> None:
    heard: list[Message] = []
    build(version, recipe(network(), strongly_typed=typed(version)), heard.append)
    assert [message["phase"] for message in heard[:2]] == ["parsing", "building"]
    steps = [message["fraction"] for message in heard[2:]]
    assert steps == sorted(steps)
    assert steps[-1:] == ([] if version == "8.5" else [1.0])  # 8.5 says nothing while it builds


def test_a_machine_without_a_gpu(build: Build) -> None:
    message = r"^stage 'fast': tensorrt 8\.6\.1 does not start: createInferBuilder: Error Code 6.*; build where its GPU"
    with pytest.raises(BuildError, match=message):
        build("8.6", recipe(network()), GPU="no")


def _one_node(node: onnx.NodeProto, opset: int = 16) -> tuple[bytes, tuple[Any, ...], tuple[Any, ...], Any]:
    template = network()
    inputs, outputs = (
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, SIZE, SIZE])] for name in ("x", "y")
    )
    content = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return model.SerializeToString(), template.inputs, (), "tensorrt"


@pytest.mark.parametrize("version", EVERY)
def test_opsets_beyond_what_the_parser_knows(build: Build, version: str) -> None:
    newest = {"10.3": 20, "10.16": 24, "11.4": 24}.get(version, 17)
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    build(version, recipe(Graph(*_one_node(node, newest)), strongly_typed=typed(version)))
    with pytest.raises(RefusedGraph, match=f"opset {newest + 1} where this parser knows {newest}"):
        build(version, recipe(Graph(*_one_node(node, newest + 1)), strongly_typed=typed(version)))


@pytest.mark.parametrize("version", EVERY)
def test_the_parser_names_a_node_or_its_place(build: Build, version: str) -> None:
    relu = helper.make_node("Relu", ["x"], ["r"], name="first")
    det = helper.make_node("Det", ["r"], ["y"], name="culprit")
    content = helper.make_graph(
        [relu, det],
        "two",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 4, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    graph = Graph(model.SerializeToString(), (), (), "tensorrt")
    with pytest.raises(RefusedGraph) as caught:
        build(version, recipe(graph, strongly_typed=typed(version)))
    (fault,) = caught.value.faults
    assert (fault.node, fault.index) == ("" if version in WEAK else "culprit", 1)
    assert "TensorRT's parser refused node 'culprit' (Det" in str(build_error("it", graph, caught.value))


@pytest.mark.parametrize(("version", "surface"), [("8.6", "8.6"), ("10.3", "10"), ("11.4", "10")])
def test_a_cascade_builds_and_runs(build: Build, bundle: Bundle, version: str, surface: Surface) -> None:
    random = np.random.default_rng(0)
    for semantic in bundle.graphs.values():
        graph = to_opset(lower(semantic, "tensorrt"), 17)
        shapes = {spec.name: tuple(_shape(spec, n) for n in (1, 2, 8)) for spec in graph.inputs if "n" in spec.shape}
        built = build(version, recipe(graph, strongly_typed=typed(version), shapes=shapes))
        inputs = {spec.name: random.integers(0, 3, _shape(spec, 3)).astype(spec.dtype) for spec in graph.inputs}
        if "indices" in inputs:
            inputs["indices"] = np.array([5, 0, 7], np.int32)
        found = on_the_double(surface, built, graph, inputs, 3)
        assert all(np.array_equal(a, b) for a, b in zip(found, in_onnxruntime(graph, inputs), strict=True))


def test_entropy_of_a_weak_fp16_engine_is_float32(build: Build, bundle: Bundle) -> None:
    """The first stage of a cascade for TensorRT 8.6: what the lowering says must be kept is kept."""
    graph = to_opset(lower(next(iter(bundle.graphs.values())), "tensorrt"), 17)
    inputs = {
        spec.name: np.random.default_rng(0).integers(0, 255, _shape(spec, 1)).astype(spec.dtype)
        for spec in graph.inputs
    }

    def scores(*kept: str) -> np.ndarray:
        built = build("8.6", recipe(graph, flags=("FP16",), float32_nodes=kept))
        names = [spec.name for spec in graph.outputs]
        return on_the_double("8.6", built, graph, inputs)[names.index("scores")]

    kept = float32_operators(graph, None)
    reference = in_onnxruntime(graph, inputs)[[spec.name for spec in graph.outputs].index("scores")]
    assert not np.array_equal(scores(*kept), scores(*kept).astype(np.float16))
    assert 0 < np.abs(scores(*kept) - reference).max() < np.abs(scores(kept[-1]) - reference).max()


def _shape(spec: TensorSpec, n: int) -> tuple[int, ...]:
    return tuple(n if size == "n" else int(size) for size in spec.shape)
