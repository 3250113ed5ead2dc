"""What the scheduler needs to know of a manifest: who makes, reads, skips and decides what. Names no system."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cascadert.bundle import FRAME, BundleManifest, StageEntry, TensorEntry
from cascadert.device import NUMPY_TYPES
from cascadert.errors import BundleError
from cascadert.graph import DType

LABELS = "labels"
_REMEDY = "export the bundle anew"


@dataclass(frozen=True)
class Tensor:
    """Type and shape of a tensor that lives in a slot, at its largest; of `rows` a frame fills the first n."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    rows: bool = False

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * np.dtype(NUMPY_TYPES[self.dtype]).itemsize


@dataclass(frozen=True)
class StagePlan:
    """One stage: `producers` must be queued or skipped before it, `decides` is what its decision is read from."""

    entry: StageEntry
    producers: frozenset[str]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    decides: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """The stage."""
        return self.entry.name

    @cached_property
    def subject(self) -> str:
        """The stage, as errors name it."""
        return f"stage '{self.name}'"

    @cached_property
    def outputs(self) -> tuple[tuple[str, str], ...]:
        """Each output's name at the graph's boundary, and its tensor's."""
        return tuple((output.name, tensor) for output, tensor in zip(self.entry.outputs, self.writes, strict=True))

    @cached_property
    def sources(self) -> frozenset[str]:
        """The stages that make what it reads."""
        return _producers(self.reads)

    @cached_property
    def decided_by(self) -> str | None:
        """The stage whose n it has: itself, the one that it follows, or none."""
        return self.name if self.entry.select is not None else self.entry.follows

    @cached_property
    def sees_blocks(self) -> bool:
        """Whether it sees the first n of something; otherwise it runs once, whatever n is."""
        return any(entry.prefix for entry in self.entry.inputs)

    @cached_property
    def scores_its_blocks_alone(self) -> bool:
        """Whether only the n blocks that it saw have a score in what it makes."""
        return self.sees_blocks and self.entry.select is not None


@dataclass(frozen=True)
class Plan:
    """The stages in the order in which they are listed, every tensor, and the labels of every stage that has some."""

    stages: tuple[StagePlan, ...]
    planes: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    labelled: tuple[str, ...]

    @property
    def labels(self) -> str:
        """The labels of the last stage that has some: the result, where it runs."""
        return self.labelled[-1]

    @cached_property
    def decision_tensors(self) -> frozenset[str]:
        """Scores and orders that decisions are read from: copied to the host where their stage ends."""
        return frozenset(name for stage in self.stages for name in stage.decides)

    @cached_property
    def followers(self) -> Mapping[str, tuple[str, ...]]:
        """For each stage that decides, all that have its n, itself the first."""
        deciding = [stage.name for stage in self.stages if stage.entry.select is not None]
        return {name: tuple(stage.name for stage in self.stages if stage.decided_by == name) for name in deciding}

    @cached_property
    def dependants(self) -> Mapping[str, tuple[str, ...]]:
        """For each stage that decides, all that run only if it does and decide nothing, itself the first."""
        return {name: self._depending_on(name) for name in self.followers}

    @cached_property
    def depth(self) -> int:
        """The longest chain of stages."""
        depth: dict[str, int] = {}
        for stage in self.stages:
            depth[stage.name] = 1 + max((depth[name] for name in stage.producers), default=0)
        return max(depth.values())

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot on a device of its own: the frame, and every output of every stage."""
        return sum(tensor.nbytes for tensor in (*self.planes.values(), *self.tensors.values()))

    def _depending_on(self, name: str) -> tuple[str, ...]:
        found, absent = [], set[str]()
        for stage in self.stages:
            if stage.decided_by == name or (stage.decided_by is None and not absent.isdisjoint(stage.reads)):
                found.append(stage.name)
                outputs = zip(stage.entry.outputs, stage.writes, strict=True)
                absent.update(tensor for output, tensor in outputs if output.when_skipped is None)
        return tuple(found)


def make_plan(manifest: BundleManifest) -> Plan:
    """Read a manifest.

    Raises:
        BundleError: a tensor of a dynamic size that is no row for each block, for which no slot can hold room; or rows
            that are read by a stage with another n.
    """
    blocks = manifest.spec.blocks
    stages = tuple(_stage_plan(entry) for entry in manifest.stages)
    planes = {i.source: _tensor(i.source, i, 0) for s in manifest.stages for i in s.inputs if i.producer == FRAME}
    outputs = {f"{s.name}.{o.name}": o for s in manifest.stages for o in s.outputs}
    tensors = {name: _tensor(name, output, blocks) for name, output in outputs.items()}
    plan = Plan(stages, planes, tensors, tuple(name for name in outputs if name.endswith(f".{LABELS}")))
    _check_rows(plan)
    return plan


def producer(tensor: str) -> str:
    """Return the stage that makes a tensor, or the frame."""
    return tensor.split(".", 1)[0]


def _producers(tensors: Iterable[str]) -> frozenset[str]:
    return frozenset(map(producer, tensors)) - {FRAME}


def _stage_plan(entry: StageEntry) -> StagePlan:
    decides = () if entry.select is None else (entry.select.scores, entry.select.order)
    stand_ins = tuple(output.when_skipped for output in entry.outputs if output.when_skipped is not None)
    reads = tuple(item.source for item in entry.inputs)
    followed = () if entry.follows is None else (entry.follows,)
    writes = tuple(f"{entry.name}.{output.name}" for output in entry.outputs)
    return StagePlan(entry, _producers((*reads, *decides, *stand_ins, *followed)), reads, writes, decides)


def _tensor(name: str, entry: TensorEntry, blocks: int) -> Tensor:
    """Return a tensor; of rows as many as there are blocks."""
    first, *others = entry.shape or (1,)
    if any(isinstance(size, str) for size in others) or (isinstance(first, str) and not blocks):
        found = f"has a dynamic size in {list(entry.shape)} that is no row for each block"
        raise BundleError(f"tensor '{name}'", found, _REMEDY)
    shape = entry.shape if isinstance(first, int) else (blocks, *others)
    return Tensor(name, entry.dtype, tuple(int(size) for size in shape), rows=isinstance(first, str))


def _check_rows(plan: Plan) -> None:
    decided_by = {stage.name: stage.decided_by for stage in plan.stages}
    rows = {name: decided_by[producer(name)] for name, tensor in plan.tensors.items() if tensor.rows}
    for name, decider in rows.items():
        if decider is None:
            raise BundleError(f"tensor '{name}'", "has rows, and nothing decides how many", _REMEDY)
    for stage in plan.stages:
        for entry in stage.entry.inputs:
            if entry.source in rows and not (entry.prefix and stage.decided_by == rows[entry.source]):
                raise BundleError(stage.subject, f"reads rows of '{entry.source}', whose n it does not have", _REMEDY)
