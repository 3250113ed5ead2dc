"""NVIDIA GPUs through PyCUDA, for images that ship it and not cuda-core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cascadert.device import Buffer
from cascadert.errors import import_extra
from cascadert.runtime.devices.cuda_device import CudaDevice
from cascadert.runtime.devices.cuda_driver import Allocation, DeviceArray
from cascadert.runtime.devices.cuda_probe import require_gpu

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which PyCUDA has no name


class _Owned:
    """A native object, dropped with the context current: PyCUDA leaks what another thread drops without it."""

    def __init__(self, driver: PyCudaDriver, native: Any) -> None:
        self.driver, self.native = driver, native

    def __del__(self) -> None:
        if self.native is not None:
            with self.driver.current():
                self.native = None


class _Event(_Owned):
    def is_done(self) -> bool:
        return bool(self.native.query())

    def wait(self) -> None:
        self.native.synchronize()

    def milliseconds_since(self, earlier: _Event) -> float:
        return float(self.native.time_since(earlier.native))


class _Stream(_Owned):
    @property
    def handle(self) -> int:
        return int(self.native.handle)

    def record(self) -> _Event:
        cuda = self.driver.cuda
        return _Event(self.driver, cuda.Event(cuda.event_flags.BLOCKING_SYNC).record(self.native))

    def wait(self, event: _Event) -> None:
        self.native.wait_for_event(event.native)

    def copy(self, source: Buffer, target: Buffer, nbytes: int) -> None:
        cuda = self.driver.cuda
        if nbytes == 0:
            return
        if source.host is not None and target.host is None:
            cuda.memcpy_htod_async(target.address, source.host, self.native)
        elif source.host is None and target.host is not None:
            cuda.memcpy_dtoh_async(target.host, source.address, self.native)
        else:  # pinned memory has a device address as well
            cuda.memcpy_dtod_async(target.address, source.address, nbytes, self.native)

    def close(self) -> None:
        self.native = None


class PyCudaDriver:
    """One GPU through `pycuda.driver`."""

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self.cuda = import_extra("pycuda.driver", "pycuda", "to run on an NVIDIA GPU through PyCUDA")
        self.cuda.init()
        self._device = self.cuda.Device(ordinal)
        self._context = self._device.retain_primary_context()

    @property
    def name(self) -> str:
        """What the GPU is called."""
        return str(self._device.name())

    @property
    def is_integrated(self) -> bool:
        """Whether it shares its memory with the host."""
        return bool(self._device.get_attribute(self.cuda.device_attribute.INTEGRATED))

    @property
    def compute_capability(self) -> str:
        """As in "8.6"."""
        major, minor = self._device.compute_capability()
        return f"{major}.{minor}"

    @property
    def multiprocessors(self) -> int:
        """How many streaming multiprocessors it has."""
        return int(self._device.get_attribute(self.cuda.device_attribute.MULTIPROCESSOR_COUNT))

    @property
    def memory_bytes(self) -> int:
        """All of its memory."""
        return int(self._device.total_memory())

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the primary context and pop it again: PyCUDA aborts the process if a thread ends with one pushed."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def create_stream(self, priority: int) -> _Stream:
        """Create a non-blocking stream; PyCUDA cannot give it a priority."""
        return _Stream(self, self.cuda.Stream(_NON_BLOCKING))

    def allocate(self, nbytes: int) -> Allocation:
        """Allocate device memory."""
        memory = self.cuda.mem_alloc(nbytes)
        return Allocation(int(memory), memory.free)

    def allocate_pinned(self, nbytes: int) -> Allocation:
        """Allocate page-locked memory that is mapped into the device's address space."""
        array = self.cuda.pagelocked_empty(nbytes, np.uint8, mem_flags=self.cuda.host_alloc_flags.DEVICEMAP)
        memory = array.base
        return Allocation(int(memory.get_device_pointer()), memory.free, host_address=int(array.ctypes.data))

    def import_array(self, array: Any, stream: int) -> DeviceArray:
        """Look at an array through `__cuda_array_interface__`; DLPack is asked only to order the streams."""
        array.__dlpack__(stream=stream)
        found = array.__cuda_array_interface__
        owner = (array, found)
        return DeviceArray(
            int(found["data"][0]), tuple(found["shape"]), found.get("strides"), np.dtype(found["typestr"]), owner
        )


class PyCudaDevice(CudaDevice):
    """One GPU through PyCUDA (extra `pycuda`). Imports arrays that have both DLPack and the CUDA array interface.

    Raises:
        InvalidRequest: no driver, or no such GPU.
        MissingExtra: PyCUDA is not installed.
    """

    def __init__(self, ordinal: int = 0) -> None:
        require_gpu(ordinal)
        super().__init__(PyCudaDriver(ordinal))
