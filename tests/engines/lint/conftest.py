"""Graphs from ONNX's text form, and facts of builders."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from cascadert.engines.facts import BackendFacts
from cascadert.graph import Graph

FACTS = {
    "8": BackendFacts(name="tensorrt", versions=">=8.5,<8.7", builds="device", strongly_typed=False, opset=17),
    "10": BackendFacts(name="tensorrt", versions=">=10.3,<10.4", builds="device", strongly_typed=True, opset=20),
    "11": BackendFacts(name="tensorrt", versions=">=11.4.1,<12", builds="device", strongly_typed=True, opset=24),
    "rtx": BackendFacts(name="tensorrt-rtx", versions=">=1.7,<1.8", builds="anywhere", strongly_typed=True, opset=24),
    "cpu": BackendFacts(name="onnxruntime", versions=">=1.20", builds="anywhere", strongly_typed=True, opset=21),
}


@pytest.fixture
def facts() -> dict[str, BackendFacts]:
    """TensorRT 8.5 to 8.6, 10.3, 11.4, TensorRT-RTX and ONNX Runtime."""
    return FACTS


MakeGraph = Callable[..., Graph]


@pytest.fixture(scope="session")
def graph_of() -> MakeGraph:
    """`graph_of("(float[2] x) => (float[2] y) { y = Relu(x) }")`: nodes of `network.head`, named for their outputs."""
    return _graph_of


def _graph_of(text: str, opset: int = 17) -> Graph:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}, "mine" : 1]> agraph {text}')
    if not any(node.domain for node in model.graph.node):
        del model.opset_import[1:]
    for node in model.graph.node:
        node.name = node.output[0]
        scopes = ["", "network", "network.head", node.name]
        node.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=repr(scopes)))
    return Graph(model.SerializeToString(), (), (), "tensorrt")


VERDICTS = """
import json, sys
import tensorrt_rtx as trt

class Log(trt.ILogger):
    def __init__(self):
        super().__init__()
        self.errors = []
    def log(self, severity, text):
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and "CUDA" not in text:
            self.errors.append(text)

log = Log()
builder = trt.Builder(log)
for path in sys.argv[2:]:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(path):
        print(json.dumps(["parser", parser.get_error(0).desc()]))
        continue
    if sys.argv[1] == "parse":
        print(json.dumps(["takes it", ""]))
        continue
    config, profile, blocks = builder.create_builder_config(), builder.create_optimization_profile(), False
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + sys.argv[1]), 0)
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if -1 in tensor.shape:
            blocks = True
            shapes = [tuple(n if size < 0 else size for size in tensor.shape) for n in (1, 2, 3)]
            profile.set_shape(tensor.name, *shapes)
    if blocks:
        config.add_optimization_profile(profile)
    log.errors.clear()
    built = builder.build_serialized_network(network, config) is not None
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    types = [str(layer.get_output(0).dtype) for layer in layers if layer.num_outputs]
    print(json.dumps(["takes it", " ".join(types)] if built else ["builder", log.errors[0]]))
"""

Verdicts = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def rtx_verdicts(tmp_path) -> Verdicts:
    """Give graphs to TensorRT-RTX itself: who refuses each ("parser", "builder" or "takes it"), and in what words."""
    import json
    import subprocess
    import sys

    pytest.importorskip("tensorrt_rtx", reason="NVIDIA's builder is not installed: pip install cascadert[rtx]")

    def verdicts(*graphs: Graph, compute_capability: str = "8.6", build: bool = True) -> list[tuple[str, str]]:
        paths = []
        for i, graph in enumerate(graphs):
            paths.append(str(tmp_path / f"{i}.onnx"))
            (tmp_path / f"{i}.onnx").write_bytes(graph.onnx)
        what = compute_capability.replace(".", "") if build else "parse"
        command = [sys.executable, "-c", VERDICTS, what, *paths]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]

    return verdicts
