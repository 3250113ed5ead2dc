"""The CPU as a device: buffers are numpy arrays, and a stream is a worker thread with a queue of its own."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

import numpy as np

from cascadert.device import NUMPY_TYPES, Buffer, Event, HostArray, Notice, Stream
from cascadert.errors import InvalidRequest
from cascadert.graph import DType

_ALIGNMENT = 64  # a cache line, and the widest vector load

_PATIENCE_S = 0.1  # how often a worker that waits for another looks whether it was abandoned

_Item = Callable[[], None]
_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class HostBuffer:
    """A numpy array in C order. Exports DLPack through its array."""

    array: HostArray
    dtype: DType

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions."""
        return self.array.shape

    @property
    def address(self) -> int:
        """Address of the first element."""
        return int(self.array.ctypes.data)

    @property
    def host(self) -> HostArray:
        """The array."""
        return self.array

    def prefix(self, count: int) -> HostBuffer:
        """Return the first `count` entries of axis 0: the same memory.

        Raises:
            ValueError: there are not as many.
        """
        if not 0 <= count <= self.array.shape[0]:
            raise ValueError(f"a prefix of {count} entries of {list(self.array.shape)}")
        return HostBuffer(self.array[:count], self.dtype)


class HostEvent:
    """A moment in a worker thread's queue."""

    __slots__ = ("_pending", "error", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.error: BaseException | None = None
        self._pending = threading.Lock()  # held until the event happens: the cheapest thing to wait for
        self._pending.acquire()

    @property
    def is_done(self) -> bool:
        """Whether it has happened."""
        return not self._pending.locked()

    def synchronize(self, timeout_s: float | None = None) -> bool:
        """Wait until it has happened; return whether it has."""
        if self._pending.locked():
            if not self._pending.acquire(timeout=-1 if timeout_s is None else timeout_s):
                return False
            self._pending.release()
        return True

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two events that have happened."""
        if not isinstance(earlier, HostEvent):
            raise TypeError(f"a host event cannot be compared with {type(earlier).__name__}")
        return (self.seconds - earlier.seconds) * 1e3

    def happen(self, error: BaseException | None) -> None:
        """Mark the present moment, and let those go on who wait for it."""
        self.seconds, self.error = time.perf_counter(), error
        self._pending.release()


class WorkerStream:
    """A thread that runs what it is given, in order. A daemon: work that hangs cannot keep the process alive.

    A piece of work is handed over whole, when it is recorded: waking the thread for each of its parts would cost more
    than all of them. Once `close` ran out of time the thread ends as soon as it can: after the work that it is at, or
    while it waits for another stream, and what is queued behind is left undone.
    """

    _handles = itertools.count(1)

    def __init__(self, name: str, priority: int, cpus: frozenset[int] | None) -> None:
        self.name, self.priority, self.handle = name, priority, next(self._handles)
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._piece: list[_Item] | None = None
        self._error: BaseException | None = None
        self._is_abandoned = False
        self._thread = threading.Thread(target=self._work, args=(cpus,), name=f"cascadert-{name}", daemon=True)
        self._thread.start()

    def begin(self, after: Iterable[Event] = ()) -> HostEvent:
        """Begin a piece of work once all of `after` are done."""
        event, awaited = HostEvent(), [_awaited(other) for other in after]

        def run() -> None:
            self._error = None
            for other in awaited:
                self._join(other)
            event.happen(self._error)

        self._hand_over()
        self._piece = [run]
        return event

    def wait(self, event: Event) -> None:
        """Let what follows wait for an event."""
        other = _awaited(event)
        self._put(lambda: self._join(other))

    def submit(self, work: _Item) -> None:
        """Queue a function."""

        def run() -> None:
            if self._error is None:
                try:
                    work()
                except BaseException as error:  # whatever it is: it belongs to this piece of work, not to the thread
                    self._error = error

        self._put(run)

    def record(self) -> HostEvent:
        """Queue a mark."""
        event = HostEvent()
        self._put(lambda: event.happen(self._error))
        self._hand_over()
        return event

    def notify(self, notice: Notice) -> None:
        """Have `notice` called by the worker thread; it must be quick and must not raise."""
        self._put(lambda: notice(self._error))
        self._hand_over()

    def synchronize(self, timeout_s: float | None = None) -> bool:
        """Wait until all queued work is done; return whether it is."""
        return self.record().synchronize(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish what is queued and end the thread; return false where it is still at it."""
        self._hand_over()
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._is_abandoned = self._thread.is_alive()
        return not self._is_abandoned

    def _put(self, item: _Item) -> None:
        if self._piece is None:
            self._queue.put(item)
        else:
            self._piece.append(item)

    def _hand_over(self) -> None:
        if self._piece is not None:
            items, self._piece = self._piece, None
            self._queue.put(partial(_run_all, items))

    def _join(self, other: HostEvent) -> None:
        while not other.synchronize(_PATIENCE_S):
            if self._is_abandoned:
                raise _AbandonedError
        self._error = self._error or other.error

    def _work(self, cpus: frozenset[int] | None) -> None:
        if cpus is not None:
            os.sched_setaffinity(0, cpus)  # of this thread alone
        with suppress(_AbandonedError):
            while not self._is_abandoned and (item := self._queue.get()) is not None:
                item()
                del item  # or the last frame's buffers live until the next item comes


def _run_all(items: list[_Item]) -> None:
    for item in items:
        item()


class _AbandonedError(Exception):
    """A stream was closed, in vain, while it waited for another."""


@dataclass
class HostDevice:
    """Streams and buffers in host memory. A context manager.

    `unified = False` keeps "device" and pinned memory apart, as a GPU of its own does: the same copies are then made.
    """

    unified: bool = True
    _sizes: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The processor's cores that this process may use."""
        return f"host, {len(os.sched_getaffinity(0))} core(s)"

    @property
    def takes_device_arrays(self) -> bool:
        """No: the host touches them all."""
        return False

    @property
    def allocated_bytes(self) -> int:
        """Bytes of buffers allocated and not freed."""
        return sum(tuple(self._sizes.values()))

    def current(self) -> AbstractContextManager[None]:
        """Do nothing: the host is always current."""
        return nullcontext()

    def create_stream(self, name: str, priority: int = 0, cpus: frozenset[int] | None = None) -> WorkerStream:
        """Return a new worker thread; the host has no use for priorities.

        Raises:
            InvalidRequest: cores that this process may not use.
        """
        usable = os.sched_getaffinity(0)
        if cpus is not None and not (cpus and cpus <= usable):
            raise InvalidRequest(
                f"cores {sorted(cpus)} for stream '{name}'", "are not all usable", f"usable are {sorted(usable)}"
            )
        return WorkerStream(name, priority, cpus)

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> HostBuffer:
        """Return uninitialised memory, aligned to a cache line."""
        kind = np.dtype(NUMPY_TYPES[dtype])
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        raw = np.empty(size + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        number = next(_numbers)
        self._sizes[number] = size
        weakref.finalize(raw, self._sizes.pop, number, None)  # without a lock: it may run at any point
        return HostBuffer(raw[start : start + size].view(kind).reshape(shape), dtype)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DType) -> HostBuffer:
        """Return uninitialised memory."""
        return self.allocate(shape, dtype)

    def import_array(self, array: Any, stream: Stream) -> HostBuffer:
        """Return the memory of an array of the host as a buffer.

        Raises:
            InvalidRequest: an array of another device, not contiguous, or of a type no graph has.
        """
        try:
            found = array if isinstance(array, np.ndarray) else np.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest(
                f"a {type(array).__name__}", f"gives no host memory: {error}", "copy it there"
            ) from error
        dtype = next((name for name, kind in NUMPY_TYPES.items() if found.dtype == kind), None)
        if dtype is None or not found.flags.c_contiguous:
            what = f"is {found.dtype}, {'' if found.flags.c_contiguous else 'not '}contiguous"
            raise InvalidRequest(f"a {type(array).__name__}", what, f"give one of {', '.join(NUMPY_TYPES)}, contiguous")
        return HostBuffer(found, dtype)

    def copy(self, source: Buffer, target: Buffer, stream: Stream) -> None:
        """Queue a copy."""
        worker, origin, goal = _worker(stream), _host(source), _host(target)
        if origin.shape != goal.shape:  # numpy would broadcast
            raise ValueError(f"a copy of {list(origin.shape)} to {list(goal.shape)}")
        worker.submit(lambda: np.copyto(goal, origin, casting="no"))

    def close(self) -> None:
        """Return: buffers go with the last reference to them."""

    def __enter__(self) -> HostDevice:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _host(buffer: Buffer) -> HostArray:
    if not isinstance(buffer, HostBuffer):
        raise TypeError(f"the host device cannot touch a {type(buffer).__name__}")
    return buffer.array


def _awaited(event: Event) -> HostEvent:
    if not isinstance(event, HostEvent):
        raise TypeError(f"a host stream cannot wait for a {type(event).__name__}")
    return event


def _worker(stream: Stream) -> WorkerStream:
    if not isinstance(stream, WorkerStream):
        raise TypeError(f"the host device cannot queue work on a {type(stream).__name__}")
    return stream
