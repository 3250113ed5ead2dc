"""`plan_memory`: what a cascade takes on a device, estimated before anything is built, and whether it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from cascadert.bundle import Bundle, BundleManifest, StageEntry
from cascadert.deployment import Deployment
from cascadert.engines.options import stage_precisions
from cascadert.engines.profiles import Target, load_target
from cascadert.engines.request import check_precision
from cascadert.errors import InvalidRequest
from cascadert.graph import Dialect, Graph
from cascadert.precision import PRECISIONS, Int8Dialect, Precision, QuantizationPlan
from cascadert.runtime.plan import make_plan

SHARED_RESERVE_BYTES = 2 << 30
"""Kept free where CPU and GPU share memory. Of 8 GiB an Orin Nano shows CUDA 7.4, Linux and a desktop take about one
more, and TensorRT's libraries with their CUDA context were seen to take 1.1 (forums.developer.nvidia.com/t/79158)."""

OWN_RESERVE_BYTES = 1 << 30
"""Kept free where the GPU has memory of its own: for TensorRT's kernels and CUDA context, and for a display."""

_FLOAT32_BYTES, _FLOAT16_BYTES, _INT8_BYTES = 4, 2, 1


@dataclass(frozen=True)
class StageMemory:
    """What one stage takes.

    Attributes:
        stage: its name.
        precision: what it computes in.
        weights_bytes: of the network.
        activation_bytes: between its operators, for one block; for a stage that sees whole frames, for one frame.
        largest_activation_bytes: the same for every block at once.
        quantized: share of the weights that int8 holds, where the stage's calibration says so; without one int8 counts
            as holding all of them.
    """

    stage: str
    precision: Precision
    weights_bytes: int
    activation_bytes: int
    largest_activation_bytes: int
    quantized: float | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """What a cascade takes: an estimate, without the scratch memory of a builder's kernels.

    Attributes:
        stages: in the order in which they run.
        blocks: the largest n.
        slot_bytes: of one frame in flight: its planes, and every output of every stage.
        slots: frames in flight.
        target: the target's name, if there is one.
        memory_bytes: of the smallest device of the target; none without one, and for a CPU.
        reserve_bytes: of it, kept for what is not the cascade's.
    """

    stages: tuple[StageMemory, ...]
    blocks: int
    slot_bytes: int
    slots: int
    target: str | None = None
    memory_bytes: int | None = None
    reserve_bytes: int = 0

    @property
    def precisions(self) -> Mapping[str, Precision]:
        """What each stage computes in."""
        return {stage.stage: stage.precision for stage in self.stages}

    @property
    def weights_bytes(self) -> int:
        """Of all stages."""
        return sum(stage.weights_bytes for stage in self.stages)

    @property
    def activation_bytes(self) -> int:
        """Of all stages side by side, each with all its blocks."""
        return sum(stage.largest_activation_bytes for stage in self.stages)

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.activation_bytes + self.slots * self.slot_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the smallest device of the target has room for it; none where there is none to compare with."""
        return None if self.memory_bytes is None else self.total_bytes + self.reserve_bytes <= self.memory_bytes


def plan_artefact(
    artefact: Bundle | Deployment, target: str | None = None, precision: str | Mapping[str, str] | None = None
) -> tuple[MemoryPlan, ...]:
    """Estimate what a deployment takes, or a bundle in each precision.

    Args:
        artefact: a deployment has its target and its precisions.
        target: whose smallest device a bundle shall fit; only precisions that it takes are planned.
        precision: plan for this one alone, or for one of each stage. TF32 takes what fp32 takes, and is planned only
            where it is asked for.

    Raises:
        InvalidRequest: a target or precision for a deployment, or an unknown precision or stage.
        TargetError: the target is unknown or refused, or refuses the precision.
    """
    if isinstance(artefact, Deployment):
        if target is not None or precision is not None:
            what = "a deployment, which has its target and its precisions"
            raise InvalidRequest(str(artefact.path), f"is {what}", "leave --target and --precision out")
        manifest = artefact.manifest
        built_for = manifest.built_for
        most = None if built_for.blocks is None else built_for.blocks[-1]
        return (plan_memory(manifest.bundle, manifest.precisions, load_target(built_for.target), most=most),)
    device = None if target is None else load_target(target)
    chosen = _chosen(device, precision, [stage.name for stage in artefact.manifest.stages])
    on_cpu = device is not None and device.compute_capability is None
    int8 = any("int8" in each.values() for each in chosen)
    shares = quantized_shares(artefact, "cpu" if on_cpu else "tensorrt") if int8 else {}
    return tuple(plan_memory(artefact.manifest, each, device, shares) for each in chosen)


def plan_memory(
    manifest: BundleManifest,
    precisions: Mapping[str, Precision],
    target: Target | None = None,
    quantized: Mapping[str, float] = MappingProxyType({}),
    most: int | None = None,
) -> MemoryPlan:
    """Estimate what a cascade takes.

    Weights take a half of float32 in fp16 and a quarter where int8 holds them. Activations are halved in fp16, which
    is too little for a stage whose peak is in its float32 glue; in int8 they count as float32, since nothing says how
    much of them a builder keeps in int8.

    Args:
        manifest: of a bundle; its stages say what they take in float32.
        precisions: of every stage.
        target: whose smallest device it shall fit.
        quantized: share of a stage's weights that int8 holds, see `quantized_shares`; all of those left out.
        most: the largest n that engines take; none: every block.
    """
    plan = make_plan(manifest)
    blocks = manifest.spec.blocks if most is None else most
    stages = tuple(
        _stage_memory(stage, precisions[stage.name], blocks, quantized.get(stage.name)) for stage in manifest.stages
    )
    slots = plan.depth + 1  # as pipelines have them unless told otherwise
    if target is None:
        return MemoryPlan(stages, blocks, plan.slot_bytes, slots)
    reserve = SHARED_RESERVE_BYTES if target.integrated else OWN_RESERVE_BYTES
    memory = min(target.memory_bytes, default=None)
    return MemoryPlan(stages, blocks, plan.slot_bytes, slots, target.name, memory, 0 if memory is None else reserve)


def quantized_shares(bundle: Bundle, int8: Int8Dialect) -> Mapping[str, float]:
    """Return the share of weights that int8 holds of every stage that was calibrated for a dialect.

    It is in the graphs, so that where nothing reads ONNX, as on a board, no share is known.
    """
    if find_spec("onnx_ir") is None:
        return {}
    plans = {stage: calibration.int8.get(int8) for stage, calibration in bundle.calibrations.items()}
    return {
        stage: _quantized_share(bundle.graphs[stage], int8, plan) for stage, plan in plans.items() if plan is not None
    }


def _chosen(
    target: Target | None, asked: str | Mapping[str, str] | None, stages: Sequence[str]
) -> list[Mapping[str, Precision]]:
    """Return the precisions of every stage, for each plan."""
    if target is not None:
        target.require_built_for()
    if asked is None:
        taken = PRECISIONS if target is None else target.with_speed("fast", "works")
        return [dict.fromkeys(stages, each) for each in taken if each != "tf32"]
    precisions = stage_precisions(asked, stages)
    if target is not None:
        for stage, precision in precisions.items():
            check_precision(target, precision, f"stage '{stage}'")
    return [precisions]


def _stage_memory(stage: StageEntry, precision: Precision, blocks: int, quantized: float | None) -> StageMemory:
    one, every = (_activations(stage.memory.activations(n), precision) for n in (1, blocks))
    share = quantized if precision == "int8" else None
    size = _weight_bytes(precision, 1.0 if share is None else share)
    weights = math.ceil(stage.memory.weights_bytes * size / _FLOAT32_BYTES)
    return StageMemory(stage.name, precision, weights, one, every, share)


def _weight_bytes(precision: Precision, quantized: float) -> float:
    """Bytes of one weight, on average."""
    if precision == "int8":
        return quantized * _INT8_BYTES + (1 - quantized) * _FLOAT32_BYTES
    return _FLOAT16_BYTES if precision == "fp16" else _FLOAT32_BYTES


def _activations(float32_bytes: int, precision: Precision) -> int:
    return math.ceil(float32_bytes * _FLOAT16_BYTES / _FLOAT32_BYTES) if precision == "fp16" else float32_bytes


def _quantized_share(graph: Graph, int8: Int8Dialect, plan: QuantizationPlan) -> float:
    from cascadert.export.lowering import lower
    from cascadert.export.onnx_io import model_from_graph
    from cascadert.export.precision import quantized_operators

    dialect: Dialect = "onnxruntime" if int8 == "cpu" else "tensorrt"
    operators = quantized_operators(graph, int8, plan)
    held, total = 0, 0
    for node in model_from_graph(lower(graph, dialect)).graph:
        constants = (value.const_value for value in node.inputs if value is not None)
        nbytes = sum(constant.nbytes for constant in constants if constant is not None)
        total += nbytes
        held += nbytes if node.outputs[0].name in operators else 0
    return held / total if total else 0.0
