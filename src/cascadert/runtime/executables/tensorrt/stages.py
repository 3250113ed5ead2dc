"""The stages of a deployment, loaded with TensorRT."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import Protocol

from cascadert.deployment import BuiltFor, Deployment
from cascadert.device import Buffer, Device
from cascadert.errors import DeploymentError
from cascadert.runtime.executables.tensorrt.context import DEFAULTS, TensorRTOptions
from cascadert.runtime.executables.tensorrt.executable import StageEngine, TensorRTExecutable
from cascadert.runtime.executables.tensorrt.runtime import TensorRT, import_tensorrt


class Gpu(Device, Protocol):
    """A device that engines are built for."""

    @property
    def compute_capability(self) -> str:
        """As in "8.6"."""
        ...


def check_device(built_for: BuiltFor, compute_capability: str) -> None:
    """Check that engines of TensorRT-RTX fit a GPU; before they are loaded, since TensorRT is not to be relied on.

    Raises:
        DeploymentError: they were built for another compute capability; the message names both.
    """
    if built_for.compute_capability != compute_capability:
        found = f"was built for compute capability {built_for.compute_capability}; this GPU has {compute_capability}"
        remedy = "build the bundle for a target of that compute capability"
        raise DeploymentError(f"deployment for {built_for.target}", found, remedy)


def load_tensorrt_stages(
    deployment: Deployment, device: Gpu, options: TensorRTOptions = DEFAULTS
) -> dict[str, TensorRTExecutable]:
    """Load the engine of each stage, by name; all or none.

    Raises:
        BundleError: a missing or changed engine.
        DeploymentError: engines for another GPU, or that TensorRT refuses.
        InvalidRequest: a choice that this flavour of TensorRT does not have.
        MissingExtra: it is not installed.
    """
    manifest = deployment.manifest
    if manifest.built_for.backend == "onnxruntime":
        raise DeploymentError(str(deployment.path), "holds graphs for ONNX Runtime", "run it on the CPU")
    check_device(manifest.built_for, device.compute_capability)
    tensorrt = TensorRT(import_tensorrt(manifest.built_for.backend))
    executables = {}
    with ExitStack() as loaded:
        for stage in manifest.bundle.stages:
            inputs, outputs = (tuple(port.spec() for port in ports) for ports in (stage.inputs, stage.outputs))
            source = StageEngine(stage.name, deployment.engine(stage.name), inputs, outputs)
            executables[stage.name] = loaded.enter_context(TensorRTExecutable(source, tensorrt, options))
        loaded.pop_all()
    return executables


def share_memory(executables: Collection[TensorRTExecutable], device: Device) -> Buffer:
    """Give executables loaded with `user_memory` one block of activation memory, and return it.

    Only for executables whose runs follow each other on one stream; see `TensorRTExecutable.use_memory`.
    """
    needed = max(executable.memory_bytes for executable in executables)
    block = device.allocate((max(needed, 1),), "uint8")  # an engine without intermediate tensors needs none
    for executable in executables:
        executable.use_memory(block)
    return block
