"""What the worker makes of TensorRT's messages and phases, and how a recipe gets there."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.engines.build_request import REQUEST_FILE, BuildRequest
from cascadert.engines.pinning import float32_layers
from cascadert.engines.progress import ProgressTree
from cascadert.engines.recipe import BuilderSettings, EngineRecipe
from cascadert.engines.trt_log import make_log, without_driver_noise
from cascadert.graph import Graph


def test_inner_phases_count_as_part_of_a_step() -> None:
    tree = ProgressTree()
    tree.start("outer", None, 4)
    tree.step("outer", 0)
    tree.start("inner", "outer", 2)
    tree.step("inner", 0)
    assert tree.fraction() == (1 + 1 / 2) / 4
    tree.finish("inner")
    assert tree.step("outer", 1) == (2, 4)
    assert tree.fraction() == 2 / 4


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12), st.booleans()), max_size=30))
def test_fraction_never_falls_and_stays_in_range(events: list[tuple[int, int, bool]]) -> None:
    """Whatever TensorRT reports: more steps than announced, phases opened twice or never closed."""
    tree, last = ProgressTree(), 0.0
    tree.start("0", None, 5)
    for depth, step, close in events:
        tree.start(str(depth), str(depth - 1) if depth else None, step)
        tree.step(str(depth), step)
        if close:
            tree.finish(str(depth))
        assert last <= tree.fraction() <= 1
        last = tree.fraction()


NOISE = [
    "[catchCudaError::250] Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient for it)",
    "IBuilder: Error Code 9: Internal Error (CUDA initialization failed)",
]


def test_only_lines_about_the_missing_driver_are_dropped() -> None:
    kept = ["Invalid Node - pool", "IBuilder: Error Code 9: Invalid State (profile 0 is missing)"]
    assert without_driver_noise("\n".join([kept[0], *NOISE, kept[1]])) == "\n".join(kept)


def test_the_log_keeps_what_matters_apart() -> None:
    severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)
    log = make_log(SimpleNamespace(ILogger=type("ILogger", (), {"Severity": severity})))
    for level, text in [(0, "broken"), (1, "wrong"), (1, NOISE[0]), (2, "careful"), (3, "by the way")]:
        log.log(level, text)
    assert (log.errors, log.warnings, log.driver_errors) == (["broken", "wrong"], ["careful"], [NOISE[0]])


def test_a_recipe_arrives_whole(tmp_path: Path) -> None:
    settings = BuilderSettings(1 << 30, 4, 0, 1, ("FP16", "INT8"), ("a", "b"))
    shapes = MappingProxyType({"indices": ((1,), (4,), (15,)), "frame": ((1, 3), (1, 3), (2, 3))})
    graph = Graph(b"onnx", (), (), "tensorrt")
    recipe = EngineRecipe("fast", graph, "int8", "tensorrt", "8.7", False, shapes, settings)
    written = BuildRequest.write(recipe, tmp_path, b"times")
    assert BuildRequest.read(tmp_path / REQUEST_FILE) == written
    assert (written.settings, written.shapes) == (settings, dict(shapes))
    assert (written.backend, written.compute_capability, written.strongly_typed) == ("tensorrt", "8.7", False)
    assert (Path(written.onnx).read_bytes(), Path(written.timing_cache).read_bytes()) == (b"onnx", b"times")


class Layer(SimpleNamespace):
    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> SimpleNamespace | None:
        name = self.inputs[index]
        return None if name is None else SimpleNamespace(name=name)

    def get_output(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name=self.outputs[index])


LAYERS = [
    Layer(name="conv", inputs=["x", None], outputs=["a"]),
    Layer(name="ONNXTRT_Broadcast", inputs=["bias"], outputs=["wide"]),
    Layer(name="(Unnamed Layer* 7) [Shuffle]", inputs=["wide"], outputs=["wider"]),
    Layer(name="entropy", inputs=["a", "wider"], outputs=["b"]),
    Layer(name="entropy_12", inputs=["b"], outputs=["c"]),
    Layer(name="entropy_of_another", inputs=["c"], outputs=["d"]),
    Layer(name="ONNXTRT_Broadcast_3", inputs=["x"], outputs=["e"]),
]


@pytest.mark.parametrize(
    ("nodes", "found"), [(["entropy"], [3, 4, 2, 1]), (["entropy_12"], [4]), (["conv"], [0, 6]), (["score"], [])]
)
def test_layers_that_stay_float32(nodes: list[str], found: list[int]) -> None:
    """Those of a node, its numbered twins, and helpers that touch them, however far; nobody else's."""
    network = SimpleNamespace(num_layers=len(LAYERS), get_layer=LAYERS.__getitem__)
    assert float32_layers(network, nodes) == [LAYERS[i] for i in found]
