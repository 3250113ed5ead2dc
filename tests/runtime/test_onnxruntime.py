"""Stages in ONNX Runtime: in place, or refused with the stage and tensor named."""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.errors import ExecutionError, GraphError
from cascadert.graph import Graph
from cascadert.runtime.devices.host import HostBuffer, HostDevice, WorkerStream
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable


@pytest.fixture
def stream() -> Iterator[WorkerStream]:
    worker = HostDevice().create_stream("test")
    yield worker
    assert worker.close(10)


@pytest.fixture
def stage(toy_bundle: Bundle) -> Iterator[OnnxRuntimeExecutable]:
    with OnnxRuntimeExecutable("accurate", toy_bundle.graphs["accurate"], threads=1) as executable:
        yield executable


@pytest.fixture
def bindings(toy_frames: np.ndarray) -> dict[str, HostBuffer]:
    return {
        "frame": HostBuffer(toy_frames[:1], "uint8"),
        "indices": HostBuffer(np.array([2, 0, 5], np.int32), "int32"),
        "prior_labels": HostBuffer(np.full((1, 40, 56), 7, np.uint8), "uint8"),
        "labels": HostBuffer(np.full((1, 40, 56), 99, np.uint8), "uint8"),
    }


def test_outputs_are_written_in_place_and_inputs_left_alone(
    stream: WorkerStream, stage: OnnxRuntimeExecutable, bindings: dict[str, HostBuffer]
) -> None:
    before = {name: buffer.array.copy() for name, buffer in bindings.items()}
    stage.enqueue(bindings, stream)
    stream.synchronize()
    labels = bindings["labels"].array
    assert 99 not in labels
    assert 0 < np.count_nonzero(labels != 7) < labels.size
    assert all(np.array_equal(before[name], bindings[name].array) for name in ("frame", "indices", "prior_labels"))


def test_every_count_of_blocks_runs(
    stream: WorkerStream, stage: OnnxRuntimeExecutable, bindings: dict[str, HostBuffer], toy_bundle: Bundle
) -> None:
    order = np.arange(toy_bundle.spec.make_grid().size, dtype=np.int32)
    changed = []
    for n in range(1, len(order) + 1):
        stage.enqueue({**bindings, "indices": HostBuffer(order, "int32").prefix(n)}, stream)
        stream.synchronize()
        changed.append(np.count_nonzero(bindings["labels"].array != 7))
    assert changed == sorted(changed)
    assert changed[-1] == 40 * 56


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("frame", None, r"^stage 'accurate': frame uint8 \[1, 40, 56, 3\]: is not bound to a buffer; bind every input"),
        ("labels", None, r"^stage 'accurate': labels uint8 \[1, 40, 56\]: is not bound to a buffer"),
        (
            "frame",
            np.zeros((1, 56, 40, 3), np.uint8),
            r"frame uint8 \[1, 40, 56, 3\]: is bound to uint8 \[1, 56, 40, 3\]; bind",
        ),
        (
            "frame",
            np.zeros((40, 56, 3), np.uint8),
            r"is bound to uint8 \[40, 56, 3\]; bind a buffer of this type and shape$",
        ),
        ("indices", np.zeros(3, np.int64), r"indices int32 \[n\]: is bound to int64 \[3\]; bind a buffer of this type"),
        ("labels", np.zeros((1, 40, 56), np.int32), r"labels uint8 \[1, 40, 56\]: is bound to int32 \[1, 40, 56\]"),
    ],
)
def test_wrong_bindings_are_refused(
    stream: WorkerStream,
    stage: OnnxRuntimeExecutable,
    bindings: dict[str, HostBuffer],
    name: str,
    array: np.ndarray | None,
    message: str,
) -> None:
    del bindings[name]
    if array is not None:
        bindings[name] = HostBuffer(array, str(array.dtype))
    with pytest.raises(ExecutionError, match=message):
        stage.enqueue(bindings, stream)


def test_a_dynamic_dimension_is_the_same_everywhere(stage: OnnxRuntimeExecutable) -> None:
    from cascadert.executable import check_bindings
    from cascadert.graph import TensorSpec

    specs = (TensorSpec("a", "int32", ("n",)), TensorSpec("b", "int32", ("n", 2)))
    good = {"a": HostBuffer(np.zeros(3, np.int32), "int32"), "b": HostBuffer(np.zeros((3, 2), np.int32), "int32")}
    check_bindings("s", specs, good)
    with pytest.raises(ExecutionError, match=r"^stage 's': b int32 \[n, 2\]: is bound to int32 \[4, 2\]"):
        check_bindings("s", specs, {**good, "b": HostBuffer(np.zeros((4, 2), np.int32), "int32")})


def test_a_failure_while_running_names_the_stage(
    stream: WorkerStream, stage: OnnxRuntimeExecutable, bindings: dict[str, HostBuffer]
) -> None:
    bindings["indices"] = HostBuffer(np.array([9999], np.int32), "int32")
    stream.begin()
    stage.enqueue(bindings, stream)
    done = stream.record()
    stream.synchronize()
    assert isinstance(done.error, ExecutionError)
    assert re.fullmatch(
        r"stage 'accurate': ONNX Runtime failed: .*; check the frame and the bundle", str(done.error), re.DOTALL
    )


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_graphs_are_refused(toy_bundle: Bundle, keep: float) -> None:
    graph = toy_bundle.graphs["fast"]
    size = keep if isinstance(keep, int) else int(len(graph.onnx) * keep)
    with pytest.raises(
        GraphError, match=r"^stage 'fast': ONNX Runtime refuses its graph: .*; export it anew$"
    ) as caught:
        OnnxRuntimeExecutable("fast", dataclasses.replace(graph, onnx=graph.onnx[:size]))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(GraphError, match=r"^stage 'x': ONNX Runtime refuses its graph: "):
        OnnxRuntimeExecutable("x", Graph(b"not onnx at all", (), ()))
