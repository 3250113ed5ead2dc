"""Activation memory of TensorRT's contexts: shared by stages on one stream, and found out where it must not be."""

import dataclasses
import threading

import pytest
from tensorrt_double import DoubleGpu, Misuse
from tensorrt_runs import (
    ANY_N,
    TIMEOUT_S,
    USER_MEMORY,
    Load,
    fill,
    finish,
    outputs,
    reference,
    run,
    same,
)

from cascadert.device import Stream
from cascadert.errors import ExecutionError
from cascadert.graph import Graph
from cascadert.runtime.executables.tensorrt import share_memory


def test_stages_on_one_stream_share_memory(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    loaded = {
        name: load(name, graph, ANY_N, USER_MEMORY, {"fast": 900, "accurate": 7000}[name])
        for name, graph in graphs.items()
    }
    assert [executable.memory_bytes for executable in loaded.values()] == [900, 7000]
    assert share_memory(loaded.values(), gpu).shape == (7000,)  # they keep it
    bindings = {name: fill(gpu, graph, 5, 3) for name, graph in graphs.items()}
    stream.begin()
    for _ in range(3):
        for name, executable in loaded.items():
            executable.enqueue(bindings[name], stream)
    finish(stream)
    for name, graph in graphs.items():
        assert same(outputs(graph, bindings[name]), reference(gpu, graph, bindings[name], stream))


def test_the_double_finds_memory_shared_in_parallel(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    one, other = (load(name, graph, ANY_N, USER_MEMORY) for name, graph in graphs.items())
    share_memory([one, other], gpu)
    second, inside, latch = gpu.create_stream("b"), threading.Event(), threading.Event()
    gpu.during_runs = lambda: (inside.set(), latch.wait(TIMEOUT_S))
    bindings = fill(gpu, graphs["fast"], 1, 0)
    one.enqueue(bindings, stream)
    assert inside.wait(TIMEOUT_S)
    with pytest.raises(Misuse, match="two runs share activation memory at the same time"):
        run(other, fill(gpu, graphs["accurate"], 4, 0), second)
    latch.set()
    finish(stream)


def test_the_double_finds_two_runs_of_one_context_in_parallel(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable, bindings = load("fast", graphs["fast"]), fill(gpu, graphs["fast"], 1, 0)
    second, inside, latch = gpu.create_stream("b"), threading.Event(), threading.Event()
    gpu.during_runs = lambda: (inside.set(), latch.wait(TIMEOUT_S))
    executable.enqueue(bindings, stream)
    assert inside.wait(TIMEOUT_S)
    with pytest.raises(Misuse, match="two runs of one context at the same time"):
        run(executable, bindings, second)
    latch.set()
    finish(stream)


def test_the_double_finds_somebody_else_in_the_memory(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable = load("fast", graphs["fast"], ANY_N, USER_MEMORY)
    block = share_memory([executable], gpu)
    gpu.during_runs = lambda: block.array.fill(0)
    with pytest.raises(Misuse, match="written by somebody else"):
        run(executable, fill(gpu, graphs["fast"], 1, 0), stream)


def test_memory_must_be_given_and_large_enough(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable, bindings = load("fast", graphs["fast"], ANY_N, USER_MEMORY), fill(gpu, graphs["fast"], 1, 0)
    with pytest.raises(ExecutionError, match=r"^stage 'fast': has no activation memory; call use_memory first$"):
        executable.enqueue(bindings, stream)
    message = r"^stage 'fast': is given 4092 bytes of activation memory where it needs 4096; give a larger block$"
    with pytest.raises(ExecutionError, match=message):
        executable.use_memory(gpu.allocate((1023,), "float32"))
    executable.use_memory(gpu.allocate((1024,), "float32"))
    run(executable, bindings, stream)


def test_memory_that_tensorrt_refuses(gpu: DoubleGpu, load: Load, graphs: dict[str, Graph]) -> None:
    executable = load("fast", graphs["fast"], ANY_N, USER_MEMORY, 64)
    with pytest.raises(
        ExecutionError, match=r"^stage 'fast': TensorRT refuses its memory: setDeviceMemory: .*; give an"
    ):
        executable.use_memory(dataclasses.replace(block := gpu.allocate((96,), "uint8"), array=block.array[8:]))


def test_memory_is_not_blamed_for_an_earlier_error(
    gpu: DoubleGpu, stream: Stream, load: Load, graphs: dict[str, Graph]
) -> None:
    executable = load("fast", graphs["fast"], ANY_N, USER_MEMORY)
    share_memory([executable], gpu)
    (context,) = gpu.contexts
    gpu.during_runs = lambda: context._engine._refuse("something that no call returned")
    run(executable, fill(gpu, graphs["fast"], 1, 0), stream)
    share_memory([executable], gpu)


def test_memory_for_one_that_has_its_own_is_refused(gpu: DoubleGpu, load: Load, graphs: dict[str, Graph]) -> None:
    with pytest.raises(ExecutionError, match=r"^stage 'fast': has activation memory of its own; load it with user_mem"):
        load("fast", graphs["fast"]).use_memory(gpu.allocate((5000,), "uint8"))
