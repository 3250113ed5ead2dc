"""Notices come in order from one thread that exists only where somebody listens."""

import threading

from device_contract import LONG_S, SHORT_S

from cascadert.runtime.devices.host import HostEvent
from cascadert.runtime.devices.watcher import Watcher


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_notices_follow_their_events() -> None:
    watcher, heard, first, second = Watcher("order"), [], HostEvent(), HostEvent()
    error = RuntimeError("no")
    watcher.watch(first, lambda cause: heard.append(("first", cause)))
    watcher.watch(second, lambda cause: heard.append(("second", cause)))
    second.happen(error)
    assert not watcher.close(SHORT_S)
    assert heard == []  # the second is done, but its turn comes after the first
    first.happen(None)
    assert watcher.close(LONG_S)
    assert heard == [("first", None), ("second", error)]


def test_without_notices_there_is_no_thread() -> None:
    watcher = Watcher("idle")
    assert "cascadert-idle-notices" not in threads()
    assert watcher.close()
    watcher = Watcher("busy")
    watcher.watch(done := HostEvent(), lambda _: None)
    assert "cascadert-busy-notices" in threads()
    done.happen(None)
    assert watcher.close(LONG_S)
    assert "cascadert-busy-notices" not in threads()
