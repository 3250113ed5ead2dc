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

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.calibration.sessions import open_session
from cascadert.errors import ExecutionError, GraphError
from cascadert.export.network import network_edges
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.export.stages import Stage
from cascadert.graph import Graph
from cascadert.runtime.selection import Decider
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy

Array = NDArray[Any]
Planes = Mapping[str, Array]
Policies = Mapping[str, SelectPolicy]

LOGITS = "logits"
"""Name of the network's output beside the ports of its stage: float32 `[n, K, h, w]`, as the network made it."""


class StageRunner(Protocol):
    """One stage that can be run at once, on arrays."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Map the stage's inputs to its outputs, and `LOGITS`."""
        ...


class GraphRunner:
    """A stage's graph of any lowering in ONNX Runtime.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        GraphError: ONNX Runtime refuses the graph, or the graph has no network.
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
        seen: list[torch.Tensor] = []
        watch = self._module.network.register_forward_hook(lambda _network, _inputs, logits: seen.append(logits))
        try:
            with torch.inference_mode():
                outputs = self._module(*(torch.tensor(inputs[name]) for name in self._module.input_names))
        finally:
            watch.remove()
        named = dict(zip(self._module.output_names, outputs, strict=True)) | {LOGITS: seen[-1].float()}
        return {name: tensor.numpy() for name, tensor in named.items()}


@dataclass(frozen=True)
class StageTrace:
    """One stage on one frame: its inputs, its outputs with `LOGITS`, and the blocks it refined, int32 `[n]`.

    A first stage refines none: it sees whole frames.
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
        known: outputs of stages that ran on this frame already and depend on no decision.
    """
    tensors: dict[str, Array] = {name: np.ascontiguousarray(plane) for name, plane in planes.items()}
    traces: dict[str, StageTrace] = {}
    selected: dict[str, NDArray[np.int32]] = {}
    labels = ""
    for stage in manifest.stages:
        chosen = _choose(stage, tensors, policies)
        if chosen is not None:
            selected[stage.name] = chosen
        if chosen is not None and not len(chosen):
            skipped = {o.name: tensors[o.when_skipped] for o in stage.outputs if o.when_skipped is not None}
            tensors.update({f"{stage.name}.{name}": value for name, value in skipped.items()})
            continue
        inputs = {i.name: chosen if chosen is not None and i.prefix else tensors[i.source] for i in stage.inputs}
        outputs = known[stage.name] if stage.name in known else runners[stage.name].run(inputs)
        traces[stage.name] = StageTrace(inputs, outputs, chosen)
        tensors.update({f"{stage.name}.{name}": value for name, value in outputs.items()})
        labels = f"{stage.name}.labels" if "labels" in outputs else labels
    return CascadeTrace(traces, selected, tensors[labels])


def _choose(stage: StageEntry, tensors: Mapping[str, Array], policies: Policies) -> NDArray[np.int32] | None:
    if stage.select is None:
        return None
    scores = tensors.get(stage.select.scores)
    if scores is None:  # the stage that makes them was skipped
        return np.empty(0, np.int32)
    policy = policies[stage.name]
    if not isinstance(policy, ThresholdPolicy | TopKPolicy):  # n depends on time, and numbers do not
        policy = TopKPolicy(k=-(-len(scores) // 4))
    blocks: NDArray[np.int32] = tensors[stage.select.order][: Decider(len(scores)).choose(policy, scores)]
    return blocks


def _with_logits(graph: Graph) -> Graph:
    """Let a graph hand out what its network makes, too."""
    model = model_from_graph(graph)
    _, logits = network_edges(model)
    if len(logits) != 1:
        found = f"has {len(logits)} outputs of floating point"
        raise GraphError("the network", found, "a stage is made of a network that returns its logits")
    model.graph.outputs.append(logits[0])
    return graph_from_model(model, graph.dialect)
