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

    @property
    def multiprocessors(self) -> int:
        """How many streaming multiprocessors it has."""
        ...

    @property
    def memory_bytes(self) -> int:
        """All of its memory."""
        ...


def check_device(built_for: BuiltFor, gpu: Gpu) -> None:
    """Check that engines fit a GPU; before they are loaded, since TensorRT is not to be relied on.

    Engines of TensorRT-RTX fit every GPU of their compute capability, those of full TensorRT only one like that on
    which they were built.

    Raises:
        DeploymentError: they were built for another; the message names what differs.
    """
    wanted = {"compute capability": built_for.compute_capability}
    remedy = "build the bundle for a target of that compute capability"
    if built_for.gpu is not None:
        wanted |= {name.replace("_", " "): value for name, value in built_for.gpu.model_dump().items()}
        remedy = "build it anew on this device"
    for field, value in wanted.items():
        found = getattr(gpu, field.replace(" ", "_"))
        if found != value:
            words = f"was built for {field} {value}; this GPU has {found}"
            raise DeploymentError(f"deployment for {built_for.target}", words, remedy)


def check_version(built_for: BuiltFor, version: str) -> None:
    """Check that full TensorRT is of the version that built the engines; it promises to load no others.

    Raises:
        DeploymentError: it is another.
    """
    if built_for.tensorrt not in (None, version):
        found = f"was built with TensorRT {built_for.tensorrt}; {version} is installed"
        remedy = "build it anew with this version, or install that one"
        raise DeploymentError(f"deployment for {built_for.target}", found, remedy)


def load_tensorrt_stages(
    deployment: Deployment, device: Gpu, options: TensorRTOptions = DEFAULTS
) -> dict[str, TensorRTExecutable]:
    """Load the engine of each stage, by name; all or none.

    Raises:
        BundleError: a missing or changed engine.
        DeploymentError: engines for another GPU or version, or that TensorRT refuses.
        InvalidRequest: a choice that this flavour of TensorRT does not have.
        MissingExtra: it is not installed.
    """
    manifest = deployment.manifest
    if manifest.built_for.backend == "onnxruntime":
        raise DeploymentError(str(deployment.path), "holds graphs for ONNX Runtime", "run it on the CPU")
    check_device(manifest.built_for, device)
    module = import_tensorrt(manifest.built_for.backend)
    check_version(manifest.built_for, module.__version__)
    tensorrt = TensorRT(module)
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
