"""Random cascades: any graph of planted stages, what they compute, and what comes of it one stage after the other.

Every output depends on every bit of every input, so that a tensor of another frame, of another n or of a stage that was
skipped shows in the labels.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.device import Buffer, Stream
from cascadert.errors import ExecutionError
from cascadert.spec import SelectPolicy, TopKPolicy
from tests.runtime.plant import BLOCKS, SHAPES, Jitter, PlantedStage, entry, manifest

Arrays = dict[str, np.ndarray]


def compute(stage: StageEntry, inputs: Arrays) -> Arrays:
    """Outputs of a stage, by the digest of its inputs."""
    digest = zlib.crc32(stage.name.encode())
    for name in sorted(inputs):
        digest = zlib.crc32(inputs[name].tobytes(), digest)
    chance = np.random.default_rng(digest)
    counted = [inputs[item.name] for item in stage.inputs if item.prefix]
    n = len(counted[0]) if counted else BLOCKS
    found: Arrays = {}
    for output in stage.outputs:
        shape = tuple(n if size == "n" else int(size) for size in SHAPES[output.name])
        if output.name == "labels":
            found["labels"] = chance.integers(0, 251, shape, np.uint8)
        elif output.name in ("features", "rows"):
            found[output.name] = chance.random(shape, np.float32)
    if any(output.name == "scores" for output in stage.outputs):
        found |= scored(inputs["indices"] if "indices" in inputs and stage.select else np.arange(BLOCKS), chance)
    return found


def scored(indices: np.ndarray, chance: np.random.Generator) -> Arrays:
    """Scores of some blocks, sorted; minus infinity for the others."""
    values = np.full(BLOCKS, -np.inf, np.float32)
    values[indices] = chance.random(len(indices), np.float32)
    order = np.argsort(-values, kind="stable").astype(np.int32)
    return {"scores": values[order], "order": order}


class WildStage(PlantedStage):
    """An executable that takes multiples of a number of blocks, as far as there are blocks, and nothing else."""

    def __init__(self, stage: StageEntry, jitter: Jitter, multiple: int = 1) -> None:
        super().__init__(stage, lambda inputs: compute(stage, inputs), jitter.of(f"inside {stage.name}"))
        self._counted = next((item.name for item in stage.inputs if item.prefix), None)
        self._multiple = multiple

    def blocks(self, n: int) -> int:
        return n if self._counted is None else min(BLOCKS, -(-n // self._multiple) * self._multiple)

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        if self._counted is not None and self.blocks(n := bindings[self._counted].shape[0]) != n:
            raise ExecutionError(f"stage '{self.name}'", f"was not built for {n} blocks", "round them up")
        super().enqueue(bindings, stream)


@dataclass
class Wild:
    """A random cascade; `multiples` says what its executables take."""

    manifest: BundleManifest
    multiples: dict[str, int]

    @staticmethod
    def grow(chance: random.Random) -> Wild:
        """Return a cascade of three to seven stages."""
        grower = _Grower(chance)
        for number in range(chance.randint(2, 6)):
            grower.add(f"s{number}")
        multiples = {stage.name: chance.choice([1, 1, 2, 3]) for stage in grower.stages}
        return Wild(manifest(*grower.stages), multiples)

    def stages(self, jitter: Jitter) -> dict[str, WildStage]:
        """The executables."""
        return {s.name: WildStage(s, jitter, self.multiples[s.name]) for s in self.manifest.stages}

    @property
    def deciding(self) -> list[str]:
        """Stages with a decision."""
        return [stage.name for stage in self.manifest.stages if stage.select is not None]

    def expected(self, image: np.ndarray, policies: Mapping[str, SelectPolicy]) -> Expected:
        """What comes of a frame."""
        found = Expected({"frame": image})
        for stage in self.manifest.stages:
            n = self._count(stage, found, policies)
            found.counts[stage.name] = n
            if n == 0:
                for output in stage.outputs:
                    stand_in = output.when_skipped
                    value, maker = found.tensors.get(stand_in), found.makers.get(stand_in)
                    found.put(f"{stage.name}.{output.name}", value, maker)
            else:
                inputs = {i.name: found.tensors[i.source][: n if i.prefix else None] for i in stage.inputs}
                for name, value in compute(stage, inputs).items():
                    found.put(f"{stage.name}.{name}", value, stage.name)
        return found

    def _count(self, stage: StageEntry, found: Expected, policies: Mapping[str, SelectPolicy]) -> int | None:
        if any(found.tensors[item.source] is None for item in stage.inputs):
            return 0
        if stage.follows is not None:
            return found.counts[stage.follows]
        if stage.select is None:
            return None
        scores = found.tensors[stage.select.scores]
        if scores is None:
            return 0
        policy = policies[stage.name]
        if isinstance(policy, TopKPolicy):
            n = min(policy.k, int(np.isfinite(scores).sum()))
        else:
            n = int((scores > np.float32(policy.theta)).sum())
        if not any(item.prefix for item in stage.inputs):
            return min(n, 1)
        group = [stage.name, *(other.name for other in self.manifest.stages if other.follows == stage.name)]
        taken = [m for m in range(n, BLOCKS + 1) if m == BLOCKS or all(m % self.multiples[name] == 0 for name in group)]
        return taken[0] if n else 0


@dataclass
class Expected:
    """Every tensor of a frame by its name (none: nothing stands for it), who made it, and every n."""

    tensors: dict[str, np.ndarray | None]
    makers: dict[str, str | None] = field(default_factory=dict)
    counts: dict[str, int | None] = field(default_factory=dict)

    def put(self, name: str, value: np.ndarray | None, maker: str | None) -> None:
        """Add a tensor."""
        self.tensors[name], self.makers[name] = value, maker

    @property
    def labels_from(self) -> str:
        """The stage that makes the result."""
        labelled = [name for name in self.makers if name.endswith(".labels") and self.makers[name] is not None]
        return str(self.makers[labelled[-1]])

    def labels_of(self, stage: str) -> np.ndarray | None:
        """What one stage makes of the frame, if it runs."""
        name = f"{stage}.labels"
        return self.tensors[name] if self.makers.get(name) == stage else None


class _Grower:
    """Adds stages, each of a kind that what is there allows."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.stages = [entry("root", {"frame": "frame"}, {"labels": None, "scores": None, "order": None})]
        self._tensors, self._scored, self._rows = ["root.labels"], ["root"], list[str]()

    def add(self, name: str) -> None:
        """Add a stage."""
        kinds = [self._of_frames, self._of_tensors, self._perhaps, self._perhaps, self._of_blocks]
        stage = self._chance.choice([*kinds, *([self._of_rows] * 3 if self._rows else [])])(name)
        self.stages.append(stage)
        made = {output.name for output in stage.outputs}
        self._tensors += [f"{name}.{kind}" for kind in ("labels", "features") if kind in made]
        self._scored += [name] if "scores" in made else []
        self._rows += [name] if "rows" in made else []

    def _of_frames(self, name: str) -> StageEntry:
        return entry(name, {"frame": "frame"}, dict.fromkeys(self._outputs()))

    def _of_tensors(self, name: str) -> StageEntry:
        return entry(name, self._reads(), self._outputs())

    def _perhaps(self, name: str) -> StageEntry:
        """A stage that sees no blocks, with a decision; often queued before it is made."""
        return entry(name, self._reads(), self._outputs(), self._select(), speculative=self._chance.random() < 0.7)

    def _of_blocks(self, name: str) -> StageEntry:
        scores, order = self._select()
        reads = {"frame": "frame", "indices": order, **self._reads()}
        return entry(name, reads, self._outputs() | {"rows": None}, (scores, order))

    def _of_rows(self, name: str) -> StageEntry:
        maker = self._chance.choice(self._rows)
        leader = next(stage.follows or stage.name for stage in self.stages if stage.name == maker)
        more = {"rows": None} if self._chance.random() < 0.5 else {}
        return entry(name, {"r": f"{maker}.rows", **self._reads()}, self._outputs() | more, follows=leader)

    def _reads(self) -> dict[str, str]:
        """One or two of the latest tensors."""
        return {f"x{i}": self._chance.choice(self._tensors[-4:]) for i in range(self._chance.randint(1, 2))}

    def _select(self) -> tuple[str, str]:
        scored = self._chance.choice(self._scored[-3:])
        return f"{scored}.scores", f"{scored}.order"

    def _outputs(self) -> dict[str, str | None]:
        """Labels, features, or both, for which something may stand; sometimes scores."""
        kinds = self._chance.choice([("labels",), ("features",), ("labels", "features")])
        outputs: dict[str, str | None] = {kind: self._stand_in(kind) for kind in kinds}
        return outputs | ({"scores": None, "order": None} if self._chance.random() < 0.5 else {})

    def _stand_in(self, kind: str) -> str | None:
        known = [tensor for tensor in self._tensors if tensor.endswith(kind)]
        return self._chance.choice(known) if known and self._chance.random() < 0.5 else None
