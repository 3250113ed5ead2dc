"""One engine build at a time on this machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_path() -> Path:
    """Return the file that stands for the right to build, one per user."""
    return Path(tempfile.gettempdir()) / f"cascadert-build-{os.getuid()}.lock"


@contextmanager
def build_lock(on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the right to build; waits for another process that holds it, after calling `on_wait` once.

    Two builds at once spoil each other's timings where tactics are timed on the GPU (onnxruntime#18100), have crashed
    TensorRT (KataGo#1225), and double the memory, whose lack is the usual end of a build on a Jetson. The kernel frees
    the lock when its holder dies, however it dies, so nothing stale is ever left behind; the file itself stays, since
    removing it would let two waiters lock two different files.
    """
    handle = os.open(lock_path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
