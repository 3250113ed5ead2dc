"""For how long nothing has moved."""

from __future__ import annotations

import time

_IDLE_S = 0.5  # how often who has frames in flight looks whether something hangs, at least


class Patience:
    """How long has been waited without any progress, by one who looks from time to time. Not thread-safe.

    Args:
        timeout_s: after how long it is over; none: never.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self.look_every_s = _IDLE_S if timeout_s is None else min(_IDLE_S, timeout_s / 4)
        self._looked_s, self.waited_s = time.perf_counter(), 0.0

    def renew(self) -> None:
        """Something moved."""
        self.waited_s = 0.0

    def is_over(self) -> bool:
        """Look, and say whether it is over; a process that was stopped meanwhile has not waited."""
        now = time.perf_counter()
        self.waited_s += min(now - self._looked_s, self.look_every_s)
        self._looked_s = now
        return self._timeout_s is not None and self.waited_s >= self._timeout_s
