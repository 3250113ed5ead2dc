"""A thread that waits for events of a stream and calls the notices that were left for them."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from cascadert.device import Event, Notice


class Watcher:
    """Calls notices in the order in which they were left. Starts its thread with the first of them.

    A daemon: an event that never comes cannot keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Event, Notice] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"cascadert-{name}-notices", daemon=True)

    def watch(self, event: Event, notice: Notice) -> None:
        """Call `notice` with the event's failure, if it has one, once it is done."""
        if self._thread.ident is None:
            self._thread.start()
        self._queue.put((event, notice))

    def close(self, timeout_s: float | None = None) -> bool:
        """Call what is left and end; return false where that takes longer than the time given."""
        if self._thread.ident is None:
            return True
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            event, notice = item
            event.synchronize()
            notice(event.error)
            del item, event, notice  # or they live until the next one comes
