"""Streams and events of CUDA under the rules of the `Device` contract.

A failure on the device (an illegal address, say) loses the CUDA context: from then on every call fails, so every piece
of work fails, each with CUDA's words. A call that fails by itself fails its piece alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from cascadert.device import Event, Notice
from cascadert.errors import ExecutionError
from cascadert.runtime.devices.cuda_driver import CudaDriver, NativeEvent, NativeStream
from cascadert.runtime.devices.cuda_memory import CudaBuffer, Ledger
from cascadert.runtime.devices.watcher import Watcher

_SHORTEST_NAP_S, _LONGEST_NAP_S = 2e-5, 1e-3


def failure(driver: CudaDriver, error: Exception) -> ExecutionError:
    """Return what the events of a piece of work carry when CUDA refuses a call."""
    failed = ExecutionError(f"work on {driver.name}", f"{error}", "restart the process if all later work fails too")
    failed.__cause__ = error.with_traceback(None)  # whose frames would keep buffers alive
    return failed


class CudaEvent:
    """A CUevent, or the failure that kept it from being recorded.

    An event that was done before the context was lost, but never looked at, fails too: CUDA does not tell them apart.
    """

    def __init__(self, driver: CudaDriver, native: NativeEvent | None, known_failure: BaseException | None) -> None:
        self.native, self.known_failure = native, known_failure
        self._driver = driver
        self._is_done = native is None

    @property
    def is_done(self) -> bool:
        """Whether everything before it is done, or failed."""
        if not self._is_done and self.native is not None:
            self._observe(self.native.is_done)
        return self._is_done

    @property
    def error(self) -> BaseException | None:
        """Why its piece of work failed."""
        return self.known_failure if self.is_done else None

    def synchronize(self, timeout_s: float | None = None) -> bool:
        """Wait until it is done; return whether it is."""
        if timeout_s is not None:
            return self._poll(time.monotonic() + timeout_s)
        if not self._is_done and self.native is not None:
            self._observe(self._wait)
        return True

    def milliseconds_since(self, earlier: Event) -> float:
        """Time between two events that are done; not a number where CUDA failed and so gave none."""
        other = awaited(earlier)
        if self.native is None or other.native is None:
            return float("nan")
        try:
            with self._driver.current():
                return self.native.milliseconds_since(other.native)
        except Exception:
            if self.error is None and other.error is None:
                raise
            return float("nan")

    def _poll(self, deadline: float) -> bool:
        nap = _SHORTEST_NAP_S
        while not self.is_done:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(nap, left))
            nap = min(2 * nap, _LONGEST_NAP_S)
        return True

    def _wait(self) -> bool:
        assert self.native is not None
        self.native.wait()
        return True

    def _observe(self, look: Callable[[], bool]) -> None:
        try:
            with self._driver.current():
                self._is_done = look() or self._is_done
        except Exception as error:
            self.known_failure = self.known_failure or failure(self._driver, error)
            self._is_done = True


class CudaStream:
    """A CUstream of its own, and a thread for its notices."""

    def __init__(self, driver: CudaDriver, ledger: Ledger, native: NativeStream, name: str, priority: int) -> None:
        self.name, self.priority, self.handle = name, priority, native.handle
        self._driver, self._ledger, self._native = driver, ledger, native
        self._watcher = Watcher(name)
        self._failure: BaseException | None = None
        self._unmarked: list[CudaBuffer] = []
        self._in_use: deque[tuple[CudaEvent, list[CudaBuffer]]] = deque()
        self._is_closed = False

    def begin(self, after: Iterable[Event] = ()) -> CudaEvent:
        """Begin a piece of work once all of `after` are done."""
        self._failure = None
        for event in after:
            self.wait(event)
        return self.record()

    def wait(self, event: Event) -> None:
        """Let what follows wait for an event."""
        other = awaited(event)
        if not other.is_done:
            self._queue(lambda: self._native.wait(other.native))
        self._failure = self._failure or other.known_failure

    def copy(self, source: CudaBuffer, target: CudaBuffer) -> None:
        """Queue a copy, and keep both buffers until it is done."""
        self._queue(lambda: self._native.copy(source, target, source.nbytes))
        self._unmarked += (source, target)

    def record(self) -> CudaEvent:
        """Record an event, also where the piece of work failed: what came before it may still run."""
        native: NativeEvent | None = None
        try:
            with self._driver.current():
                native = self._native.record()
        except Exception as error:
            self._failure = self._failure or failure(self._driver, error)
        event = CudaEvent(self._driver, native, self._failure)
        self._release_buffers(event)
        return event

    def notify(self, notice: Notice) -> None:
        """Have `notice` called by the watching thread."""
        self._watcher.watch(self.record(), notice)

    def synchronize(self, timeout_s: float | None = None) -> bool:
        """Wait until all queued work is done; return whether it is."""
        return self.record().synchronize(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish what is queued and destroy the stream; false where it is still at it, then call again or leave it."""
        if self._is_closed:
            return True
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if not self.begin().synchronize(timeout_s) or not self._watcher.close(_left(deadline)):
            self._ledger.hanging.add(self)
            return False
        self._is_closed = True
        self._ledger.hanging.discard(self)
        self._in_use.clear()
        if self._failure is None:  # else the context is lost, and the stream with it
            with self._driver.current():
                self._native.close()
        return True

    def _queue(self, call: Callable[[], None]) -> None:
        if self._failure is None:
            try:
                with self._driver.current():
                    call()
            except Exception as error:
                self._failure = failure(self._driver, error)

    def _release_buffers(self, mark: CudaEvent) -> None:
        if self._unmarked:
            self._in_use.append((mark, self._unmarked))
            self._unmarked = []
        while self._in_use and self._in_use[0][0].is_done:
            self._in_use.popleft()


def awaited(event: Event) -> CudaEvent:
    """Return an event as one of CUDA.

    Raises:
        TypeError: it is of another device.
    """
    if not isinstance(event, CudaEvent):
        raise TypeError(f"a CUDA stream cannot wait for a {type(event).__name__}")
    return event


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)
