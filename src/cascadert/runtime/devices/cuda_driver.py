"""What the CUDA devices need of a Python binding of CUDA: cuda-core and PyCUDA each fill it in.

All calls but `current` are made with the context current in the calling thread. Whatever a call raises is a failure
of CUDA: the two bindings share no exception, and cuda-core's is not public.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cascadert.device import Buffer


@dataclass(frozen=True)
class Allocation:
    """Memory that a driver gave. `free` is called once."""

    address: int
    free: Callable[[], None]
    host_address: int | None = None
    """Where the host sees the same memory, if it does."""


@dataclass(frozen=True)
class DeviceArray:
    """Somebody else's memory. Strides are in bytes, none where the array is contiguous; `owner` keeps it alive."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype[Any]
    owner: object

    @property
    def is_contiguous(self) -> bool:
        """Whether it is in C order without gaps; axes of one entry may have any stride."""
        if self.strides is None or 0 in self.shape:
            return True
        step = self.dtype.itemsize
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size > 1 and stride != step:
                return False
            step *= size
        return True


class NativeEvent(Protocol):
    """A CUevent that was recorded, with timing."""

    def is_done(self) -> bool:
        """Query it."""
        ...

    def wait(self) -> None:
        """Block the calling thread, not the interpreter, until it is done."""
        ...

    def milliseconds_since(self, earlier: Any) -> float:
        """Time between two events that are done."""
        ...


class NativeStream(Protocol):
    """A CUstream that neither waits for a default stream nor makes one wait."""

    @property
    def handle(self) -> int:
        """The CUstream."""
        ...

    def record(self) -> NativeEvent:
        """Record a new event."""
        ...

    def wait(self, event: Any) -> None:
        """Let later work wait for an event."""
        ...

    def copy(self, source: Buffer, target: Buffer, nbytes: int) -> None:
        """Queue a copy in any direction."""
        ...

    def close(self) -> None:
        """Destroy it. Nothing is queued any more."""
        ...


class CudaDriver(Protocol):
    """One GPU through one binding."""

    @property
    def ordinal(self) -> int:
        """Which GPU."""
        ...

    @property
    def name(self) -> str:
        """What the GPU is called."""
        ...

    @property
    def is_integrated(self) -> bool:
        """Whether it shares its memory with the host."""
        ...

    @property
    def compute_capability(self) -> str:
        """As in "8.6"."""
        ...

    @property
    def multiprocessors(self) -> int:
        """How many streaming multiprocessors it has, in its present power mode."""
        ...

    @property
    def memory_bytes(self) -> int:
        """All of its memory, used or not."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Make the primary context current in the calling thread."""
        ...

    def create_stream(self, priority: int) -> NativeStream:
        """Create a stream; 0 and up, higher is more urgent."""
        ...

    def allocate(self, nbytes: int) -> Allocation:
        """Allocate device memory that every stream may use at once."""
        ...

    def allocate_pinned(self, nbytes: int) -> Allocation:
        """Allocate page-locked host memory that the device can address too."""
        ...

    def import_array(self, array: Any, stream: int) -> DeviceArray:
        """Look at an array of this device, and let a stream wait for its producer."""
        ...
