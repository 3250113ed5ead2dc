from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cascadert.engines.lock import build_lock

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
