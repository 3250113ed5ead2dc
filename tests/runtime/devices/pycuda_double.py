"""The part of PyCUDA that `PyCudaDevice` uses, on a simulated GPU; written after PyCUDA 2024.1's source."""

from __future__ import annotations

import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gpu_simulation import MEMORY_BYTES, MULTIPROCESSORS, Block, SimulatedEvent, SimulatedGpu, SimulatedStream

GPU = SimulatedGpu()
INTEGRATED = False


def install(monkeypatch: pytest.MonkeyPatch, gpu: SimulatedGpu, integrated: bool) -> None:
    """Put the double in the place of PyCUDA, and a driver with two GPUs beside it."""
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "GPU", gpu, raising=False)
    monkeypatch.setattr(here, "INTEGRATED", integrated)
    driver = ModuleType("pycuda.driver")
    for item in DRIVER:
        setattr(driver, item.__name__, item)
    driver.device_attribute = SimpleNamespace(INTEGRATED="integrated", MULTIPROCESSOR_COUNT="multiprocessors")
    driver.event_flags = SimpleNamespace(BLOCKING_SYNC=1)
    driver.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr("cascadert.runtime.devices.cuda_probe.count_gpus", lambda: 2)


def init(flags: int = 0) -> None:
    pass


class Context:
    def __init__(self) -> None:
        self._gpu = GPU

    def push(self) -> None:
        self._gpu.depth += 1

    def pop(self) -> None:
        """Static in PyCUDA, where it pops whatever is current."""
        if self._gpu.depth < 1:
            self._gpu.misuse("popping a context that is not pushed")
        self._gpu.depth -= 1


class Device:
    def __init__(self, number: int) -> None:
        assert number in (0, 1)

    def compute_capability(self) -> tuple[int, int]:
        return 8, 6

    def name(self) -> str:
        return "Simulated GPU"

    def get_attribute(self, attribute: str) -> int:
        return {"integrated": int(INTEGRATED), "multiprocessors": MULTIPROCESSORS}[attribute]

    def total_memory(self) -> int:
        return MEMORY_BYTES

    def retain_primary_context(self) -> Context:
        return Context()


class _ContextDependent:
    """Made with the context current, and dropped with it or by the thread that made it: else PyCUDA leaks it."""

    def __init__(self) -> None:
        self._gpu = GPU
        self._thread = threading.get_ident()
        if GPU.depth < 1:
            GPU.misuse("no currently active context?")

    def __del__(self) -> None:
        if self._gpu.depth < 1 and threading.get_ident() != self._thread:
            self._gpu.misuses.append(f"a {type(self).__name__} dropped without the context")


class Stream(_ContextDependent):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._stream: SimulatedStream = GPU.create_stream(None, non_blocking=flags == 1)

    def __del__(self) -> None:
        super().__del__()
        if not self._gpu.ended:
            self._stream.close()

    @property
    def handle(self) -> int:
        return self._stream.handle

    def wait_for_event(self, evt: Event) -> None:
        self._stream.wait(evt._event)


class Event(_ContextDependent):
    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._flags = flags
        self._event: SimulatedEvent

    def record(self, stream: Stream | None = None) -> Event:
        if stream is None:
            GPU.misuse("the default stream")
        self._event = stream._stream.record(timing=True)
        return self

    def query(self) -> bool:
        return self._event.query()

    def synchronize(self) -> Event:
        if not self._flags & 1:
            GPU.misuse("a thread that spins while it waits")
        self._event.wait()
        return self

    def time_since(self, event: Event) -> float:
        return self._event.milliseconds_since(event._event)


class DeviceAllocation(_ContextDependent):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self._block = block

    def __int__(self) -> int:
        return self._block.address

    def free(self) -> None:
        GPU.check()
        GPU.free(self._block)


class PagelockedHostAllocation(DeviceAllocation):
    """The device sees it at another address: PyCUDA does not ask for unified addressing."""

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        data = (block.address, False)
        self.__array_interface__ = {"shape": block.array.shape, "typestr": "|u1", "data": data, "version": 3}

    def get_device_pointer(self) -> int:
        GPU.check()
        return GPU.alias(self._block)


def mem_alloc(bytes: int) -> DeviceAllocation:
    return DeviceAllocation(GPU.allocate(bytes, "device"))


def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
    assert dtype is np.uint8 and mem_flags == 2
    return np.asarray(PagelockedHostAllocation(GPU.allocate(shape, "pinned")))


def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream | None = None) -> None:
    _copy(dest, src.ctypes.data, src.nbytes, stream, ("device", "pinned"))


def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream | None = None) -> None:
    _copy(dest.ctypes.data, src, dest.nbytes, stream, ("pinned", "device"))


def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream | None = None) -> None:
    for address in (dest, src):
        if any(b.kind == "pinned" and b.address <= address < b.address + b.array.size for b in GPU.blocks):
            GPU.misuse("a host address in a copy between device addresses")
    _copy(dest, src, size, stream, None)


def _copy(target: int, source: int, nbytes: int, stream: Stream | None, kinds: tuple[str, str] | None) -> None:
    if stream is None:
        GPU.misuse("the default stream")
    stream._stream.copy(target, source, nbytes, kinds)


DRIVER: tuple[Any, ...] = (
    *(init, Device, Context, Stream, Event, mem_alloc, pagelocked_empty),
    *(memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async),
)
