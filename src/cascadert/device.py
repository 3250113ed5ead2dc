"""The seam to the hardware: where buffers live, streams that work is queued on, and events that order it.

Queueing never waits for the work. What one stream does, it does in the order in which it was queued; between streams
nothing is ordered but by events. Every implementation passes one suite, tests/runtime/device_contract.py.

A *piece of work* is what a stream was given between `begin` and `record`. A piece that fails is skipped from there to
its end, and so is every piece that waited for it; their events carry the cause. The next piece starts afresh. A stream
may hold a piece back until it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeGuard

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

HostArray = NDArray[Any]
Notice = Callable[[BaseException | None], None]
"""Called with the cause where the piece of work failed, else with none."""


class Buffer(Protocol):
    """Contiguous memory of one tensor, in C order."""

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
        """Address of the first element, as work on the device sees it."""
        ...

    @property
    def host(self) -> HostArray | None:
        """The same memory as an array, where the host can touch it (host, pinned, mapped); else none."""
        ...

    def prefix(self, count: int) -> Buffer:
        """Return the first `count` entries of axis 0: the same memory, no copy."""
        ...


class Event(Protocol):
    """A mark in a stream."""

    @property
    def is_done(self) -> bool:
        """Whether everything queued before it was done. Never waits."""
        ...

    @property
    def error(self) -> BaseException | None:
        """Why the piece of work that it ends failed; known once it is done."""
        ...

    def synchronize(self, timeout_s: float | None = None) -> bool:
        """Wait on the host until it is done; return whether it is, within the time given."""
        ...

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two events of one device, both done."""
        ...


class Stream(Protocol):
    """A queue of work that runs in order. Used from one thread."""

    @property
    def name(self) -> str:
        """What traces call it."""
        ...

    @property
    def priority(self) -> int:
        """0 and up; work of a higher priority goes first where the hardware can choose."""
        ...

    @property
    def handle(self) -> int:
        """Native handle: a CUstream; on the host a number of our own. Never that of a default stream."""
        ...

    def begin(self, after: Iterable[Event] = ()) -> Event:
        """Begin a piece of work once all of `after` are done; return the mark of its beginning."""
        ...

    def wait(self, event: Event) -> None:
        """Let what is queued from now on wait for an event, of any stream of the device. The host does not wait."""
        ...

    def record(self) -> Event:
        """Queue a mark that tells when everything before it was done, and whether the piece of work failed."""
        ...

    def notify(self, notice: Notice) -> None:
        """Have `notice` called, on some thread, once everything queued before was done; later work need not wait."""
        ...

    def synchronize(self, timeout_s: float | None = None) -> bool:
        """Wait on the host until all queued work is done; return whether it is, within the time given."""
        ...

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish what is queued and end; return false where that takes longer than the time given."""
        ...


class HostStream(Stream, Protocol):
    """A stream that runs host code: a worker thread."""

    def submit(self, work: Callable[[], None]) -> None:
        """Queue a function; what it raises is the failure of its piece of work."""
        ...


def runs_host_code(stream: Stream) -> TypeGuard[HostStream]:
    """Whether functions can be queued on a stream."""
    return hasattr(stream, "submit")


class Device(Protocol):
    """Makes streams and buffers, and copies. A context manager; safe to use from several threads."""

    @property
    def name(self) -> str:
        """What results files call it."""
        ...

    @property
    def unified(self) -> bool:
        """Whether host and device share memory, so that a pinned buffer can be bound in place of a copy."""
        ...

    @property
    def takes_device_arrays(self) -> bool:
        """Whether `import_array` takes arrays that the host cannot touch."""
        ...

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all buffers that were allocated and not freed, pinned ones included."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Make the device current in the calling thread, for libraries that use it by themselves, as executables do."""
        ...

    def create_stream(self, name: str, priority: int = 0, cpus: frozenset[int] | None = None) -> Stream:
        """Return a new stream, never a default one. `cpus`: the cores a worker thread may use, where there is one."""
        ...

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> Buffer:
        """Return uninitialised device memory, freed with the last reference to it."""
        ...

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DType) -> Buffer:
        """Return uninitialised host memory that copies run to and from by themselves; its `host` is never none."""
        ...

    def import_array(self, array: Any, stream: Stream) -> Buffer:
        """Return the memory of an array of this device (DLPack) as a buffer, no copy; the buffer keeps it alive.

        Work queued on `stream` from now on sees what its producer had queued to be written.

        Raises:
            InvalidRequest: an array of another device, not contiguous, or of a type no graph has.
        """
        ...

    def copy(self, source: Buffer, target: Buffer, stream: Stream) -> None:
        """Queue a copy between two buffers of one shape and type: pinned or device memory, in any direction."""
        ...

    def close(self) -> None:
        """Give everything back. Streams are closed before."""
        ...
