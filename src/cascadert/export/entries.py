"""What the manifest says of an exported stage: its wiring, its network, and what it takes."""

from __future__ import annotations

from cascadert.bundle import InputEntry, MemoryEntry, NetworkEntry, OutputEntry, SelectEntry, StageEntry, stage_part
from cascadert.export.examples import Example, network_inputs
from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.networks import state_sha256
from cascadert.export.stages import Stage
from cascadert.export.stages.fronts import INDICES
from cascadert.graph import Graph, TensorSpec
from cascadert.spec import CascadeSpec
from cascadert.stage_spec import LABELS, ORDER, SCORES, NetworkSpec


def describe_network(spec: CascadeSpec, stage: Stage, example: Example, random_weights: int | None) -> NetworkEntry:
    """Record where the network came from and what it costs on one frame or one block."""
    origin = network_origin(spec, stage)
    shapes = tuple(_of_one_block(stage, tuple(tensor.shape)) for tensor in network_inputs(stage, example))
    return NetworkEntry(
        model=origin.model,
        part=stage.spec.part,
        args=origin.args,
        weights=origin.weights,
        random_seed=random_weights if origin.weights is None else None,
        state_sha256=state_sha256(stage.network),
        parameters=count_parameters(stage.network),
        macs=count_macs(stage.network, *shapes),
        input_shapes=shapes,
    )


def network_origin(spec: CascadeSpec, stage: Stage) -> NetworkSpec:
    """Return the network that a stage takes, or takes a part of."""
    own = stage.spec
    if own.model is not None:
        return NetworkSpec(name=own.name, model=own.model, args=own.args, weights=own.weights)
    return next(network for network in spec.networks if network.name == own.network)


def stage_entry(
    spec: CascadeSpec, stage: Stage, graph: Graph, network: NetworkEntry, memory: MemoryEntry
) -> StageEntry:
    """Return the manifest's entry of a stage."""
    stand_in = spec.stand_in(stage.name)
    return StageEntry(
        name=stage.name,
        graph=stage_part(stage.name, graph),
        inputs=tuple(_input_entry(tensor, stage) for tensor in graph.inputs),
        outputs=tuple(_output_entry(tensor, stand_in) for tensor in graph.outputs),
        select=_select_entry(spec, stage),
        follows=stage.wiring.rows_of if stage.spec.select is None else None,
        speculative=stage.spec.speculate,
        network=network,
        memory=memory,
    )


def _select_entry(spec: CascadeSpec, stage: Stage) -> SelectEntry | None:
    policy, after = stage.spec.select, stage.wiring.after
    if policy is None:
        return None
    unit = next(other.score.unit for other in spec.stages if other.name == after)
    return SelectEntry(scores=f"{after}.{SCORES}", order=f"{after}.{ORDER}", unit=unit, policy=policy)


def _input_entry(tensor: TensorSpec, stage: Stage) -> InputEntry:
    source, rows_of = stage.sources[tensor.name], stage.wiring.rows_of
    return InputEntry(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        source=source,
        prefix=tensor.name == INDICES or (rows_of is not None and source.startswith(f"{rows_of}.")),
    )


def _output_entry(tensor: TensorSpec, stand_in: str | None) -> OutputEntry:
    skipped = stand_in if tensor.name == LABELS else None
    return OutputEntry(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, when_skipped=skipped)


def _of_one_block(stage: Stage, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape[1:]) if stage.wiring.input == "blocks" else shape
