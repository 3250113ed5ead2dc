"""What can go wrong in a planted cascade, when it is told to; and what became of every frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.device import Buffer, Stream
from cascadert.errors import CascadertError, NoResultYet, PipelineBroken
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.spec import ThresholdPolicy
from tests.runtime.plant import COMPUTE, TWO, PlantedStage, expected, frame

LONG_S, SHORT_S = 30.0, 0.05
ALWAYS, NEVER = ThresholdPolicy(theta=-1.0), ThresholdPolicy(theta=2.0)
SETUPS = [(mode, unified) for mode in ("overlapped", "serial") for unified in (True, False)]

Act = Callable[[int], None]


def numbered(number: int) -> np.ndarray:
    """A frame whose first value is its number, uint8 `[1, H, W, 3]`."""
    image = frame(number)
    image.flat[0] = number
    return image


def wanted(number: int) -> np.ndarray:
    """Its labels where every block is refined."""
    return expected(TWO, numbered(number), {"accurate": ALWAYS})[0]


def nothing(number: int) -> None:
    """Nothing goes wrong."""


@dataclass
class Raise:
    """Raise an error on some frames; on every one where none is named."""

    error: Callable[[], Exception] = lambda: ValueError("burnt")
    on: tuple[int, ...] = ()

    def __call__(self, number: int = 0) -> None:
        if number in self.on or not self.on:
            raise self.error()


@dataclass
class Hold:
    """Hold some frames until they are released; every one where none is named."""

    on: tuple[int, ...] = ()
    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, number: int) -> None:
        if number in self.on or not self.on:
            self.entered.set()
            assert self.released.wait(4 * LONG_S), "nobody released it"


@dataclass(frozen=True)
class Faults:
    """Called with the number of the frame: while a stage runs, and when it is queued (frames counted from 0 there)."""

    running: Mapping[str, Act] = field(default_factory=dict)
    queueing: Mapping[str, Act] = field(default_factory=dict)


class FaultyStage(PlantedStage):
    """A planted stage with faults."""

    def __init__(self, entry: StageEntry, faults: Faults) -> None:
        super().__init__(entry, COMPUTE[entry.name])
        self.queued = 0
        self._queueing, self._running = (acts.get(entry.name, nothing) for acts in (faults.queueing, faults.running))

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        number, self.queued = self.queued, self.queued + 1
        self._queueing(number)
        super().enqueue(bindings, stream)

    def _run(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._running(int(arrays["frame"].flat[0]))
        super()._run(arrays)


def faulty_pipeline(
    setup: tuple[str, bool] = ("overlapped", True), faults: Faults = Faults(), *, device: HostDevice | None = None,
    manifest: BundleManifest = TWO, **options: Any,
) -> Pipeline:  # fmt: skip
    """Open the planted cascade with faults."""
    mode, unified = setup
    stages = {entry.name: FaultyStage(entry, faults) for entry in manifest.stages}
    pipeline = Pipeline(
        manifest, stages, device or HostDevice(unified), RuntimeOptions(mode, **{"timeout_s": LONG_S, **options})
    )
    for entry in manifest.stages[1:]:
        pipeline.set_policy(entry.name, ALWAYS)
    return pipeline


@dataclass(frozen=True)
class Fate:
    """What became of a frame."""

    number: int
    error: CascadertError | None = None

    @property
    def name(self) -> str:
        """In a word."""
        return "delivered" if self.error is None else type(self.error).__name__


def take(pipeline: Pipeline) -> Fate:
    """Take the next result; what was delivered must be right."""
    try:
        result = pipeline.next(LONG_S)
    except NoResultYet:
        raise
    except CascadertError as error:
        if error.ticket is None:  # not of a frame
            raise
        return Fate(error.ticket.number, error)
    assert np.array_equal(result.labels, wanted(result.ticket.context)), f"labels of frame {result.ticket.number}"
    return Fate(result.ticket.number)


def submit(pipeline: Pipeline, number: int, **options: Any) -> None:
    """Submit a numbered frame."""
    pipeline.submit(numbered(number), context=number, **options)


def run(pipeline: Pipeline, numbers: Iterable[int], fates: list[Fate] | None = None) -> list[Fate]:
    """Submit frames as far ahead as there is room, and take their results; add them to `fates` as they come."""
    fates = [] if fates is None else fates
    for number in numbers:
        while True:
            try:
                submit(pipeline, number, timeout_s=0.0)
                break
            except NoResultYet:
                fates.append(take(pipeline))
    while pipeline.counts.in_flight:
        fates.append(take(pipeline))
    return fates


def fill(pipeline: Pipeline, first: int = 0) -> int:
    """Submit frames until there is no room for more, or until the pipeline breaks; return how many there are."""
    number = first
    try:
        while True:
            submit(pipeline, number, timeout_s=SHORT_S)
            number += 1
    except (NoResultYet, PipelineBroken):
        return number - first


def names(fates: Iterable[Fate]) -> list[str]:
    """What became of frames, in a word each."""
    return [fate.name for fate in fates]


def our_threads() -> set[str]:
    """Names of the threads of all pipelines."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("cascadert-")}


def soon(condition: Callable[[], bool]) -> bool:
    """Wait until something holds; say whether it did."""
    end = time.monotonic() + LONG_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


@contextmanager
def background(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run something in a thread; yield a list that will hold what it returned or raised. Ends with the thread."""
    found: list[Any] = []

    def catch() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        thread.join(LONG_S)
        assert not thread.is_alive(), "it waits for ever"
