"""The CPU as a device: buffers are numpy arrays, and a stream runs its work as it is queued."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cascadert.graph import DType
from cascadert.runtime.device import NUMPY_TYPES, Buffer, Event, Stream


@dataclass(frozen=True)
class HostBuffer:
    """A numpy array in C order."""

    array: NDArray[np.generic]
    dtype: DType

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return tuple(self.array.shape)

    @property
    def address(self) -> int:
        """Address of the first element."""
        return int(self.array.ctypes.data)

    def prefix(self, count: int) -> HostBuffer:
        """Return the first `count` entries of axis 0: the same memory."""
        return HostBuffer(self.array[:count], self.dtype)


@dataclass(frozen=True)
class HostEvent:
    """A moment of the monotonic clock."""

    seconds: float = field(default_factory=time.perf_counter)

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two events."""
        if not isinstance(earlier, HostEvent):
            raise TypeError(f"a host event cannot be compared with {type(earlier).__name__}")
        return (self.seconds - earlier.seconds) * 1e3


class HostStream:
    """Runs work in the calling thread, at once; errors surface where the work was queued."""

    def submit(self, work: Callable[[], None]) -> None:
        """Run host work."""
        work()

    def record(self) -> HostEvent:
        """Return the present moment."""
        return HostEvent()

    def synchronize(self) -> None:
        """Return: nothing is ever left to do."""


class HostDevice:
    """Streams and buffers in host memory."""

    def create_stream(self) -> HostStream:
        """Return a new stream."""
        return HostStream()

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> HostBuffer:
        """Return uninitialised memory."""
        return HostBuffer(np.empty(shape, NUMPY_TYPES[dtype]), dtype)

    def upload(self, array: NDArray[np.generic], buffer: Buffer, stream: Stream) -> None:
        """Copy into a buffer."""
        stream.submit(lambda: np.copyto(_host(buffer), array, casting="no"))

    def download(self, buffer: Buffer, array: NDArray[np.generic], stream: Stream) -> None:
        """Copy out of a buffer."""
        stream.submit(lambda: np.copyto(array, _host(buffer), casting="no"))

    def close(self) -> None:
        """Return: buffers go with the last reference to them."""


def _host(buffer: Buffer) -> NDArray[np.generic]:
    if not isinstance(buffer, HostBuffer):
        raise TypeError(f"the host device cannot touch a {type(buffer).__name__}")
    return buffer.array
