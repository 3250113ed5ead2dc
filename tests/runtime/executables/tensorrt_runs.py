"""Runs of one stage on the double of TensorRT, and what ONNX Runtime makes of the same."""

from collections.abc import Callable, Mapping

import numpy as np
from tensorrt_double import DoubleGpu

from cascadert.device import Buffer, Stream
from cascadert.executable import Executable
from cascadert.graph import Graph
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.executables.tensorrt import TensorRTExecutable, TensorRTOptions

BLOCKS = 15
ANY_N = ((1, 4, BLOCKS),)
BUCKETS = ((1, 1, 2), (4, 4, 4), (8, 8, BLOCKS))
USER_MEMORY = TensorRTOptions(user_memory=True)
TIMEOUT_S = 30.0

Bindings = dict[str, Buffer]
Load = Callable[..., TensorRTExecutable]


def dynamic(graph: Graph) -> bool:
    return any("n" in spec.shape for spec in graph.inputs)


def fill(gpu: DoubleGpu, graph: Graph, n: int, seed: int) -> Bindings:
    """Buffers of one run: every input of some content of its kind, every output of content that no run leaves."""
    random, bindings = np.random.default_rng(seed), {}
    for spec in (*graph.inputs, *graph.outputs):
        buffer = gpu.allocate(tuple(n if size == "n" else int(size) for size in spec.shape), spec.dtype)
        if spec in graph.outputs:
            buffer.array.fill(99)
        elif spec.dtype == "int32":
            buffer.array[...] = random.permutation(max(BLOCKS, buffer.array.size))[: buffer.array.size]
        else:
            buffer.array[...] = random.integers(0, 255, buffer.shape)
        bindings[spec.name] = buffer
    return bindings


def run(executable: Executable, bindings: Mapping[str, Buffer], stream: Stream) -> None:
    stream.begin()
    executable.enqueue(bindings, stream)
    finish(stream)


def finish(stream: Stream) -> None:
    """Wait for the piece of work on a stream, and raise what it failed with."""
    event = stream.record()
    assert event.synchronize(TIMEOUT_S)
    if event.error is not None:
        raise event.error


def outputs(graph: Graph, bindings: Bindings) -> list[np.ndarray]:
    return [bindings[spec.name].array.copy() for spec in graph.outputs]


def reference(gpu: DoubleGpu, graph: Graph, bindings: Bindings, stream: Stream) -> list[np.ndarray]:
    """What ONNX Runtime makes of the inputs, in buffers of its own for the outputs."""
    own = {spec.name: gpu.allocate(bindings[spec.name].shape, spec.dtype) for spec in graph.outputs}
    with OnnxRuntimeExecutable("reference", graph, threads=1) as executable:
        run(executable, {**bindings, **own}, stream)
    return outputs(graph, own)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
