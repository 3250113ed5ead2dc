"""Run a cascade stage by stage on the host and keep everything: what each stage was given, made, and decided.

A pipeline is built for speed and hands out labels. To compare precisions takes more: the logits of the network inside
a stage, and any stage on the very inputs of another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest
from cascadert.calibration.sessions import open_session
from cascadert.calibration.walk import Array, Planes, Walk, labelled_stages, refines_blocks
from cascadert.errors import ExecutionError
from cascadert.export.network import ends_of_logits
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.export.stages import Stage
from cascadert.graph import Graph
from cascadert.spec import SelectPolicy
from cascadert.stage_spec import LABELS, LOGITS, OF_LOGITS, SCORES

__all__ = [
    "LOGITS",
    "Array",
    "CascadeTrace",
    "GraphRunner",
    "ModuleRunner",
    "Planes",
    "Policies",
    "StageRunner",
    "StageTrace",
    "run_cascade",
    "signals",
]

Policies = Mapping[str, SelectPolicy]


class StageRunner(Protocol):
    """One stage that can be run at once, on arrays."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Map the stage's inputs to its outputs; to them come `LOGITS` as the network made them, `[n, K, h, w]`.

        There are none where labels and scores are not made of a network's logits: of a stage that only carries, or of
        one that has no weights.
        """
        ...


class GraphRunner:
    """A stage's graph of any lowering in ONNX Runtime.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        GraphError: ONNX Runtime refuses the graph.
    """

    def __init__(self, name: str, graph: Graph, threads: int = 0) -> None:
        with_logits = _with_logits(graph)
        self._session = open_session(f"stage '{name}'", with_logits.onnx, threads)
        self._name, self._outputs = name, [output.name for output in with_logits.outputs]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph; see `StageRunner`.

        Raises:
            ExecutionError: ONNX Runtime fails on these inputs.
        """
        try:
            found = self._session.run(self._outputs, dict(inputs))
        except Exception as error:
            subject, remedy = f"stage '{self._name}'", "check the frames and the bundle"
            raise ExecutionError(subject, f"ONNX Runtime failed: {error}", remedy) from error
        return dict(zip(self._outputs, found, strict=True))


class ModuleRunner:
    """The torch module a stage was exported from."""

    def __init__(self, module: Stage) -> None:
        self._module = module

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the module; see `StageRunner`."""
        seen: list[Any] = []
        watch = self._module.network.register_forward_hook(lambda _network, _inputs, answer: seen.append(answer))
        try:
            with torch.inference_mode():
                outputs = self._module(*(torch.tensor(inputs[name]) for name in self._module.input_names))
        finally:
            watch.remove()
        named = dict(zip(self._module.output_names, outputs, strict=True))
        if self._module.back is not None:
            named[LOGITS] = self._module.named(seen[-1])[LOGITS]
        return {name: tensor.numpy() for name, tensor in named.items()}


@dataclass(frozen=True)
class StageTrace:
    """One stage on one frame: its inputs, its outputs with `LOGITS`, and the blocks that it saw, int32 `[n]`.

    A stage that runs as a whole saw none.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    selected: NDArray[np.int32] | None


@dataclass(frozen=True)
class CascadeTrace:
    """One frame through a cascade: stages that ran, by name; blocks each decision picked; labels `[N, H, W]` uint8."""

    stages: Mapping[str, StageTrace]
    selected: Mapping[str, NDArray[np.int32]]
    labels: NDArray[np.uint8]


def run_cascade(
    manifest: BundleManifest,
    runners: Mapping[str, StageRunner],
    planes: Planes,
    policies: Policies,
    known: Mapping[str, Mapping[str, Array]],
) -> CascadeTrace:
    """Run every stage on its own decisions.

    Args:
        manifest: how the stages are wired.
        runners: each stage, by name.
        planes: of the port `frame`, uint8 `[N, H, W, C]` each.
        policies: of each decision, by its stage; one that depends on time refines a quarter of the blocks.
        known: outputs of stages that ran on this frame already and see nothing but the frame.
    """
    walk, traces = Walk(planes), dict[str, StageTrace]()
    for stage in manifest.stages:
        inputs = walk.inputs(stage, None if stage.select is None else policies[stage.name])
        if inputs is None:
            continue
        outputs = known[stage.name] if stage.name in known else runners[stage.name].run(inputs)
        blocks = walk.selected[stage.follows or stage.name] if refines_blocks(stage) else None
        traces[stage.name] = StageTrace(inputs, outputs, blocks)
        walk.add(stage.name, outputs)
    return CascadeTrace(traces, walk.selected, walk.tensors[f"{labelled_stages(manifest)[-1]}.{LABELS}"])


def signals(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the noise of a stage is measured on: its network's logits, and each tensor that it carries.

    Where there is neither it is the scores, finite ones.
    """
    carried = {name: a for name, a in outputs.items() if a.dtype == np.float32 and name not in OF_LOGITS}
    found = {LOGITS: outputs[LOGITS], **carried} if LOGITS in outputs else carried
    if not found and SCORES in outputs:
        found = {SCORES: np.nan_to_num(outputs[SCORES], neginf=0.0)}
    return found


def _with_logits(graph: Graph) -> Graph:
    """Let a graph hand out what its network makes, too."""
    model = model_from_graph(graph)
    logits = ends_of_logits(model)[:1]
    model.graph.outputs.extend(value for value in logits if value not in model.graph.outputs)
    return graph_from_model(model, graph.dialect)
