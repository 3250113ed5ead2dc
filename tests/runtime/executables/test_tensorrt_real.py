"""The real TensorRT-RTX: as far as it goes without a GPU, and from bundle to labels with one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle
from cascadert.deployment import Deployment
from cascadert.device import Buffer
from cascadert.errors import DeploymentError
from cascadert.export.lowering import lower
from cascadert.graph import Graph
from cascadert.runtime.devices.choose import open_device
from cascadert.runtime.devices.cuda_probe import why_no_gpu
from cascadert.runtime.devices.host import HostBuffer, HostDevice
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.executables.tensorrt import (
    TensorRT,
    TensorRTExecutable,
    TensorRTOptions,
    import_tensorrt,
    load_tensorrt_stages,
    share_memory,
)

pytest.importorskip("tensorrt_rtx")
NO_GPU = why_no_gpu()
TIMEOUT_S = 60.0


def test_it_says_why_it_refuses_an_engine() -> None:
    tensorrt = TensorRT(import_tensorrt("tensorrt-rtx"))
    message = r"^stage 'x': tensorrt_rtx \d+\.\d+.* refuses its engine: .*magicTag.*; build it anew for this GPU"
    with pytest.raises(DeploymentError, match=message):
        tensorrt.deserialize("x", b"not an engine at all" * 10)


@pytest.fixture(scope="module")
def device() -> Any:
    with open_device("cuda") as device:
        yield device


@pytest.fixture(scope="module")
def deployment(toy_bundle: Bundle, device: Any, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The toy cascade, built for the GPU of this machine."""
    from cascadert.engines.build import build_engine
    from cascadert.engines.profiles import list_targets

    capability = device.compute_capability
    target = next((target for target in list_targets() if target.compute_capability == capability), None)
    if target is None:
        pytest.skip(f"no target of TensorRT-RTX has this GPU's compute capability {capability}")
    return build_engine(toy_bundle, target, tmp_path_factory.mktemp("deployments") / "toy")


def run_on_gpu(executable: TensorRTExecutable, inputs: dict[str, np.ndarray], device: Any) -> dict[str, np.ndarray]:
    """Copy the inputs up, run, and copy the outputs down, all on one stream."""
    stream = device.create_stream("test")
    pinned: dict[str, Buffer] = {}
    for spec in (*executable.inputs, *executable.outputs):
        shape = inputs[spec.name].shape if spec.name in inputs else tuple(int(size) for size in spec.shape)
        pinned[spec.name] = device.allocate_pinned(shape, spec.dtype)
    bindings = {name: device.allocate(buffer.shape, buffer.dtype) for name, buffer in pinned.items()}
    stream.begin()
    for name, array in inputs.items():
        pinned[name].host[...] = array
        device.copy(pinned[name], bindings[name], stream)
    executable.enqueue(bindings, stream)
    for spec in executable.outputs:
        device.copy(bindings[spec.name], pinned[spec.name], stream)
    event = stream.record()
    assert event.synchronize(TIMEOUT_S)
    assert event.error is None
    assert stream.close(TIMEOUT_S)
    return {spec.name: pinned[spec.name].host.copy() for spec in executable.outputs}


def run_on_host(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of the same graph."""
    host = HostDevice()
    stream = host.create_stream("test")
    outputs = {spec.name: host.allocate(tuple(int(size) for size in spec.shape), spec.dtype) for spec in graph.outputs}
    bindings = {spec.name: HostBuffer(inputs[spec.name], spec.dtype) for spec in graph.inputs} | outputs
    with OnnxRuntimeExecutable("host", lower(graph, "onnxruntime")) as executable:
        executable.enqueue(bindings, stream)
        assert stream.close(TIMEOUT_S)
    return {name: buffer.array for name, buffer in outputs.items()}


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(NO_GPU is not None, reason=f"no GPU: {NO_GPU}")
@pytest.mark.parametrize("choice", ["plain", "user memory", "graphs and cache"])
def test_labels_are_those_of_onnx_runtime(
    deployment: Deployment, device: Any, toy_bundle: Bundle, toy_frames: np.ndarray, choice: str, tmp_path: Path
) -> None:
    options = {
        "plain": TensorRTOptions(),
        "user memory": TensorRTOptions(user_memory=True),
        "graphs and cache": TensorRTOptions(cuda_graphs=True, kernels="eager", runtime_cache=tmp_path),
    }[choice]
    stages = load_tensorrt_stages(deployment, device, options)
    if options.user_memory:
        share_memory(stages.values(), device)
    for frame in toy_frames[:3, np.newaxis]:
        fast = run_on_host(toy_bundle.graphs["fast"], {"frame": frame})
        assert np.mean(run_on_gpu(stages["fast"], {"frame": frame}, device)["labels"] == fast["labels"]) > 0.999
        for n in (1, 7, 15, 7):
            inputs = {"frame": frame, "indices": fast["order"][:n].copy(), "prior_labels": fast["labels"]}
            wanted = run_on_host(toy_bundle.graphs["accurate"], inputs)["labels"]
            assert np.mean(run_on_gpu(stages["accurate"], inputs, device)["labels"] == wanted) > 0.999
    for executable in stages.values():
        executable.close()
    assert {path.name for path in tmp_path.iterdir()} == (
        {"fast.cache", "accurate.cache"} if options.runtime_cache else set()
    )
