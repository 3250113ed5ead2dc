"""Runs `cascadert.engines.worker` and turns whatever becomes of it into a result or an error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadert.engines.worker import USE_RTX, BuildRequest
from cascadert.errors import BuildError, MissingExtra

Message = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """One complaint of TensorRT. `node` is the ONNX node it named, empty where it named none."""

    text: str
    node: str


class RefusedGraph(Exception):
    """TensorRT did not take the graph; `by` is "parser" or "builder"."""

    def __init__(self, by: str, faults: tuple[Fault, ...]) -> None:
        self.by, self.faults = by, faults
        super().__init__(f"{by}: {faults}")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, the seconds TensorRT took for it, and the versions that made it."""

    engine: bytes
    seconds: float
    versions: dict[str, str]


def run_worker(
    request: BuildRequest, folder: Path, subject: str, timeout_s: float, on_progress: Callable[[Message], None]
) -> BuiltEngine:
    """Build one engine in a process of its own.

    Args:
        request: what to build.
        folder: a scratch folder for this build alone.
        subject: what is built, for messages.
        timeout_s: seconds after which the process is killed.
        on_progress: called with every progress message.

    Raises:
        RefusedGraph: TensorRT did not take the graph.
        BuildError: the process crashed, was killed or took too long.
        MissingExtra: TensorRT-RTX or Polygraphy is not installed.
    """
    (folder / "request.json").write_text(request.to_json(), encoding="utf-8")
    noise, last = folder / "worker.log", Message()
    with _worker(folder, noise) as (process, lines), _deadline(process, timeout_s) as expired:
        for line in lines:
            if not line.endswith("\n"):  # the worker died while it wrote
                break
            last = json.loads(line)
            if last["kind"] == "progress":
                on_progress(last)
        status = process.wait()
    if expired.is_set():
        found = f"did not finish within {timeout_s:g} s"
        raise BuildError(subject, found, "allow more time, or lower the optimization level")
    if last.get("kind") == "done" and status == 0:
        return BuiltEngine(Path(request.engine).read_bytes(), last["seconds"], last["versions"])
    if last.get("kind") == "missing":
        missing = f"the Python module '{last['module']}' is not installed"
        raise MissingExtra("to build engines with TensorRT-RTX", missing, 'pip install "cascadert[rtx]"')
    if last.get("kind") == "refused":
        raise RefusedGraph(last["by"], tuple(Fault(**fault) for fault in last["faults"]))
    raise _crash(subject, status, noise.read_text(encoding="utf-8", errors="replace"))


@contextmanager
def _worker(folder: Path, noise: Path) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """Start the worker; yields it and the lines it reports. Whatever happens, it is gone afterwards."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-X", "faulthandler", "-m", "cascadert.engines.worker", "request.json", str(theirs)]
    # The worker finds the same packages as this process, wherever it was started from.
    environment = {**os.environ, USE_RTX: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with os.fdopen(ours, encoding="utf-8") as lines, noise.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs,),
            )
        finally:
            os.close(theirs)
        try:
            yield process, lines
        finally:
            process.kill()
            process.wait()


@contextmanager
def _deadline(process: subprocess.Popen[bytes], timeout_s: float) -> Iterator[threading.Event]:
    """Kill the process after `timeout_s`; the event tells whether that happened."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(timeout_s, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def _crash(subject: str, status: int, noise: str) -> BuildError:
    said = [line.strip() for line in noise.splitlines() if line.strip()]
    if status < 0:
        name = signal.Signals(-status).name
        last = f" after '{said[0][:200]}'" if said else ""
        advice = "free memory and try again" if name == "SIGKILL" else "report it with the bundle that caused it"
        return BuildError(subject, f"the build process was ended by {name}{last}", advice)
    last = said[-1][:300] if said else "without a word"
    return BuildError(subject, f"the build process stopped with status {status}: {last}", "report it with this message")
