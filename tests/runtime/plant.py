"""A cascade without networks, for tests of the scheduler: stages in numpy that notice when they are disturbed.

Every stage reads its inputs, lets others run, and looks whether they are still the same; it writes its outputs in two
halves. What it computes depends on the frame, so that a tensor of another frame shows in the labels.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cascadert.bundle import BundleManifest, InputEntry, OutputEntry, SelectEntry, StageEntry
from cascadert.device import Buffer, Stream
from cascadert.executable import check_bindings
from cascadert.runtime.devices.host import HostDevice, WorkerStream
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy, parse_spec

H, W, BLOCKS, K = 4, 8, 8, 4
SHAPES: dict[str, tuple[int | str, ...]] = {
    "labels": (1, H, W), "scores": (BLOCKS,), "order": (BLOCKS,), "features": (16,), "rows": ("n", 4),
}  # fmt: skip
TYPES = {"labels": "uint8", "scores": "float32", "order": "int32", "features": "float32", "rows": "float32"}

Compute = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Disturbed(Exception):
    """An input changed while its stage was reading it."""


@dataclass
class Jitter:
    """Random delays: `likelihood` of one, up to `longest_s`."""

    seed: int = 0
    likelihood: float = 0.0
    longest_s: float = 0.0
    slow: dict[str, float] = field(default_factory=dict)

    def of(self, name: str) -> Callable[[], None]:
        """Return the delays of one stream or stage."""
        chance, always = random.Random(f"{self.seed} {name}"), self.slow.get(name, 0.0)

        def delay() -> None:
            seconds = always
            if chance.random() < self.likelihood:
                seconds += chance.random() * self.longest_s
            if seconds:
                time.sleep(seconds)

        return delay


class JitteryStream(WorkerStream):
    """A stream that is late with everything: stages, copies and notices."""

    delay: Callable[[], None] = staticmethod(lambda: None)

    def submit(self, work: Callable[[], None]) -> None:
        def late() -> None:
            self.delay()
            work()

        super().submit(late)

    def notify(self, notice: Any) -> None:
        def late(error: BaseException | None) -> None:
            self.delay()
            notice(error)

        super().notify(late)


@dataclass
class JitteryDevice(HostDevice):
    """The host, with late streams."""

    jitter: Jitter = field(default_factory=Jitter)

    def create_stream(self, name: str, priority: int = 0, cpus: frozenset[int] | None = None) -> JitteryStream:
        stream = JitteryStream(name, priority, cpus)
        stream.delay = self.jitter.of(name)
        return stream


class PlantedStage:
    """An executable around a function of arrays; `disturbed` lists what it noticed, also where nobody waits for it."""

    def __init__(self, entry: StageEntry, compute: Compute, delay: Callable[[], None] = lambda: None) -> None:
        self.name, self._compute, self._delay = entry.name, compute, delay
        self.inputs = tuple(item.spec() for item in entry.inputs)
        self.outputs = tuple(item.spec() for item in entry.outputs)
        self.runs, self.closed = 0, False
        self.disturbed: list[str] = []

    def blocks(self, n: int) -> int:
        return n

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        check_bindings(self.name, (*self.inputs, *self.outputs), bindings)
        arrays = {name: buffer.host for name, buffer in bindings.items()}
        stream.submit(lambda: self._run(arrays))

    def _run(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.runs += 1
        seen = {spec.name: arrays[spec.name].copy() for spec in self.inputs}
        self._delay()
        for name, before in seen.items():
            if not np.array_equal(before, arrays[name]):
                self.disturbed.append(name)
                raise Disturbed(f"{self.name}: {name}")
        for name, value in self._compute(seen).items():
            flat, half = arrays[name].reshape(-1), arrays[name].size // 2
            flat[:half] = np.asarray(value).reshape(-1)[:half]
            self._delay()
            flat[half:] = np.asarray(value).reshape(-1)[half:]

    def close(self) -> None:
        self.closed = True


def entry(
    name: str, reads: Mapping[str, str], writes: Mapping[str, str | None], select: tuple[str, str] | None = None,
    theta: float = 0.5, *, follows: str | None = None, speculative: bool = False,
) -> StageEntry:  # fmt: skip
    """Describe a stage: `reads` maps inputs to sources, of which orders and rows are prefixes; `writes` outputs to
    stand-ins.
    """
    inputs = []
    for port, source in reads.items():
        kind = source.split(".")[-1]
        if source == "frame":
            item = InputEntry(name=port, dtype="uint8", shape=(1, H, W, 3), source=source)
        elif kind == "order":
            item = InputEntry(name=port, dtype="int32", shape=("n",), source=source, prefix=True)
        else:
            item = InputEntry(name=port, dtype=TYPES[kind], shape=SHAPES[kind], source=source, prefix=kind == "rows")
        inputs.append(item)
    outputs = [OutputEntry(name=o, dtype=TYPES[o], shape=SHAPES[o], when_skipped=s) for o, s in writes.items()]
    policy = ThresholdPolicy(theta=theta)
    decision = None if select is None else SelectEntry(scores=select[0], order=select[1], policy=policy)
    return StageEntry.model_construct(
        name=name, graph=None, inputs=tuple(inputs), outputs=tuple(outputs), select=decision, network=None,
        follows=follows, speculative=speculative,
    )  # fmt: skip


def manifest(*stages: StageEntry) -> BundleManifest:
    """Return a manifest of planted stages; what belongs to networks is not there."""
    spec = parse_spec(
        {
            "name": "plant",
            "classes": {"names": list("abcd"), "palette": [[i, i, i] for i in range(K)]},
            "frame": {"height": H, "width": W},
            "grid": {"block": [2, 2]},
            "stages": [{"name": "any", "model": "enet"}],
        },
        "plant",
    )
    return BundleManifest.model_construct(spec=spec, spec_folder="", stages=stages)


def frame(number: int) -> np.ndarray:
    """A frame that is like no other, uint8 `[1, H, W, 3]`."""
    return np.random.default_rng(number).integers(0, 250, (1, H, W, 3), np.uint8)


def fast(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels and scores of a frame."""
    image = next(iter(inputs.values())).astype(np.int64)
    blocks = image.sum(axis=-1).reshape(BLOCKS, -1).sum(axis=1)
    values = (blocks % 97 / 97).astype(np.float32)
    order = np.argsort(-values, kind="stable").astype(np.int32)
    return {"labels": (image.sum(axis=-1) % K).astype(np.uint8), "scores": values[order], "order": order}


