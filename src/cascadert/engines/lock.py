"""One engine build at a time on this machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cascadert.errors import InvalidRequest


def lock_path() -> Path:
    """Return the file that stands for the right to build, one for all users of this machine."""
    return Path(tempfile.gettempdir()) / "cascadert-build.lock"


@contextmanager
def build_lock(on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the right to build; waits for another process that holds it, after calling `on_wait` once.

    Two builds at once spoil each other's timings where tactics are timed on the GPU (onnxruntime#18100), have crashed
    TensorRT (KataGo#1225), and double the memory, whose lack is the usual end of a build on a Jetson. The kernel frees
    the lock when its holder dies, however it dies, so nothing stale is ever left behind; the file itself stays, since
    removing it would let two waiters lock two different files.

    Raises:
        InvalidRequest: the file cannot be opened.
    """
    handle = _open(lock_path())
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    """Open the file for reading, which is all that `flock` needs and all that another user may do."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            handle = os.open(path, flags | os.O_CREAT, 0o644)
            if os.fstat(handle).st_uid == os.getuid():
                os.fchmod(handle, 0o644)  # whatever the umask
            return handle
    except OSError as error:
        found = f"cannot be opened ({error.strerror})"
        raise InvalidRequest(f"build lock {path}", found, "remove it, or set TMPDIR to another folder") from error
