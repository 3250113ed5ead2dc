"""`lint_graph` and `check_graph` on real networks, for every target."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import cascadert.jetson
from cascadert.engines.facts import BackendFacts
from cascadert.engines.lint import check_graph, lint_graph
from cascadert.engines.profiles import list_targets
from cascadert.errors import BuildError, TargetError
from cascadert.export.compile import export_bundle
from cascadert.export.lowering import lower
from cascadert.export.models.enet import DownBottleneck, UpBottleneck, enet
from cascadert.export.opset import to_opset
from cascadert.graph import Graph

BUILDERS = {
    f"{target.name} {facts.name} {facts.versions}": (target, facts)
    for target in list_targets()
    if target.refused is None
    for facts in target.backends
}
INDICES = (
    "(MaxPool, from module 'down{0}.pool') returns indices, which TensorRT does not"
    " (and {1} more: see cascadert lint); pair it with nn.MaxUnpool2d of the same kernel and stride"
)


def raw_export(network: nn.Module, size: int) -> Graph:
    """Export as anyone would: PyTorch's exporter and none of our passes."""
    file = io.BytesIO()
    pixels = torch.rand(1, next(network.parameters()).shape[1], size, size)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (pixels,), file, dynamo=True, verbose=False)
    return Graph(file.getvalue(), (), (), "tensorrt")


@pytest.fixture(scope="module")
def raw_pair() -> Graph:
    """The part of ENet that no TensorRT takes: pooling with indices, and un-pooling by them."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            self.down1, self.up1 = DownBottleneck(16, 32, 0.0), UpBottleneck(32, 16, 0.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x, indices = self.down1(self.stem(x))
            return self.up1(x, indices)

    return raw_export(Pair(), 16)


def refusal(graph: Graph, facts: BackendFacts, capability: str | None = "8.6") -> str:
    with pytest.raises(BuildError) as caught:
        check_graph("stage 'fast'", graph, facts, capability)
    return str(caught.value)


def caught_everywhere(graph: Graph, findings: int) -> None:
    """Every builder of every GPU refuses it: TensorRT 8 first for the opset, and all for the indices."""
    for target in list_targets():
        for facts in target.backends if target.refused is None and target.compute_capability else ():
            message = refusal(graph, facts, target.compute_capability)
            if facts.opset < 20:
                head, _, tail = message.partition(" reads 17 at most")
                assert head.startswith("stage 'fast': the graph is of ONNX opset 20 where TensorRT 8.")
                more = f" (and {findings} more: see cascadert lint); convert it to opset 17, or export it with that"
                assert tail == more
                first = lint_graph(graph, facts, target.compute_capability)[1]
                message = f"stage 'fast': {first.where} {first.found} (and {findings - 1} more: see cascadert lint); "
                message += first.remedy
            assert message.startswith("stage 'fast': node 'node_")
            assert message.endswith(INDICES.format(1, findings - 1))


def test_a_raw_export_of_unpooling_is_caught_for_every_gpu(raw_pair, rtx_verdicts):
    caught_everywhere(raw_pair, findings=2)
    ((who, words),) = rtx_verdicts(raw_pair)
    assert who == "parser" and "1 outputs for MaxPool" in words


@pytest.mark.slow
def test_the_raw_export_of_enet_is_caught_for_every_gpu(rtx_verdicts):
    graph = raw_export(enet(11), 64)
    caught_everywhere(graph, findings=4)
    ((who, words),) = rtx_verdicts(graph)
    assert who == "parser" and "1 outputs for MaxPool" in words


def test_a_raw_export_runs_on_a_cpu(raw_pair, facts):
    assert lint_graph(raw_pair, facts["cpu"]) == ()


@pytest.fixture(scope="module")
def lowered(toy_bundle) -> dict[tuple[str, int], list[Graph]]:
    """The toy cascade's stages, by dialect and opset."""
    forms = {
        ("onnxruntime" if facts.name == "onnxruntime" else "tensorrt", facts.opset) for _, facts in BUILDERS.values()
    }
    stages = toy_bundle.graphs.values()
    return {(dialect, opset): [to_opset(lower(graph, dialect), opset) for graph in stages] for dialect, opset in forms}


@pytest.mark.parametrize("builder", BUILDERS)
def test_what_lowering_makes_is_clean_for_every_target(builder, lowered):
    target, facts = BUILDERS[builder]
    for graph in lowered["onnxruntime" if facts.name == "onnxruntime" else "tensorrt", facts.opset]:
        check_graph("a stage", graph, facts, target.compute_capability)


def test_what_lowering_makes_is_parsed_by_tensorrt_rtx(lowered, rtx_verdicts):
    graphs = [graph for (dialect, _), graphs in lowered.items() if dialect == "tensorrt" for graph in graphs]
    assert {who for who, _ in rtx_verdicts(*graphs, build=False)} == {"takes it"}


@pytest.mark.slow
def test_what_lowering_makes_is_built_by_tensorrt_rtx(lowered, rtx_verdicts):
    for capability in ("7.5", "8.6"):
        assert {who for who, _ in rtx_verdicts(*lowered["tensorrt", 17], compute_capability=capability)} == {"takes it"}


