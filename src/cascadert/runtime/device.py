"""The seam to the hardware: where buffers live, and streams that work is queued on.

Work on one stream runs in the order in which it was queued. Nothing here says that queueing waits for the work: the
host stream of today runs it at once, a CUDA stream will not, and callers must not tell the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cascadert.graph import DType

NUMPY_TYPES: dict[DType, DTypeLike] = {
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
    "float16": np.float16,
    "float32": np.float32,
    "bool": np.bool_,
}


class Buffer(Protocol):
    """Contiguous memory of one tensor on a device."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        ...

    @property
    def dtype(self) -> DType:
        """Element type."""
        ...

    @property
    def address(self) -> int:
        """Address of the first element, on the device."""
        ...

    def prefix(self, count: int) -> Buffer:
        """Return the first `count` entries of axis 0: the same memory, no copy."""
        ...


class Event(Protocol):
    """A mark in a stream."""

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two events that have both happened."""
        ...


class Stream(Protocol):
    """A queue of work that runs in order."""

    def submit(self, work: Callable[[], None]) -> None:
        """Queue host work."""
        ...

    def record(self) -> Event:
        """Queue a mark that tells when everything before it was done."""
        ...

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        ...


class Device(Protocol):
    """Makes streams and buffers, and copies between the host and itself."""

    def create_stream(self) -> Stream:
        """Return a new stream."""
        ...

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> Buffer:
        """Return uninitialised memory."""
        ...

    def upload(self, array: NDArray[np.generic], buffer: Buffer, stream: Stream) -> None:
        """Queue a copy from the host; `array` must stay unchanged until the stream has done it."""
        ...

    def download(self, buffer: Buffer, array: NDArray[np.generic], stream: Stream) -> None:
        """Queue a copy to the host; `array` is valid once the stream was synchronised."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
