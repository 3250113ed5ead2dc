"""Both lowerings of real stages equal their semantic graph in ONNX Runtime, and NVIDIA's builder takes one of them."""

import dataclasses
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from cascadert.errors import GraphError, PassError
from cascadert.export.exporter import export_graph
from cascadert.export.glue import plane_shapes
from cascadert.export.lowering import lower
from cascadert.export.models import enet, pspnet_small
from cascadert.export.stages import Stage, StageContext
from cascadert.geometry import Grid
from cascadert.graph import Graph
from cascadert.spec import FrameSpec, StageSpec
from cascadert.wiring import Wiring

CLASSES = 5
TARGETS = ("onnxruntime", "tensorrt")


class Toy(nn.Module):
    """Every operator the passes care about, in few layers: un-pooling, adaptive pooling, PReLU, resize, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.PReLU())
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.bins, self.mix = nn.AdaptiveAvgPool2d(3), nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, CLASSES, 3, padding=1)

    def forward(self, x):
        pooled, indices = self.pool(self.stem(x))
        context = nn.functional.interpolate(self.mix(self.bins(pooled)), size=pooled.shape[2:], mode="bilinear")
        return self.head(self.unpool(pooled + context, indices))


@dataclasses.dataclass(frozen=True)
class Case:
    """A stage with example inputs."""

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: tuple[str, ...]

    def export(self) -> Graph:
        dynamic = {"indices": {0: "n"}} if "indices" in self.inputs else {}
        return export_graph(self.module, self.inputs, self.outputs, dynamic)

    def feeds(self, seed: int, n: int) -> dict[str, np.ndarray]:
        """Random inputs, with n random blocks."""
        rng, feeds = np.random.default_rng(seed), {}
        for name, example in self.inputs.items():
            high = CLASSES if "labels" in name else 256
            feeds[name] = rng.integers(0, high, tuple(example.shape), dtype=np.uint8)
        if "indices" in feeds:
            feeds["indices"] = rng.permutation(self.blocks)[:n].astype(np.int32)
        return feeds

    @property
    def blocks(self) -> int:
        context = self.module.context
        return context.frame.cameras * context.grid.size


def context_of(height: int, width: int, block: int, stride: int, **frame) -> StageContext:
    return StageContext(
        FrameSpec(height=height, width=width, **frame), Grid(height, width, (block,) * 2, (stride,) * 2), CLASSES, {}
    )


def alone(network: nn.Module, context: StageContext, stage: StageSpec, wiring: Wiring) -> Stage:
    size = context.frame.height, context.frame.width
    return Stage(network, stage, replace(context, wiring={stage.name: wiring}), size).eval()


def first(context: StageContext, network: nn.Module) -> Case:
    frame = context.frame
    wiring = Wiring("frame", None, ("labels", "scores", "order"), None, frozenset())
    module = alone(network, context, StageSpec(name="fast", model="-"), wiring)
    inputs = {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in plane_shapes(frame).items()}
    return Case(module, inputs, module.output_names)


def refine(context: StageContext, network: nn.Module, rescores: bool = False, **options) -> Case:
    frame = context.frame
    emit = ("labels", "scores", "order") if rescores else ("labels",)
    wiring = Wiring("blocks", "fast", emit, None, frozenset({"fast"}))
    module = alone(network, context, StageSpec(name="accurate", model="-", **options), wiring)
    inputs = {name: torch.zeros(shape, dtype=torch.uint8) for name, shape in plane_shapes(frame).items()}
    inputs["indices"] = torch.tensor([2, 0], dtype=torch.int32)
    inputs["prior_labels"] = torch.zeros((frame.cameras, frame.height, frame.width), dtype=torch.uint8)
    return Case(module, inputs, module.output_names)


def toy(seed: int) -> Toy:
    torch.manual_seed(seed)
    network = Toy()
    with torch.no_grad():
        network(torch.randn(4, 3, 32, 32))  # statistics for the batch norm
    return network.eval()


CASES = {
    "first": lambda: first(context_of(32, 48, 16, 16), toy(0)),
    "first, overlapping, two cameras, nv12": lambda: first(
        context_of(40, 56, 24, 16, cameras=2, pixel_format="nv12"), toy(1)
    ),
    "refine": lambda: refine(context_of(32, 48, 16, 16), toy(2)),
    "refine, halo, overlapping, bgr": lambda: refine(context_of(40, 56, 24, 16, pixel_format="bgr8"), toy(3), halo=4),
    "refine, averaged, two cameras": lambda: refine(context_of(32, 48, 24, 12, cameras=2), toy(4), merge="average"),
    "refine, rescored": lambda: refine(context_of(32, 48, 16, 16), toy(5), rescores=True, halo=2),
}


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def same(name: str, got: np.ndarray, want: np.ndarray) -> None:
    if name == "scores":
        np.testing.assert_allclose(got, want, atol=1e-5)
    elif name == "labels":
        # Logits of random networks tie within rounding at a pixel or two; a block out of place is hundreds.
        assert np.count_nonzero(got != want) <= 2
    else:
        np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_semantic_and_lowered_graphs_equal_pytorch(name):
    case = CASES[name]()
    graph = case.export()
    lowered = [lower(graph, dialect) for dialect in TARGETS]
    for variant in lowered:
        assert (variant.inputs, variant.outputs) == (graph.inputs, graph.outputs)
    for seed, n in enumerate((1, 2, case.blocks)):
        feeds = case.feeds(seed, n)
        with torch.no_grad():
            expected = case.module(*(torch.from_numpy(array) for array in feeds.values()))
        assert len(np.unique(expected[0])) > 1, "one label everywhere proves nothing"
        for variant in (graph, *lowered):
            for port, got, want in zip(graph.outputs, run(variant, feeds), expected, strict=True):
                same(port.name, got, want.numpy())


@pytest.fixture(scope="module")
def refine_graph() -> Graph:
    return CASES["refine, halo, overlapping, bgr"]().export()


def test_each_backend_gets_its_own_form(refine_graph):
    def form(graph: Graph) -> dict[str, onnx.TypeProto]:
        model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph.onnx))
        return {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}

    uint8 = onnx.TensorProto.UINT8
    assert uint8 not in form(lower(refine_graph, "tensorrt")).values()
    assert uint8 in form(lower(refine_graph, "onnxruntime")).values()


def test_lowering_is_deterministic_and_starts_from_semantic_only(refine_graph):
    lowered = lower(refine_graph, "tensorrt")
    assert lowered.sha256 == lower(refine_graph, "tensorrt").sha256
    assert lowered.dialect == "tensorrt"
    with pytest.raises(GraphError, match="the graph was lowered to 'tensorrt' already; start from the bundle's"):
        lower(lowered, "onnxruntime")
    with pytest.raises(GraphError, match="choose 'onnxruntime' or 'tensorrt'"):
        lower(refine_graph, "semantic")


def test_what_tensorrt_refuses_names_node_and_module():
    class NonZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Identity()

        def forward(self, x):
            return (self.network(x * 2) > 0.5).nonzero().to(torch.float32).sum(0)

    graph = export_graph(NonZero(), {"x": torch.rand(2, 3)}, ["y"])
    lower(graph, "onnxruntime")
    with pytest.raises(PassError, match=r"node 'NonZero' \(NonZero, from the stage's own code\): is an operator Tens"):
        lower(graph, "tensorrt")


BUILD = """
import sys
from dataclasses import replace
from pathlib import Path
from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxBytes, Profile

