"""The part of cuda-core that `CudaCoreDevice` uses, on a simulated GPU. test_cuda_core.py holds it to the real one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gpu_simulation import (
    MEMORY_BYTES,
    MULTIPROCESSORS,
    PRIORITIES,
    Block,
    SimulatedEvent,
    SimulatedGpu,
    SimulatedStream,
)

GPU = SimulatedGpu()
INTEGRATED = False


def install(monkeypatch: pytest.MonkeyPatch, gpu: SimulatedGpu, integrated: bool) -> None:
    """Put the double in the place of cuda-core, and a driver with two GPUs beside it."""
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "GPU", gpu, raising=False)
    monkeypatch.setattr(here, "INTEGRATED", integrated)
    core, bindings = ModuleType("cuda.core"), ModuleType("cuda.bindings.driver")
    for kind in CORE:
        setattr(core, kind.__name__, kind)
    core.utils = ModuleType("cuda.core.utils")
    core.utils.StridedMemoryView = StridedMemoryView
    bindings.cuCtxGetStreamPriorityRange = cuCtxGetStreamPriorityRange
    bindings.cuDeviceTotalMem = cuDeviceTotalMem
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", bindings)
    monkeypatch.setattr("cascadert.runtime.devices.cuda_probe.count_gpus", lambda: 2)


def cuCtxGetStreamPriorityRange() -> tuple[int, int, int]:  # noqa: N802
    GPU.check()
    return 0, *PRIORITIES


def cuDeviceTotalMem(dev: int) -> tuple[int, int]:  # noqa: N802
    assert dev in (0, 1)
    return 0, MEMORY_BYTES


@dataclass
class StreamOptions:
    nonblocking: Any = True
    priority: int | None = None


@dataclass
class EventOptions:
    timing_enabled: bool | None = False
    blocking_sync: bool | None = False
    ipc_enabled: bool | None = False


class Event:
    def __init__(self, event: SimulatedEvent, options: EventOptions) -> None:
        self._event, self._options = event, options

    @property
    def is_done(self) -> bool:
        return self._event.query()

    def sync(self) -> None:
        if not self._options.blocking_sync:
            GPU.misuse("a thread that spins while it waits")
        self._event.wait()

    def __sub__(self, other: Event) -> float:
        return self._event.milliseconds_since(other._event)


class _Handle:
    """A CUstream: no number, but it can be made one."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


class Stream:
    def __init__(self, stream: SimulatedStream) -> None:
        self._stream = stream

    @property
    def handle(self) -> _Handle:
        return _Handle(self._stream.handle)

    def record(self, event: Event | None = None, options: EventOptions | None = None) -> Event:
        assert event is None and options is not None
        return Event(self._stream.record(bool(options.timing_enabled)), options)

    def wait(self, event_or_stream: Event) -> None:
        self._stream.wait(event_or_stream._event)

    def sync(self) -> None:
        self._stream.synchronize()

    def close(self) -> None:
        self._stream.close()


class Buffer:
    def __init__(self, ptr: int, size: int, owner: object, block: Block | None = None) -> None:
        self._ptr, self._size, self._owner, self._block = ptr, size, owner, block
        self._freeing: SimulatedStream | None = None

    @staticmethod
    def from_handle(ptr: int, size: int, mr: None = None, owner: object = None, *, stream: None = None) -> Buffer:
        assert isinstance(ptr, int) and isinstance(size, int) and mr is None and stream is None
        return Buffer(ptr, size, owner)

    @property
    def handle(self) -> int:
        return self._ptr

    def set_deallocation_stream(self, stream: Stream) -> None:
        self._freeing = stream._stream

    def copy_to(self, dst: Buffer | None = None, *, stream: Stream, options: None = None) -> Buffer:
        assert dst is not None and options is None
        if dst._size != self._size:
            raise ValueError("buffer sizes mismatch between src and dst")
        stream._stream.copy(dst._ptr, self._ptr, self._size)
        return dst

    def close(self, stream: None = None) -> None:
        assert stream is None
        if self._block is None:
            return
        if self._freeing is None:
            GPU.misuse("freeing on the default stream")
        block, self._block = self._block, None
        self._freeing.put(lambda: GPU.free(block))
        if block.kind == "pinned":
            self._freeing.synchronize()


class DeviceMemoryResource:
    def allocate(self, size: int, *, stream: Stream) -> Buffer:
        block = GPU.allocate(size, "device", stream._stream)
        buffer = Buffer(block.address, size, None, block)
        buffer.set_deallocation_stream(stream)
        return buffer


class LegacyPinnedMemoryResource:
    def allocate(self, size: int, *, stream: Stream | None = None) -> Buffer:
        block = GPU.allocate(size, "pinned")
        return Buffer(block.address, size, None, block)


class _Properties:
    @property
    def integrated(self) -> bool:
        return INTEGRATED

    @property
    def multiprocessor_count(self) -> int:
        return MULTIPROCESSORS


class Device:
    def __init__(self, device_id: int | None = None) -> None:
        assert device_id in (0, 1)
        self.device_id = device_id

    @property
    def compute_capability(self) -> tuple[int, int]:
        return 8, 6

    @property
    def name(self) -> str:
        return "Simulated GPU"

    @property
    def properties(self) -> _Properties:
        return _Properties()

    @property
    def memory_resource(self) -> DeviceMemoryResource:
        GPU.check()
        return DeviceMemoryResource()

    def set_current(self, ctx: None = None) -> None:
        assert ctx is None
        GPU.depth = 1

    def create_stream(self, obj: None = None, options: StreamOptions | None = None) -> Stream:
        assert obj is None and options is not None
        least, most = PRIORITIES
        if options.priority is not None and not most <= options.priority <= least:
            raise ValueError(f"priority {options.priority} is out of range {[most, least]}")
        return Stream(GPU.create_stream(options.priority, options.nonblocking))


class StridedMemoryView:
    """Capsules are dictionaries here."""

    def __init__(self, found: dict[str, Any], owner: object) -> None:
        self.ptr: int = found["address"]
        self.shape: tuple[int, ...] = found["shape"]
        self.strides: tuple[int, ...] | None = found["strides"]
        self.dtype: np.dtype[Any] = found["dtype"]
        self.exporting_obj = owner

    @classmethod
    def from_dlpack(cls, obj: Any, stream_ptr: int | None = None) -> StridedMemoryView:
        GPU.check()
        if stream_ptr is None:
            raise BufferError("stream=None is ambiguous with view()")
        return cls(obj.__dlpack__(stream=stream_ptr, max_version=(1, 0)), obj)

    @classmethod
    def from_buffer(
        cls, buffer: Buffer, shape: tuple[int, ...], strides: None = None, *, dtype: np.dtype[Any] | None = None
    ) -> StridedMemoryView:
        assert dtype is not None and int(np.prod(shape)) * dtype.itemsize <= buffer._size
        return cls({"address": buffer.handle, "shape": shape, "strides": strides, "dtype": dtype}, buffer)

    def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None) -> dict[str, Any]:
        return {"address": self.ptr, "shape": self.shape, "strides": self.strides, "dtype": self.dtype}

    def __dlpack_device__(self) -> tuple[int, int]:
        pinned = next(b.kind == "pinned" for b in GPU.blocks if b.address <= self.ptr < b.address + b.array.size)
        return (3 if pinned else 2), 0


CORE = (Device, Stream, Event, StreamOptions, EventOptions, Buffer, LegacyPinnedMemoryResource, DeviceMemoryResource)