def refine(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels that depend on the frame, on the blocks and on the labels before."""
    image, indices, prior = inputs["frame"].astype(np.int64), inputs["indices"], inputs["prior_labels"]
    mark = int(image.sum()) + int((indices * np.arange(1, len(indices) + 1)).sum())
    return {"labels": ((prior.astype(np.int64) * 3 + mark) % 251).astype(np.uint8)}


def rescore(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`refine`, and new scores for the blocks it refined; minus infinity for the others."""
    values = np.full(BLOCKS, -np.inf, np.float32)
    indices = inputs["indices"]
    values[indices] = (indices * 31 + int(inputs["frame"].astype(np.int64).sum())) % 89 / 89
    order = np.argsort(-values, kind="stable").astype(np.int32)
    return {**refine(inputs), "scores": values[order], "order": order}


FAST = entry("fast", {"frame": "frame"}, {"labels": None, "scores": None, "order": None})


def refining(name: str, before: str, *, rescores: bool = False) -> StageEntry:
    """A stage that refines blocks by the scores of the one before."""
    reads = {"frame": "frame", "indices": f"{before}.order", "prior_labels": f"{before}.labels"}
    writes: dict[str, str | None] = {"labels": f"{before}.labels"}
    return entry(
        name, reads, {**writes, "scores": None, "order": None} if rescores else writes,
        (f"{before}.scores", f"{before}.order"),
    )  # fmt: skip


TWO = manifest(FAST, refining("accurate", "fast"))
THREE = manifest(FAST, refining("middle", "fast", rescores=True), refining("accurate", "middle"))
COMPUTE: dict[str, Compute] = {"fast": fast, "accurate": refine, "middle": rescore}


def planted(plan: BundleManifest, jitter: Jitter | None = None) -> dict[str, PlantedStage]:
    """The executables of a planted manifest."""
    jitter = jitter or Jitter()
    return {s.name: PlantedStage(s, COMPUTE[s.name], jitter.of(f"inside {s.name}")) for s in plan.stages}


def expected(
    plan: BundleManifest, image: np.ndarray, policies: Mapping[str, SelectPolicy]
) -> tuple[np.ndarray, list[int]]:
    """Labels and every n, computed one stage after the other."""
    found = fast({"frame": image})
    labels, counts = found["labels"], []
    for stage in plan.stages[1:]:
        scores = found.get("scores", np.empty(0, np.float32))
        policy = policies[stage.name]
        if isinstance(policy, TopKPolicy):
            n = min(policy.k, int(np.isfinite(scores).sum()))
        else:
            n = int((scores > np.float32(policy.theta)).sum())
        counts.append(n)
        if n:
            inputs = {"frame": image, "indices": found["order"][:n], "prior_labels": labels}
            found = COMPUTE[stage.name](inputs)
            labels = found["labels"]
        else:
            found = {}
    return labels, counts