for path in sys.argv[1:]:
    name, blocks = Path(path).stem.split("-")
    profiles = [Profile().add("indices", (1,), (2,), (int(blocks),))] if int(blocks) else None
    config = CreateConfigRTX(compute_capabilities=[(8, 6)], profiles=profiles)
    network = NetworkFromOnnxBytes(Path(path).read_bytes(), strongly_typed=True)
    print(name, bytes(EngineBytesFromNetwork(network, config)())[:4].decode())
"""


def test_nvidias_builder_takes_the_tensorrt_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """TensorRT-RTX compiles engines without a GPU; one process builds for one flavour, so this one is its own."""
    pytest.importorskip("tensorrt_rtx", reason="NVIDIA's builder is not installed: pip install cascadert[rtx]")
    cases = {
        "enet": first(context_of(32, 64, 32, 32), enet(CLASSES)),
        "pspnet": refine(context_of(64, 64, 48, 16), pspnet_small(CLASSES, width=8, hidden=16), halo=8),
        "average": refine(context_of(32, 48, 24, 12), toy(0), merge="average"),
        "rescored": CASES["refine, rescored"](),
    }
    paths = []
    for name, case in cases.items():
        paths.append(tmp_path / f"{name}-{case.blocks if 'indices' in case.inputs else 0}.onnx")
        paths[-1].write_bytes(lower(case.export(), "tensorrt").onnx)
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "1")
    command = [sys.executable, "-c", BUILD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.endswith(" vtrt")] == [f"{name} vtrt" for name in cases]
