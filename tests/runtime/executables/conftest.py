"""Stages loaded on the double of TensorRT. Makes the modules beside this file importable."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tensorrt_double import SURFACES, DoubleGpu, Surface, make_plan, make_tensorrt
from tensorrt_runs import ANY_N, BLOCKS, TIMEOUT_S, Load, dynamic

from cascadert.bundle import Bundle
from cascadert.device import Stream
from cascadert.export.lowering import lower
from cascadert.graph import Graph
from cascadert.runtime.executables.tensorrt import StageEngine, TensorRT, TensorRTExecutable, TensorRTOptions
from cascadert.runtime.executables.tensorrt.context import DEFAULTS


@pytest.fixture
def gpu() -> Iterator[DoubleGpu]:
    device = DoubleGpu()
    yield device
    assert all(stream.close(TIMEOUT_S) for stream in device.streams.values())


@pytest.fixture
def stream(gpu: DoubleGpu) -> Stream:
    return gpu.create_stream("a")


@pytest.fixture(params=SURFACES)
def surface(request: pytest.FixtureRequest) -> Surface:
    return request.param


@pytest.fixture(scope="session")
def graphs(toy_bundle: Bundle) -> dict[str, Graph]:
    assert toy_bundle.spec.make_grid().size == BLOCKS
    return {name: lower(graph, "onnxruntime") for name, graph in toy_bundle.graphs.items()}


@pytest.fixture
def load(gpu: DoubleGpu, surface: Surface) -> Iterator[Load]:
    """`load(name, graph, profiles, options)` on one flavour of TensorRT."""
    tensorrt, loaded = TensorRT(make_tensorrt(surface, gpu)), []

    def load(
        name: str,
        graph: Graph,
        profiles: tuple[tuple[int, int, int], ...] = ANY_N,
        options: TensorRTOptions = DEFAULTS,
        memory_bytes: int = 4096,
    ) -> TensorRTExecutable:
        plan = make_plan(graph, profiles if dynamic(graph) else (), memory_bytes)
        loaded.append(TensorRTExecutable(StageEngine(name, plan, graph.inputs, graph.outputs), tensorrt, options))
        return loaded[-1]

    yield load
    for executable in loaded:
        executable.close()
