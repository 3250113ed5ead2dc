"""Nothing piles up over a long run: threads, memory, objects."""

import json
import subprocess
import sys

import pytest

# What the warm-up may not have reached yet. A leak of one small frame (384 bytes) would come to 1.9 MiB.
RESIDENT_BYTES = 3 * 2**19


def grown(*arguments: str) -> dict[str, int]:
    command = [sys.executable, "-W", "error", "-m", "tests.runtime.soak", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    measured: dict[str, int] = json.loads(run.stdout)
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("overflow", ["wait", "drop-oldest"])
@pytest.mark.parametrize("mode", ["overlapped", "serial"])
def test_nothing_grows_over_many_frames(mode: str, overflow: str) -> None:
    growth = grown(mode, overflow)
    assert growth["threads"] == growth["device_bytes"] == 0
    assert growth["objects"] < 1000  # frames in flight have hundreds; 5000 frames would leave thousands
    assert growth["resident_bytes"] < RESIDENT_BYTES


@pytest.mark.slow
def test_nothing_grows_where_every_frame_fails() -> None:
    growth = grown("failing")
    assert growth["threads"] == growth["device_bytes"] == 0
    assert growth["objects"] < 200
    assert growth["resident_bytes"] < RESIDENT_BYTES
