"""NVIDIA GPUs through cuda-core, NVIDIA's own Python binding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cascadert.device import NUMPY_TYPES, Buffer
from cascadert.errors import import_extra
from cascadert.runtime.devices.cuda_device import CudaDevice
from cascadert.runtime.devices.cuda_driver import Allocation, DeviceArray
from cascadert.runtime.devices.cuda_memory import CudaBuffer
from cascadert.runtime.devices.cuda_probe import require_gpu

_PURPOSE = "to run on an NVIDIA GPU"


class CudaCoreBuffer(CudaBuffer):
    """Exports DLPack. Whoever imports it waits for the work that writes it: a buffer does not know its streams."""

    def __dlpack__(self, **options: Any) -> Any:
        """Return a DLPack capsule."""
        return self._view().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the kind and number of the device."""
        kind, ordinal = self._view().__dlpack_device__()
        return int(kind), int(ordinal)

    def _view(self) -> Any:
        core = import_extra("cuda.core", "cuda", _PURPOSE)
        memory = core.Buffer.from_handle(self.address, self.nbytes, owner=self)
        return core.utils.StridedMemoryView.from_buffer(memory, self.shape, dtype=np.dtype(NUMPY_TYPES[self.dtype]))


@dataclass(frozen=True)
class _Event:
    event: Any

    def is_done(self) -> bool:
        return bool(self.event.is_done)

    def wait(self) -> None:
        self.event.sync()

    def milliseconds_since(self, earlier: _Event) -> float:
        return float(self.event - earlier.event)


@dataclass(frozen=True)
class _Stream:
    core: Any
    stream: Any
    event_options: Any

    @property
    def handle(self) -> int:
        return int(self.stream.handle)

    def record(self) -> _Event:
        return _Event(self.stream.record(options=self.event_options))

    def wait(self, event: _Event) -> None:
        self.stream.wait(event.event)

    def copy(self, source: Buffer, target: Buffer, nbytes: int) -> None:
        if nbytes:
            read = self.core.Buffer.from_handle(source.address, nbytes)
            read.copy_to(self.core.Buffer.from_handle(target.address, nbytes), stream=self.stream)

    def close(self) -> None:
        self.stream.close()


class CudaCoreDriver:
    """One GPU through `cuda.core`."""

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._core = import_extra("cuda.core", "cuda", _PURPOSE)
        self._device = self._core.Device(ordinal)
        self._device.set_current()
        least, greatest = self._priority_range()
        self._least_urgent, self._most_urgent = least, greatest
        # Memory comes from and goes back to a stream of its own, where nothing else can hold it up.
        self._memory_stream = self._device.create_stream(options=self._core.StreamOptions(nonblocking=True))
        self._pinned_memory = self._core.LegacyPinnedMemoryResource()

    @property
    def name(self) -> str:
        """What the GPU is called."""
        return str(self._device.name)

    @property
    def is_integrated(self) -> bool:
        """Whether it shares its memory with the host."""
        return bool(self._device.properties.integrated)

    @property
    def compute_capability(self) -> str:
        """As in "8.6"."""
        major, minor = self._device.compute_capability
        return f"{major}.{minor}"

    @property
    def multiprocessors(self) -> int:
        """How many streaming multiprocessors it has."""
        return int(self._device.properties.multiprocessor_count)

    @property
    def memory_bytes(self) -> int:
        """All of its memory."""
        driver = import_extra("cuda.bindings.driver", "cuda", _PURPOSE)
        status, nbytes = driver.cuDeviceTotalMem(self._device.device_id)
        if int(status):
            raise RuntimeError(f"cuDeviceTotalMem: {status}")
        return int(nbytes)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context current in the calling thread; it stays so."""
        self._device.set_current()
        yield

    def create_stream(self, priority: int) -> _Stream:
        """Create a non-blocking stream. CUDA counts downwards: its most urgent priority is its lowest number."""
        native = max(self._least_urgent - priority, self._most_urgent)
        stream = self._device.create_stream(options=self._core.StreamOptions(nonblocking=True, priority=native))
        # Waiting for an event must not spin: a core that waits for the GPU is a core less for the host's stages.
        return _Stream(self._core, stream, self._core.EventOptions(timing_enabled=True, blocking_sync=True))

    def allocate(self, nbytes: int) -> Allocation:
        """Allocate from the device's pool."""
        buffer = self._device.memory_resource.allocate(nbytes, stream=self._memory_stream)
        self._memory_stream.sync()
        return Allocation(int(buffer.handle), buffer.close)

    def allocate_pinned(self, nbytes: int) -> Allocation:
        """Allocate page-locked memory; with unified addressing host and device see it at one address."""
        buffer = self._pinned_memory.allocate(nbytes)
        buffer.set_deallocation_stream(self._memory_stream)  # else freeing it waits for the default stream
        return Allocation(int(buffer.handle), buffer.close, host_address=int(buffer.handle))

    def import_array(self, array: Any, stream: int) -> DeviceArray:
        """Look at an array through DLPack."""
        view = self._core.utils.StridedMemoryView.from_dlpack(array, stream_ptr=stream)
        kind = np.dtype(view.dtype)
        strides = None if view.strides is None else tuple(step * kind.itemsize for step in view.strides)
        return DeviceArray(int(view.ptr), tuple(view.shape), strides, kind, view)

    def _priority_range(self) -> tuple[int, int]:
        driver = import_extra("cuda.bindings.driver", "cuda", _PURPOSE)
        status, least, greatest = driver.cuCtxGetStreamPriorityRange()
        if int(status):
            raise RuntimeError(f"cuCtxGetStreamPriorityRange: {status}")
        return int(least), int(greatest)


class CudaCoreDevice(CudaDevice):
    """One GPU through cuda-core (extra `cuda`).

    Raises:
        InvalidRequest: no driver, or no such GPU.
        MissingExtra: cuda-core is not installed.
    """

    buffer_type: ClassVar[type[CudaBuffer]] = CudaCoreBuffer

    def __init__(self, ordinal: int = 0) -> None:
        require_gpu(ordinal)
        super().__init__(CudaCoreDriver(ordinal))
