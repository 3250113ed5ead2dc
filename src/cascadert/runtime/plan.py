"""What the scheduler needs to know of a manifest: who makes, reads, skips and decides what. Names no system."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cascadert.bundle import FRAME, BundleManifest, StageEntry, TensorEntry
from cascadert.device import NUMPY_TYPES
from cascadert.errors import BundleError
from cascadert.graph import DType

LABELS = "labels"


@dataclass(frozen=True)
class Tensor:
    """Type and shape of a tensor that lives in a slot, at its largest."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

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
    def outputs(self) -> tuple[tuple[str, str], ...]:
        """Each output's name at the graph's boundary, and its tensor's."""
        return tuple((output.name, tensor) for output, tensor in zip(self.entry.outputs, self.writes, strict=True))


@dataclass(frozen=True)
class Plan:
    """The stages in the order in which they are listed, every tensor, and which tensors the host reads."""

    stages: tuple[StagePlan, ...]
    planes: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    labels: str

    @cached_property
    def decision_tensors(self) -> frozenset[str]:
        """Scores and orders that decisions are read from: copied to the host where their stage ends."""
        return frozenset(name for stage in self.stages for name in stage.decides)

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


def make_plan(manifest: BundleManifest) -> Plan:
    """Read a manifest.

    Raises:
        BundleError: an output with a dynamic size, for which no slot can hold room.
    """
    stages = tuple(_stage_plan(entry) for entry in manifest.stages)
    planes = {i.source: _tensor(i.source, i) for s in manifest.stages for i in s.inputs if i.producer == FRAME}
    outputs = {f"{s.name}.{o.name}": o for s in manifest.stages for o in s.outputs}
    labelled = [s.name for s in manifest.stages if any(o.name == LABELS for o in s.outputs)]
    tensors = {name: _tensor(name, output) for name, output in outputs.items()}
    return Plan(stages, planes, tensors, f"{labelled[-1]}.{LABELS}")


def _stage_plan(entry: StageEntry) -> StagePlan:
    decides = () if entry.select is None else (entry.select.scores, entry.select.order)
    stand_ins = tuple(output.when_skipped for output in entry.outputs if output.when_skipped is not None)
    reads = tuple(item.source for item in entry.inputs)
    named = {source.split(".", 1)[0] for source in (*reads, *decides, *stand_ins)}
    writes = tuple(f"{entry.name}.{output.name}" for output in entry.outputs)
    return StagePlan(entry, frozenset(named - {FRAME}), reads, writes, decides)


def _tensor(name: str, entry: TensorEntry) -> Tensor:
    if any(isinstance(size, str) for size in entry.shape):
        raise BundleError(f"tensor '{name}'", f"has a dynamic size in {list(entry.shape)}", "export the bundle anew")
    return Tensor(name, entry.dtype, tuple(int(size) for size in entry.shape))
