"""An NVIDIA GPU as a device, whatever binding of CUDA is underneath."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np

from cascadert.device import NUMPY_TYPES, Buffer, Stream
from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.graph import DType
from cascadert.runtime.devices.cuda_driver import CudaDriver, DeviceArray
from cascadert.runtime.devices.cuda_memory import CudaBuffer, Ledger, Memory
from cascadert.runtime.devices.cuda_stream import CudaStream, failure

_DLPACK_CUDA, _DLPACK_MANAGED = 2, 13


class CudaDevice:
    """Streams, events, device and pinned memory of one GPU, in its primary context: shared with PyTorch and TensorRT.

    Any thread may call it; the context is made current in each that does.
    """

    buffer_type: ClassVar[type[CudaBuffer]] = CudaBuffer

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._ledger = Ledger(driver)

    @property
    def name(self) -> str:
        """What the driver calls the GPU."""
        return self._driver.name

    @property
    def ordinal(self) -> int:
        """Which GPU."""
        return self._driver.ordinal

    @property
    def compute_capability(self) -> str:
        """What engines are built for, as in "8.6"."""
        return self._driver.compute_capability

    @property
    def multiprocessors(self) -> int:
        """How many streaming multiprocessors it has, in its present power mode."""
        return self._driver.multiprocessors

    @property
    def memory_bytes(self) -> int:
        """All of its memory, used or not."""
        return self._driver.memory_bytes

    def current(self) -> AbstractContextManager[None]:
        """Make the primary context current in the calling thread, for libraries that use it by themselves."""
        return self._driver.current()

    @property
    def unified(self) -> bool:
        """Whether the GPU is integrated: pinned memory is then mapped, at an address that both can use."""
        return self._driver.is_integrated

    @property
    def takes_device_arrays(self) -> bool:
        """Yes: the arrays of this GPU."""
        return True

    @property
    def allocated_bytes(self) -> int:
        """Bytes of buffers allocated and not freed."""
        return self._ledger.allocated_bytes

    def create_stream(self, name: str, priority: int = 0, cpus: frozenset[int] | None = None) -> CudaStream:
        """Return a new non-blocking stream. Priorities beyond the GPU's range are its highest; it has no use for cores.

        Raises:
            InvalidRequest: a priority below 0.
            ExecutionError: CUDA refuses.
        """
        if priority < 0:
            raise InvalidRequest(f"priority {priority} for stream '{name}'", "is below 0", "give 0 or more")
        try:
            with self._driver.current():
                native = self._driver.create_stream(priority)
        except Exception as error:
            raise failure(self._driver, error) from error
        return CudaStream(self._driver, self._ledger, native, name, priority)

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> CudaBuffer:
        """Return uninitialised device memory.

        Raises:
            ExecutionError: memory is short.
        """
        return self._buffer(self._ledger.allocate(self._driver.allocate, _nbytes(shape, dtype)), shape, dtype)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DType) -> CudaBuffer:
        """Return uninitialised page-locked memory that the device can address too.

        Raises:
            ExecutionError: memory is short.
        """
        return self._buffer(self._ledger.allocate(self._driver.allocate_pinned, _nbytes(shape, dtype)), shape, dtype)

    def import_array(self, array: Any, stream: Stream) -> CudaBuffer:
        """Return the memory of an array of this GPU as a buffer.

        Raises:
            InvalidRequest: an array of another device, not contiguous, or of a type no graph has.
        """
        found = self._look_at(array, _cuda_stream(stream))
        dtype = next((name for name, kind in NUMPY_TYPES.items() if found.dtype == kind), None)
        if dtype is None or not found.is_contiguous:
            what = f"is {found.dtype}, {'' if found.is_contiguous else 'not '}contiguous"
            raise InvalidRequest(f"a {type(array).__name__}", what, f"give one of {', '.join(NUMPY_TYPES)}, contiguous")
        return self.buffer_type(found.address, found.shape, dtype, found.owner)

    def copy(self, source: Buffer, target: Buffer, stream: Stream) -> None:
        """Queue a copy; both buffers are kept until it is done. From pinned to pinned memory CUDA may make it at once.

        Raises:
            InvalidRequest: the buffers differ in shape or type.
        """
        ours, theirs = _cuda_buffer(source), _cuda_buffer(target)
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            found = f"the target is {theirs.dtype} {list(theirs.shape)}"
            raise InvalidRequest(f"a copy of {ours.dtype} {list(ours.shape)}", found, "give both one shape and type")
        _cuda_stream(stream).copy(ours, theirs)

    def close(self) -> None:
        """Free what could not be freed while a stream hung. Buffers go with the last reference to them."""
        self._ledger.free_put_off()

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _buffer(self, memory: Memory, shape: tuple[int, ...], dtype: DType) -> CudaBuffer:
        return self.buffer_type(memory.address, shape, dtype, memory, memory.as_array(shape, dtype))

    def _look_at(self, array: Any, stream: CudaStream) -> DeviceArray:
        asked = f"a {type(array).__name__}"
        try:
            kind, ordinal = array.__dlpack_device__()
        except (AttributeError, TypeError) as error:
            raise InvalidRequest(asked, "does not export DLPack", "give an array of the device") from error
        if kind not in (_DLPACK_CUDA, _DLPACK_MANAGED) or ordinal != self.ordinal:
            found = f"is on DLPack device {int(kind)}:{ordinal}, not on CUDA device {self.ordinal}"
            raise InvalidRequest(asked, found, "copy it there")
        try:
            with self._driver.current():
                return self._driver.import_array(array, stream.handle)
        except (BufferError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
            raise InvalidRequest(asked, f"cannot be imported: {error}", "give a plain array of the device") from error
        except Exception as error:
            raise ExecutionError(asked, f"cannot be imported: {error}", "see the error of CUDA") from error


def _nbytes(shape: tuple[int, ...], dtype: DType) -> int:
    return math.prod(shape) * np.dtype(NUMPY_TYPES[dtype]).itemsize


def _cuda_buffer(buffer: Buffer) -> CudaBuffer:
    if not isinstance(buffer, CudaBuffer):
        raise TypeError(f"a CUDA device cannot copy a {type(buffer).__name__}")
    return buffer


def _cuda_stream(stream: Stream) -> CudaStream:
    if not isinstance(stream, CudaStream):
        raise TypeError(f"a CUDA device cannot queue work on a {type(stream).__name__}")
    return stream
