"""A GPU as CUDA shows it, in host memory: streams are threads, and misuse fails the test even where CUDA lets it pass.

What is checked: the context is current in the calling thread; no default stream; memory is used neither before it was
allocated for that stream nor after it was freed; copies are between memory of the kind that was named; streams and
events are used only while they live. After `lose` every call fails, as after an illegal address.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

PRIORITIES = (0, -3)
"""Least and most urgent."""
MULTIPROCESSORS = 28
MEMORY_BYTES = 12 << 30
ALIGNMENT = 256
_ALIAS = 1 << 52


class Misuse(BaseException):
    """What no driver promises to notice. Not an `Exception`: nothing may catch it as a failure of CUDA."""


class GpuError(Exception):
    """A call that the driver refuses."""


@dataclass
class Block:
    """One allocation. `only` is the stream that may use it, until that stream was synchronised."""

    address: int
    array: np.ndarray
    kind: str
    only: SimulatedStream | None
    freed: bool = False


@dataclass
class SimulatedEvent:
    """A mark in a stream. Times are true only with `timing`."""

    gpu: SimulatedGpu
    timing: bool
    seconds: float = 0.0
    done: threading.Event = field(default_factory=threading.Event)

    def query(self) -> bool:
        self.gpu.check()
        return self.done.is_set()

    def wait(self) -> None:
        self.gpu.check()
        self.gpu.wait_for(self.done)
        self.gpu.check()

    def milliseconds_since(self, earlier: SimulatedEvent) -> float:
        self.gpu.check()
        if not (self.timing and earlier.timing):
            self.gpu.misuse("the time between events without timing")
        if not (self.done.is_set() and earlier.done.is_set()):
            raise GpuError("CUDA_ERROR_NOT_READY: an event is not done")
        return (self.seconds - earlier.seconds) * 1e3


class SimulatedStream:
    """A thread that does what it is given, in order."""

    def __init__(self, gpu: SimulatedGpu, handle: int) -> None:
        self.gpu, self.handle, self.closed = gpu, handle, False
        self._queue: SimpleQueue[tuple[Callable[[], None], bool] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"gpu-{handle:#x}", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], None]) -> None:
        self.gpu.check()
        if self.closed:
            self.gpu.misuse("a stream that was destroyed")
        self._queue.put((work, False))

    def record(self, timing: bool) -> SimulatedEvent:
        event = SimulatedEvent(self.gpu, timing)

        def happen() -> None:
            event.seconds = time.perf_counter()
            event.done.set()

        self.put(happen)
        return event

    def wait(self, event: SimulatedEvent) -> None:
        if event.gpu is not self.gpu:
            self.gpu.misuse("an event of another device")
        self.put(lambda: self.gpu.wait_for(event.done))

    def synchronize(self) -> None:
        self.record(timing=False).wait()
        for block in self.gpu.blocks:
            if block.only is self:
                block.only = None

    def copy(self, target: int, source: int, nbytes: int, kinds: tuple[str, str] | None = None) -> None:
        """`kinds`: of target and source, where the call names them."""

        def run() -> None:
            to, of = (self.gpu.block(address, nbytes, self) for address in (target, source))
            if kinds not in (None, (to.kind, of.kind)):
                self.gpu.misuse(f"a copy to {to.kind} of {of.kind} memory, called for {kinds}")
            self.gpu.bytes_at(target, nbytes, self)[:] = self.gpu.bytes_at(source, nbytes, self)

        self.put(run)

    def spin(self, address: int) -> None:
        """Queue a kernel that ends once the 32 bits at an address, as the device sees it, are not 0."""

        def run() -> None:
            while not self.gpu.bytes_at(address, 4, self).any() and self.gpu.is_alive:
                time.sleep(2e-4)

        self.put(run)

    def close(self) -> None:
        if not self.record(timing=False).done.wait(5):
            self.gpu.misuse("destroying a stream that is at work")
        self.closed = True
        self.end()

    def finish(self, tell: Callable[[], None]) -> None:
        """Have `tell` called once all is done, in any case; at once on a stream that was destroyed."""
        self._queue.put((tell, True)) if self._thread.is_alive() else tell()

    def end(self) -> None:
        self._queue.put(None)
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            work, in_any_case = item
            if self.gpu.is_alive or in_any_case:
                try:
                    work()
                except Misuse:
                    self.gpu.lost = "CUDA_ERROR_ILLEGAL_ADDRESS: misuse"  # it was noted: let nobody wait for ever
            del work, item


class SimulatedGpu:
    """Memory, streams, and which threads have the context current."""

    def __init__(self) -> None:
        self.misuses: list[str] = []
        self.blocks: list[Block] = []
        self.streams: dict[int, SimulatedStream] = {}
        self.lost: str | None = None
        self.ended = False
        self.priorities: list[int] = []
        self.depths: dict[threading.Thread, int] = {}
        self._current = threading.local()
        self._handles = itertools.count(0x5000, 0x10)

    @property
    def is_alive(self) -> bool:
        return self.lost is None and not self.ended

    @property
    def depth(self) -> int:
        """How often the calling thread pushed the context."""
        return getattr(self._current, "depth", 0)

    @depth.setter
    def depth(self, depth: int) -> None:
        self._current.depth = self.depths[threading.current_thread()] = depth

    @property
    def live_bytes(self) -> int:
        return sum(block.array.size for block in self.blocks if not block.freed)

    def misuse(self, what: str) -> None:
        self.misuses.append(what)
        raise Misuse(what)

    def check(self) -> None:
        """Check what every call needs."""
        if self.depth < 1:
            self.misuse(f"no context is current in {threading.current_thread().name}")
        if self.lost is not None:
            raise GpuError(self.lost)

    def lose(self, error: str = "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered") -> None:
        self.lost = error

    def wait_for(self, done: threading.Event) -> None:
        while not done.wait(1e-3) and self.is_alive:
            pass

    def create_stream(self, priority: int | None, non_blocking: bool) -> SimulatedStream:
        self.check()
        if not non_blocking:
            self.misuse("a stream that waits for the default stream")
        if priority is not None:
            self.priorities.append(priority)
        stream = SimulatedStream(self, next(self._handles))
        self.streams[stream.handle] = stream
        return stream

    def allocate(self, nbytes: int, kind: str, only: SimulatedStream | None = None) -> Block:
        self.check()
        if nbytes < 1:
            raise GpuError("CUDA_ERROR_INVALID_VALUE: no bytes")
        if nbytes > 1 << 32:
            raise GpuError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
        raw = np.full(nbytes + ALIGNMENT, 0xCD, np.uint8)  # nobody may count on zeros
        array = raw[(start := -raw.ctypes.data % ALIGNMENT) : start + nbytes]
        block = Block(array.ctypes.data, array, kind, only)
        self.blocks.append(block)
        return block

    def free(self, block: Block) -> None:
        """Free a block; it stays here, so that its address does not come again and later use is noticed."""
        if block.freed:
            self.misuse("memory that is freed twice")
        block.freed = True
        block.array[:] = 0xDD

    def alias(self, block: Block) -> int:
        """Return another address for a block, which the device has for it."""
        return block.address + _ALIAS

    def block(self, address: int, nbytes: int, stream: SimulatedStream) -> Block:
        """Return the live block that holds a range, in whole."""
        start = address % _ALIAS
        for block in self.blocks:
            if block.address <= start and start + nbytes <= block.address + block.array.size:
                if block.freed:
                    self.misuse("memory that was freed")
                if block.only not in (None, stream):
                    self.misuse("memory that another stream has yet to allocate")
                return block
        self.misuse(f"{nbytes} bytes at {address:#x}, which is not memory of this device")
        raise AssertionError

    def bytes_at(self, address: int, nbytes: int, stream: SimulatedStream) -> np.ndarray:
        block = self.block(address, nbytes, stream)
        start = address % _ALIAS - block.address
        return block.array[start : start + nbytes]

    def settle(self) -> None:
        """Wait until all streams are idle."""
        idle = [threading.Event() for _ in self.streams]
        for stream, event in zip(self.streams.values(), idle, strict=True):
            stream.finish(event.set)
        assert all(event.wait(5) for event in idle)

    def end(self) -> None:
        """End all threads and fail if anything was misused."""
        self.ended = True
        for stream in self.streams.values():
            stream.end()
        assert self.misuses == []
