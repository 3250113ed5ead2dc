"""`detect_target`: which target this machine's GPU is; `fingerprint`: which GPU it is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cascadert.deployment import GpuFingerprint
from cascadert.engines.profiles import Target, list_targets
from cascadert.errors import InvalidRequest, TargetError
from cascadert.runtime.devices.choose import open_gpu
from cascadert.runtime.devices.cuda_device import CudaDevice

DEVICE_TREE = Path("/proc/device-tree/compatible")

_BY_NAME = "name the target, see cascadert targets"

_LEAST_SHOWN = 0.75
"""Of a board's memory: firmware and the kernel keep some from CUDA. 4 GiB that show 3 are not 8 that show 6."""


@dataclass(frozen=True)
class GpuFacts:
    """What is found of a GPU and its board.

    Attributes:
        gpu: what CUDA says of it.
        modules: the device tree's names of board and module, as in "nvidia,p3767-0005"; empty where there is no device
            tree, or none to be seen, as in containers.
    """

    gpu: GpuFingerprint
    modules: tuple[str, ...] = ()

    def __str__(self) -> str:
        gib = self.gpu.memory_bytes / 2**30
        board = f", {self.modules[0]}" if self.modules else ""
        return f"{self.gpu.name}, compute capability {self.gpu.compute_capability}, {gib:.1f} GiB{board}"


def detect_target(ordinal: int = 0) -> Target:
    """Return the target that a GPU of this machine is; it may be a refused one.

    Raises:
        MissingExtra: no binding of CUDA is installed.
        TargetError: there is no such GPU, it is of no target, or may be of several.
    """
    try:
        device = open_gpu(ordinal=ordinal)
    except InvalidRequest as error:
        raise TargetError("target auto", f"{error.subject}: {error.found}", _BY_NAME) from error
    with device:
        return match_target(GpuFacts(fingerprint(device), read_modules()))


def fingerprint(device: CudaDevice) -> GpuFingerprint:
    """Return what tells a GPU from others."""
    return GpuFingerprint(
        name=device.name,
        compute_capability=device.compute_capability,
        multiprocessors=device.multiprocessors,
        memory_bytes=device.memory_bytes,
    )


def read_modules(device_tree: Path = DEVICE_TREE) -> tuple[str, ...]:
    """Return the names that a device tree gives board and module, nearest first; none where there is no tree."""
    if not device_tree.is_file():
        return ()
    return tuple(filter(None, device_tree.read_text(encoding="ascii", errors="replace").split("\0")))


def match_target(facts: GpuFacts, targets: Iterable[Target] | None = None) -> Target:
    """Return the one target that a GPU belongs to.

    Compute capability and name decide; where CUDA has one name for several modules, the device tree does, and where
    there is none to be seen, the memory. Whether the GPU is integrated decides nothing that the name does not.

    Raises:
        TargetError: there is no such target, or more than one.
    """
    alike = [target for target in targets or list_targets() if _same_capability(target, facts)]
    found = [target for target in alike if any(re.search(name, facts.gpu.name) for name in target.names)]
    if facts.modules:
        found = [target for target in found if not target.boards or _has_board(target, facts)]
    elif len(found) > 1:
        found = [target for target in found if _has_memory(target, facts)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(target.name for target in found)
        raise TargetError("target auto", f"the GPU may be any of {names}: {facts}", _BY_NAME)
    near = ", ".join(target.name for target in alike) or "none"
    raise TargetError("target auto", f"no target names this GPU: {facts}; of its compute capability: {near}", _BY_NAME)


def _same_capability(target: Target, facts: GpuFacts) -> bool:
    return target.compute_capability == facts.gpu.compute_capability


def _has_board(target: Target, facts: GpuFacts) -> bool:
    return any(board in module for board in target.boards for module in facts.modules)


def _has_memory(target: Target, facts: GpuFacts) -> bool:
    return any(_LEAST_SHOWN * size <= facts.gpu.memory_bytes <= size for size in target.memory_bytes)
