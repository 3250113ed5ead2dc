from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascadert.engines.lock import build_lock, lock_path
from cascadert.errors import InvalidRequest

HOLDER = """
import sys, time
from cascadert.engines.lock import build_lock
with build_lock():
    print("held", flush=True)
    sys.stdin.readline()
    print(time.monotonic(), flush=True)
"""


@pytest.fixture
def holder() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_and_is_told(holder: subprocess.Popen[str]) -> None:
    waited = []

    def release() -> None:
        assert holder.stdin is not None
        waited.append(time.monotonic())
        holder.stdin.write("go\n")
        holder.stdin.flush()

    with build_lock(release):
        entered = time.monotonic()
    out, _ = holder.communicate()
    assert len(waited) == 1
    assert waited[0] < float(out) < entered


def test_a_dead_holder_leaves_nothing_behind(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.communicate()
    waited: list[bool] = []
    with build_lock(lambda: waited.append(True)):
        assert not waited


def test_lock_is_free_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), build_lock():
        raise ZeroDivisionError
    waited: list[bool] = []
    with build_lock(lambda: waited.append(True)):
        assert not waited


def test_the_lock_is_one_for_all_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who did not make the file may only read it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = lock_path()
    old = os.umask(0o077)
    try:
        with build_lock():
            assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)
    flags = []
    real = os.open
    monkeypatch.setattr("os.open", lambda path, flag, *mode: flags.append(flag) or real(path, flag, *mode))
    with build_lock():
        assert flags == [os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW]
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match=r"^build lock .*: cannot be opened \(.*symbolic links\)"), build_lock():
        pass
    assert not (tmp_path / "elsewhere").exists()