@pytest.mark.slow
def test_the_demo_is_clean_for_every_gpu_and_parsed_by_tensorrt_rtx(tmp_path, rtx_verdicts):
    bundle = export_bundle(Path(cascadert.jetson.__file__).parent / "specs/scenes.toml", tmp_path / "bundle")
    lowered = [lower(graph, "tensorrt") for graph in bundle.graphs.values()]
    for target, facts in BUILDERS.values():
        for graph in lowered if target.compute_capability else ():
            check_graph("a stage", to_opset(graph, min(18, facts.opset)), facts, target.compute_capability)
    forms = [to_opset(graph, opset) for graph in lowered for opset in (17, 18, 24)]
    assert {who for who, _ in rtx_verdicts(*forms, build=False)} == {"takes it"}


class TestOpset:
    RELU = "(float[2] x) => (float[2] y) { y = Relu(x) }"

    def test_20_on_tensorrt_8(self, graph_of, facts):
        assert refusal(graph_of(self.RELU, 20), facts["8"]) == (
            "stage 'fast': the graph is of ONNX opset 20 where TensorRT 8.5 to 8.6 reads 17 at most;"
            " convert it to opset 17, or export it with that"
        )

    def test_the_oldest_release_of_a_range_counts(self, graph_of, facts):
        wide = facts["11"].model_copy(update={"versions": ">=10.0,<12"})
        assert "ONNX opset 21 where TensorRT 10.0 to 11.4 reads 20 at most" in refusal(graph_of(self.RELU, 21), wide)
        assert lint_graph(graph_of(self.RELU, 21), facts["11"]) == ()

    def test_the_targets_own_limit_counts(self, graph_of, facts):
        tight = facts["11"].model_copy(update={"opset": 19})
        assert "ONNX opset 20 where TensorRT 11.4 reads 19 at most" in refusal(graph_of(self.RELU, 20), tight)

    def test_all_that_onnx_runtime_is_asked(self, graph_of, facts):
        assert "ONNX opset 22 where ONNX Runtime >=1.20 reads 21 at most" in refusal(
            graph_of(self.RELU, 22), facts["cpu"]
        )
        assert lint_graph(graph_of("(float[4,4] x) => (float y) { y = Det(x) }", 20), facts["cpu"]) == ()

    def test_versions_that_nothing_is_known_of(self, graph_of, facts):
        ancient = facts["8"].model_copy(update={"versions": ">=8.0,<8.3"})
        with pytest.raises(TargetError) as caught:
            lint_graph(graph_of(self.RELU), ancient)
        assert str(caught.value) == (
            "TensorRT >=8.0,<8.3: nothing is known of its parser; known are 8.5 to 11.4; choose one of these versions"
        )


class TestHalfScales:
    """Scales of float16, which ONNX's text form cannot write."""

    @staticmethod
    def graph(opset: int) -> Graph:
        names = ["QuantizeLinear", "DequantizeLinear"]
        nodes = [
            helper.make_node(name, [f"t{i}", "s", "z"], [f"t{i + 1}"], name=f"network/{name}")
            for i, name in enumerate(names)
        ]
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4]) for name in ("t0", "t2")]
        constants = [numpy_helper.from_array(np.float16(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
        graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        return Graph(model.SerializeToString(), (), (), "tensorrt")

    def test_below_opset_19(self, facts):
        assert refusal(self.graph(18), facts["10"]) == (
            "stage 'fast': node 'network/QuantizeLinear' (QuantizeLinear, from the stage's own code) has float16"
            " scales, which ONNX opset 18 does not define (and 1 more: see cascadert lint); convert it to opset 19"
        )
        assert lint_graph(self.graph(19), facts["10"]) == ()

    def test_without_types(self, facts):
        port, *_, last = lint_graph(self.graph(17), facts["8"])
        assert str(port) == (
            "input 't0' has the type FLOAT16 where TensorRT 8.5 to 8.6 is not strongly typed;"
            " use uint8, int32, float16, float32 or bool"
        )
        assert str(last) == (
            "node 'network/DequantizeLinear' (DequantizeLinear, from the stage's own code) has float16 scales"
            " where TensorRT 8.5 to 8.6 is not strongly typed; give it float32 scales and the flags INT8 and FP16"
        )


def test_nodes_inside_branches_and_functions_are_seen(graph_of, facts):
    branch = "then_branch = g1 () => (float[3] a) { a = Relu(x) }, else_branch = g2 () => (float[3] b) { b = Inner(x) }"
    text = f"(float[3] x, bool c) => (float[3] y) {{ y = If (c) <{branch}> }}".replace("Inner", "Bernoulli")
    (finding,) = lint_graph(graph_of(text), facts["rtx"])
    assert (finding.rule, finding.found) == ("operator", "is an operator that TensorRT-RTX 1.7 does not have")

    function = '<domain: "mine", opset_import: ["" : 17]> Outer (a) => (b) { b = Det(a) }'
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "mine" : 1]> agraph (float[3,3] x) => (float y) { y = mine.Outer(x) }'
        + function
    )
    (finding,) = lint_graph(Graph(model.SerializeToString(), (), (), "tensorrt"), facts["rtx"])
    assert finding.found == "is an operator that TensorRT-RTX 1.7 does not have"
