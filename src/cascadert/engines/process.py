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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cascadert.engines.build_request import REQUEST_FILE, BuildRequest
from cascadert.engines.inspection import LayerTypes
from cascadert.engines.recipe import EngineRecipe, TensorRTBackend
from cascadert.errors import BuildError, MissingExtra

Message = dict[str, Any]

_PRODUCTS: dict[TensorRTBackend, tuple[str, str]] = {
    "tensorrt-rtx": ("TensorRT-RTX", "rtx"),
    "tensorrt": ("TensorRT", "tensorrt"),
}
"""Name and extra of each builder."""

_LAYERS = TypeAdapter(tuple[LayerTypes, ...])


@dataclass(frozen=True)
class Fault:
    """One complaint of TensorRT.

    `node` is the ONNX node it named, empty where it named none; `index` the place of that node in the graph, which is
    all that TensorRT 8 tells, and -1 where it told none.
    """

    text: str
    node: str
    index: int = -1


class RefusedGraph(Exception):
    """TensorRT did not take the graph; `by` is "parser" or "builder", `product` the builder's name."""

    def __init__(self, by: str, faults: tuple[Fault, ...], product: str = "TensorRT-RTX") -> None:
        self.by, self.faults, self.product = by, faults, product
        super().__init__(f"{product}'s {by}: {faults}")


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and how it came to be.

    Attributes:
        engine: its bytes.
        seconds: how long TensorRT took.
        versions: what made it.
        timing_cache: what TensorRT timed, for the next build on the same device; none where it times nothing.
        log: TensorRT's warnings.
        network: types of the convolutions and products as TensorRT parsed them.
    """

    engine: bytes = field(repr=False)
    seconds: float
    versions: dict[str, str]
    timing_cache: bytes | None = field(default=None, repr=False)
    log: tuple[str, ...] = ()
    network: tuple[LayerTypes, ...] = ()


def run_worker(
    recipe: EngineRecipe,
    folder: Path,
    subject: str,
    timeout_s: float,
    on_progress: Callable[[Message], None],
    timing_cache: bytes | None = None,
    base: bytes | None = None,
) -> BuiltEngine:
    """Build one engine in a process of its own, or give one that was built other weights.

    Args:
        recipe: what to build.
        folder: a scratch folder for this build alone.
        subject: what is built, for messages.
        timeout_s: seconds after which the process is killed.
        on_progress: called with every progress message.
        timing_cache: of an earlier build on this device.
        base: the engine that takes the weights of the recipe's graph, in place of a build.

    Raises:
        RefusedGraph: TensorRT did not take the graph.
        BuildError: this TensorRT or device lacks what the recipe asks for, or the process crashed, was killed or took
            too long.
        MissingExtra: the recipe's TensorRT is not installed.
    """
    request = BuildRequest.write(recipe, folder, timing_cache, base)
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
        return _built(request, last)
    _raise_refusal(recipe.backend, subject, last)
    raise _crash(subject, status, noise.read_text(encoding="utf-8", errors="replace"))


def _built(request: BuildRequest, done: Message) -> BuiltEngine:
    times = Path(request.timing_cache)
    return BuiltEngine(
        engine=Path(request.engine).read_bytes(),
        seconds=done["seconds"],
        versions=done["versions"],
        timing_cache=times.read_bytes() if times.exists() else None,
        log=tuple(done["log"]),
        network=_LAYERS.validate_python(done["network"]),
    )


def _raise_refusal(backend: TensorRTBackend, subject: str, last: Message) -> None:
    product, extra = _PRODUCTS[backend]
    match last.get("kind"):
        case "missing":
            missing = f"the Python module '{last['module']}' is not installed"
            raise MissingExtra(f"to build engines with {product}", missing, f'pip install "cascadert[{extra}]"')
        case "unfit":
            raise BuildError(subject, last["found"], last["remedy"])
        case "refused":
            raise RefusedGraph(last["by"], tuple(Fault(**fault) for fault in last["faults"]), product)


@contextmanager
def _worker(folder: Path, noise: Path) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """Start the worker; yields it and the lines it reports. Whatever happens, it is gone afterwards."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-X", "faulthandler", "-m", "cascadert.engines.worker", REQUEST_FILE, str(theirs)]
    # The worker finds the same packages as this process, wherever it was started from.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
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
