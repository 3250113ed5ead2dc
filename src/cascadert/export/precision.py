"""From a stage's semantic graph to what a backend computes in fp16 or int8.

The bare network is converted; the glue around it, and with it entropy, scores, order and merging, stays float32. So do
all ports: a carried tensor is float32 between two stages, whatever either computes in. A stage whose network has no
weights is all glue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import onnx_ir as ir

from cascadert.errors import GraphError
from cascadert.export.cpu_int8 import operators_for_cpu, quantized_for_cpu
from cascadert.export.lowering import finish_passes, lower, run_passes
from cascadert.export.network import network_nodes, with_network
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.export.opset import to_opset
from cascadert.export.passes.base import name_scopes
from cascadert.export.passes.half import NetworkToFloat16
from cascadert.export.passes.half_rounding import RoundNetworkToFloat16
from cascadert.export.passes.quantize import QuantizeForTensorRT
from cascadert.export.placement import place
from cascadert.graph import Dialect, Graph
from cascadert.precision import FP16_SCALES_OPSET, Int8Dialect, Numerics, QuantizationPlan, StageCalibration

Rest = Literal["fp32", "fp16"]


def lower_to(
    graph: Graph,
    dialect: Dialect,
    numerics: Numerics = "fp32",
    calibration: StageCalibration | None = None,
    rest: Rest = "fp32",
) -> Graph:
    """Lower a semantic graph and compute its network in some precision.

    Args:
        graph: a graph of the dialect "semantic".
        dialect: "tensorrt" or "onnxruntime". float16 for "onnxruntime" is float32 arithmetic that rounds like float16,
            since there are no kernels for it on a CPU.
        numerics: see `Numerics`.
        calibration: what was measured for the stage; int8 cannot do without.
        rest: what the part of an int8 network computes in that is not quantized.

    Raises:
        GraphError: int8 without a calibration for it, or a graph that was lowered already.
        PassError: see `lower`.
    """
    lowered = lower(graph, dialect)
    keep = {} if calibration is None else calibration.fp16_keep
    if numerics == "fp16":
        return _in_half(lowered, keep)
    if numerics != "fp32":
        quantized = _quantized(lowered, "cpu" if numerics == "int8-cpu" else "tensorrt", calibration)
        return _in_half(quantized, keep) if rest == "fp16" else quantized
    return lowered


def as_measured(graph: Graph, numerics: Numerics, calibration: StageCalibration | None = None) -> Graph:
    """Return the form of a semantic graph by which ONNX Runtime shows on a CPU what a precision computes.

    fp16 rounds every result. int8 for TensorRT has the rest of its network in fp16, as strongly typed builders are
    given it; where the rest is fp32 instead, less is lost.

    Raises:
        GraphError, PassError: see `lower_to`.
    """
    return lower_to(graph, "onnxruntime", numerics, calibration, "fp16" if numerics == "int8-tensorrt" else "fp32")


def _in_half(graph: Graph, keep: Mapping[str, str]) -> Graph:
    typed = graph.dialect == "tensorrt"
    model = model_from_graph(to_opset(graph, FP16_SCALES_OPSET) if typed and _is_quantized(graph) else graph)
    step = NetworkToFloat16(keep) if typed else RoundNetworkToFloat16(keep)
    run_passes(model, [step, *finish_passes()])
    return graph_from_model(model, graph.dialect)


def _is_quantized(graph: Graph) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model_from_graph(graph).graph)


def _quantized(graph: Graph, int8: Int8Dialect, calibration: StageCalibration | None) -> Graph:
    plan = None if calibration is None else calibration.int8.get(int8)
    if plan is None:
        raise GraphError(f"int8 for '{int8}'", "was not calibrated", "run cascadert calibrate on the bundle first")
    model = model_from_graph(graph)
    if not network_nodes(model):
        return graph
    if int8 == "cpu":
        model = with_network(graph, quantized_for_cpu(graph, plan.ranges, plan.keep))
        run_passes(model, finish_passes())
    else:
        run_passes(model, [QuantizeForTensorRT(plan.ranges, plan.keep), *finish_passes()])
    return graph_from_model(model, graph.dialect)


def quantized_operators(graph: Graph, int8: Int8Dialect, plan: QuantizationPlan) -> Mapping[str, str]:
    """Return what a plan quantizes: the first output of each operator that reads int8, and its module.

    Args:
        graph: a semantic graph.
        int8: for which hardware.
        plan: its ranges and exceptions.
    """
    if int8 == "cpu":
        model = model_from_graph(lower(graph, "onnxruntime"))
        nodes: Iterable[ir.Node] = operators_for_cpu(model, plan.ranges, plan.keep)
    else:
        nodes = place(model_from_graph(lower(graph, "tensorrt")), plan.ranges, plan.keep).readers
    return {str(node.outputs[0].name): (name_scopes(node) or [""])[-1] for node in nodes}


def float32_operators(graph: Graph, calibration: StageCalibration | None = None) -> tuple[str, ...]:
    """Return the names of the operators that compute in float32 whatever the network does: the glue, and exceptions.

    Args:
        graph: a lowered graph.
        calibration: names the exceptions.
    """
    model = model_from_graph(graph)
    keep = set() if calibration is None else set(calibration.fp16_keep)
    network = set(network_nodes(model))
    return tuple(str(n.name) for n in model.graph if n not in network or n.outputs[0].name in keep)
