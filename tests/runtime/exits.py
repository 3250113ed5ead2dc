"""A chain of segments with an exit beside each: planted stages that a test can hold, fail and count."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.device import Buffer, Stream
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.job import Job
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Result
from tests.runtime.faults import LONG_S
from tests.runtime.plant import Jitter, entry, manifest
from tests.runtime.wild import Wild, WildStage

Act = Callable[[int], None]
Acts = Mapping[str, Act]
EXITS = 3
SCORED: dict[str, str | None] = {"scores": None, "order": None}


def chain(*, decided: bool) -> BundleManifest:
    """Segments and exits by turns; each segment but the first is decided about by the exit before, or none is."""
    stages: list[StageEntry] = []
    for number in range(1, EXITS + 1):
        before = {"x": f"seg{number - 1}.features"} if stages else {"frame": "frame"}
        select = (f"exit{number - 1}.scores", f"exit{number - 1}.order") if decided and stages else None
        labels = {"labels": f"exit{number - 1}.labels" if select else None}
        scores = SCORED if number < EXITS else {}
        stages += [
            entry(f"seg{number}", before, {"features": None}, select, speculative=select is not None),
            entry(f"exit{number}", {"x": f"seg{number}.features"}, labels | scores),
        ]
    return manifest(*stages)


CHAIN, ANYTIME = (
    Wild(plan, dict.fromkeys((stage.name for stage in plan.stages), 1))
    for plan in (chain(decided=True), chain(decided=False))
)


class ActingStage(WildStage):
    """A stage that does something of the test's, when it is queued and before it runs; runs are counted from 0."""

    def __init__(self, stage: StageEntry, running: Acts, queueing: Acts) -> None:
        super().__init__(stage, Jitter())
        self.queued = 0
        self._running, self._queueing = running.get(stage.name, _nothing), queueing.get(stage.name, _nothing)

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        number, self.queued = self.queued, self.queued + 1
        self._queueing(number)
        super().enqueue(bindings, stream)

    def _run(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._running(self.runs)
        super()._run(arrays)


@dataclass
class Simulated:
    """A clock that stands still."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Opening:
    """How to open a planted cascade."""

    running: Acts = field(default_factory=dict)
    queueing: Acts = field(default_factory=dict)
    setup: tuple[str, bool] = ("overlapped", True)
    device: HostDevice | None = None
    now: Callable[[], float] = time.perf_counter

    def __call__(self, wild: Wild, **options: Any) -> Pipeline:
        mode, unified = self.setup
        stages = {s.name: ActingStage(s, self.running, self.queueing) for s in wild.manifest.stages}
        options = {"timeout_s": LONG_S, **options}
        return Pipeline(
            wild.manifest, stages, self.device or HostDevice(unified), RuntimeOptions(mode, **options), now=self.now
        )


def outcomes(result: Result) -> dict[str, str]:
    """What became of every stage."""
    return {run.stage: run.outcome for run in result.runs}


def ended(job: Job) -> set[str]:
    """What has ended of a frame, whether that was heard of or not."""
    return {piece.name for piece in tuple(job.pieces) if piece.end.is_done}


def _nothing(number: int) -> None:
    """Nothing happens."""
