"""One frame on its way through a cascade, stage by stage: what is there so far, what each decision picked, who runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import FRAME, BundleManifest, SelectEntry, StageEntry
from cascadert.runtime.selection import Decider
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy
from cascadert.stage_spec import LABELS

Array = NDArray[Any]
Planes = Mapping[str, Array]


class Walk:
    """Tensors of one frame by `stage.output`, and the blocks that each decision picked, int32 `[n]`, by its stage.

    Of a stage that runs as a whole, n is 1 or 0.

    Args:
        planes: of the port `frame`, uint8 `[N, H, W, C]` each.
    """

    def __init__(self, planes: Planes) -> None:
        self.tensors: dict[str, Array] = {name: np.ascontiguousarray(plane) for name, plane in planes.items()}
        self.selected: dict[str, NDArray[np.int32]] = {}

    def inputs(self, stage: StageEntry, policy: SelectPolicy | None) -> dict[str, Array] | None:
        """Decide about a stage and return its inputs by name, or none where it is skipped.

        A stage is skipped where a tensor that it reads is absent, and where its decision, or the one that it follows,
        picks no block. Others may stand for its outputs then; what nothing stands for is absent.
        """
        lacking = any(entry.source not in self.tensors for entry in stage.inputs)
        if stage.select is not None and policy is not None:
            nothing = np.empty(0, np.int32)
            self.selected[stage.name] = nothing if lacking else self._choose(stage, stage.select, policy)
        chosen = self.selected.get(stage.follows or stage.name)
        if lacking or (chosen is not None and not len(chosen)):
            skipped = {output.name: output.when_skipped for output in stage.outputs if output.when_skipped is not None}
            self.add(stage.name, {name: self.tensors[s] for name, s in skipped.items() if s in self.tensors})
            return None
        n = None if chosen is None else len(chosen)
        return {i.name: self.tensors[i.source][:n] if i.prefix else self.tensors[i.source] for i in stage.inputs}

    def add(self, stage: str, outputs: Mapping[str, Array]) -> None:
        """Add what a stage made."""
        self.tensors.update({f"{stage}.{name}": value for name, value in outputs.items()})

    def _choose(self, stage: StageEntry, select: SelectEntry, policy: SelectPolicy) -> NDArray[np.int32]:
        scores = self.tensors.get(select.scores)
        if scores is None:  # the stage that makes them was skipped
            return np.empty(0, np.int32)
        if not isinstance(policy, ThresholdPolicy | TopKPolicy):  # n depends on time, and numbers do not
            policy = TopKPolicy(k=-(-len(scores) // 4))
        n = Decider(len(scores)).choose(policy, scores)
        blocks: NDArray[np.int32] = self.tensors[select.order][: n if refines_blocks(stage) else min(n, 1)]
        return blocks


def refines_blocks(stage: StageEntry) -> bool:
    """Whether a stage sees the first n blocks; any other stage runs as a whole, or not at all."""
    return any(entry.prefix for entry in stage.inputs)


def labelled_stages(manifest: BundleManifest) -> tuple[str, ...]:
    """Name the stages that make labels: the first of them always runs, those of the last are the frame's."""
    return tuple(stage.name for stage in manifest.stages if any(output.name == LABELS for output in stage.outputs))


def undecided_stages(manifest: BundleManifest) -> frozenset[str]:
    """Name the stages that run on every frame whatever is decided, and on the same blocks."""
    found = {FRAME}
    for stage in manifest.stages:
        if stage.select is None and stage.follows is None and all(entry.producer in found for entry in stage.inputs):
            found.add(stage.name)
    return frozenset(found - {FRAME})
