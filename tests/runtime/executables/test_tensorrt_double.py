"""The double of TensorRT is as strict as it says, and has nothing that the real module lacks."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tensorrt_double as double
from tensorrt_double import DoubleGpu, Misuse, make_plan, make_tensorrt

from cascadert.bundle import Bundle
from cascadert.export.lowering import lower

ADDRESSES = ("frame", "indices", "prior_labels", "labels")


@pytest.fixture
def gpu() -> Iterator[DoubleGpu]:
    device = DoubleGpu()
    yield device
    assert all(stream.close(30.0) for stream in device.streams.values())


@pytest.fixture
def words() -> list[str]:
    """What the double logged."""
    return []


@pytest.fixture
def engine(gpu: DoubleGpu, toy_bundle: Bundle, words: list[str]) -> Any:
    class Logger(double.ILogger):
        def log(self, severity: Any, text: str) -> None:
            if severity is double.Severity.ERROR:
                words.append(text)

    plan = make_plan(lower(toy_bundle.graphs["accurate"], "onnxruntime"), [(1, 1, 2), (4, 4, 8)])
    return make_tensorrt("10", gpu).Runtime(Logger()).deserialize_cuda_engine(plan)


@pytest.fixture
def context(engine: Any) -> Any:
    return engine.create_execution_context()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.set_tensor_address("image", 4096), "setTensorAddress: image at 4096"),
        (lambda c: c.set_tensor_address("frame", 0), "setTensorAddress: frame at 0"),
        (lambda c: c.set_input_shape("image", (1,)), "setInputShape: there is no input image"),
        (lambda c: c.set_input_shape("labels", (1, 40, 56)), "setInputShape: there is no input labels"),
        (lambda c: c.set_input_shape("frame", (1, 40, 40, 3)), "setInputShape: [1, 40, 40, 3] of frame is outside"),
        (
            lambda c: c.set_input_shape("indices", (3,)),
            "setInputShape: [3] of indices is outside [1] to [2] of profile",
        ),
        (lambda c: c.set_input_shape("indices", (1, 1)), "setInputShape: [1, 1] of indices is outside"),
    ],
)
def test_what_tensorrt_refuses(context: Any, words: list[str], call: Callable[[Any], bool], said: str) -> None:
    assert not call(context)
    assert words[0].startswith(said)


def test_a_profile_that_is_not_there_is_refused(context: Any, gpu: DoubleGpu, words: list[str]) -> None:
    assert not context.set_optimization_profile_async(2, gpu.create_stream("a").handle)
    assert words == ["setOptimizationProfileAsync: there is no profile 2"]


def test_unset_addresses_and_shapes_are_refused(context: Any, gpu: DoubleGpu, words: list[str]) -> None:
    stream = gpu.create_stream("a")
    assert not context.execute_async_v3(stream.handle)
    for name in ADDRESSES:
        context.set_tensor_address(name, 4096)
    assert not context.execute_async_v3(stream.handle)
    assert words == [
        "enqueueV3: no address is set for frame, indices, prior_labels, labels",
        "enqueueV3: the shape of indices is not set in profile 0",
    ]


def test_the_default_stream_is_misuse(context: Any) -> None:
    with pytest.raises(Misuse, match="queued on stream 0"):
        context.execute_async_v3(0)
    with pytest.raises(Misuse, match="switched on stream 0"):
        context.set_optimization_profile_async(1, 0)


def test_a_run_without_memory_is_misuse(engine: Any, gpu: DoubleGpu) -> None:
    context = engine.create_execution_context(double.Strategy.USER_MANAGED)
    for name in ADDRESSES:
        context.set_tensor_address(name, 4096)
    context.set_input_shape("indices", (2,))
    with pytest.raises(Misuse, match="no activation memory"):
        context.execute_async_v3(gpu.create_stream("a").handle)
    with pytest.raises(Misuse, match="memory of its own"):
        engine.create_execution_context().set_device_memory(4096, 4096)


PAIRS = {
    double.Runtime: "Runtime",
    double.EngineRtx: "ICudaEngine",
    double.Context10: "IExecutionContext",
    double.RuntimeConfig: "IRuntimeConfig",
    double.RuntimeCache: "IRuntimeCache",
    double.ILogger: "ILogger",
    double.DataType10: "DataType",
}


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_it_has_nothing_that_tensorrt_rtx_lacks(gpu: DoubleGpu) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert public(make_tensorrt("rtx", gpu)) <= public(trt)
    for ours, theirs in PAIRS.items():
        assert public(ours) - {"name", "value"} <= public(getattr(trt, theirs)), theirs
    for name in (
        "CudaGraphStrategy",
        "DynamicShapesKernelSpecializationStrategy",
        "ExecutionContextAllocationStrategy",
    ):
        ours = getattr(make_tensorrt("rtx", gpu), name)
        assert set(ours.__members__) == set(getattr(trt, name).__members__)


@pytest.mark.parametrize("ours", [kind for kind in PAIRS if kind not in (double.ILogger, double.DataType10)])
def test_its_methods_take_what_those_of_tensorrt_rtx_take(ours: type) -> None:
    theirs = getattr(pytest.importorskip("tensorrt_rtx"), PAIRS[ours])
    for name in public(ours):
        method = getattr(ours, name)
        if inspect.isfunction(method):
            _, *arguments = inspect.signature(method).parameters
            signature = getattr(theirs, name).__doc__
            assert all(f"{argument}: " in signature for argument in arguments), signature
