"""What builds here: a builder's version and, where it times its kernels on the GPU, that GPU."""

from __future__ import annotations

from dataclasses import dataclass

from cascadert.deployment import GpuFingerprint
from cascadert.engines.detect import GpuFacts, fingerprint, match_target, read_modules
from cascadert.engines.facts import BackendFacts
from cascadert.engines.plan import BuildPlan
from cascadert.engines.profiles import Target
from cascadert.engines.recipe import TensorRTBackend
from cascadert.engines.request import check_version
from cascadert.errors import InvalidRequest, MissingExtra, TargetError, import_extra
from cascadert.runtime.devices.choose import open_gpu
from cascadert.runtime.executables.tensorrt import StageEngine, TensorRT, TensorRTExecutable, import_tensorrt
from cascadert.runtime.executables.tensorrt.context import DEFAULTS

_MODULES: dict[TensorRTBackend, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "rtx"),
}


@dataclass(frozen=True)
class Machine:
    """A builder on this machine; `gpu` only where engines are built on the device."""

    backend: TensorRTBackend
    version: str
    gpu: GpuFingerprint | None = None

    def verify(self, plan: BuildPlan, stage: str, engine: bytes) -> None:
        """Load an engine that was built for this GPU, and check its tensors against the manifest.

        Not those of TensorRT-RTX, whose GPU need not be here.

        Raises:
            DeploymentError: TensorRT refuses it, or its tensors differ.
        """
        if self.gpu is None:
            return
        entry = next(entry for entry in plan.manifest.stages if entry.name == stage)
        inputs, outputs = (tuple(port.spec() for port in ports) for ports in (entry.inputs, entry.outputs))
        with open_gpu() as device, device.current():
            tensorrt = TensorRT(import_tensorrt(self.backend))
            TensorRTExecutable(StageEngine(stage, engine, inputs, outputs), tensorrt, DEFAULTS).close()


def this_machine(target: Target, facts: BackendFacts) -> Machine | None:
    """Return what builds a plan here; none for ONNX Runtime, which builds when it loads.

    Raises:
        TargetError: this GPU or this version of TensorRT is not what the plan was made for.
        InvalidRequest: no GPU, where the engines must be built on it.
        MissingExtra: the builder is not installed.
    """
    if facts.name == "onnxruntime":
        return None
    version = builder_version(facts.name)
    gpu = None
    if facts.builds == "device":
        found_gpu = _gpu()
        check_gpu(target, found_gpu)
        gpu = found_gpu.gpu
    served = target.backend(facts.name, version)  # says which versions serve where this one does not
    if served != facts:
        found = f"has graphs for {facts.name} {facts.versions}, and {version} is here"
        raise TargetError(f"a plan for {target.name}", found, f"write a kit with --tensorrt {version}")
    check_version(target, facts, version)
    return Machine(facts.name, version, gpu)


def is_device(target: Target) -> bool:
    """Whether full TensorRT is installed here, and the GPU is one of a target."""
    try:
        builder_version("tensorrt")
        check_gpu(target, _gpu())
    except (MissingExtra, InvalidRequest):  # no TensorRT, no GPU, or another one
        return False
    return True


def builder_version(backend: TensorRTBackend) -> str:
    """Return the version of a builder, as engines and deployments name it.

    Raises:
        MissingExtra: it is not installed.
    """
    module, extra = _MODULES[backend]
    return str(import_extra(module, extra, f"to build engines of {backend}").__version__)


def check_gpu(target: Target, facts: GpuFacts) -> None:
    """Check that a GPU is of a target.

    Raises:
        TargetError: it is another.
    """
    try:
        match_target(facts, [target])
    except TargetError as error:
        raise TargetError(
            f"target '{target.name}'", f"the GPU here is another: {facts}", "build on the device"
        ) from error


def _gpu() -> GpuFacts:
    with open_gpu() as device:
        return GpuFacts(fingerprint(device), read_modules())
