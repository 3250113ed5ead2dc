"""Float16 as a CPU can show it: float32 arithmetic, and every result of the network rounded to float16.

ONNX Runtime has no float16 kernels for most operators on the CPU. It computes typed float16 graphs in float32 and drops
the casts between, which hides most of the error: 75 instead of 58 dB on a small PSPNet. It keeps casts that are written
out, so this form shows what a GPU that accumulates in float32 and stores float16 will give.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from cascadert.export.network import network_edges, network_nodes
from cascadert.export.passes.base import GraphPass
from cascadert.export.passes.half import ALWAYS_FLOAT32, float32_nodes

_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


class RoundNetworkToFloat16(GraphPass):
    """Round weights, pixels and what every operator of the network returns.

    Args:
        keep: operators that stay in float32, by the name of their first output; those have no rounding of their own.
    """

    def __init__(self, keep: Collection[str] = ()) -> None:
        super().__init__()
        self._keep = frozenset(keep)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Round in place; names stay with the rounded tensors."""
        every = network_nodes(model)
        single = float32_nodes(every, self._keep)
        nodes = [node for node in every if node not in single]
        inside = set(nodes)
        for pixels in network_edges(model)[0]:
            _round(pixels, inside)
        for node in nodes:
            sizes = ALWAYS_FLOAT32.get(node.op_type, ())
            for i, weights in enumerate(node.inputs):
                if weights is not None and weights.dtype == _SINGLE and i not in sizes:
                    _round_weights(weights)
            for value in node.outputs:
                if value.dtype == _SINGLE:
                    _round(value)
        return ir.passes.PassResult(model, bool(nodes))


def _round_weights(value: ir.Value) -> None:
    if value.const_value is not None:
        with np.errstate(over="ignore"):
            rounded = value.const_value.numpy().astype(np.float16).astype(np.float32)
        value.const_value = ir.tensor(rounded, name=value.name)


def _round(value: ir.Value, readers: Collection[ir.Node] | None = None) -> None:
    """Let `readers`, or all of them, read the value through float16."""
    uses = [(use.node, use.idx) for use in value.uses() if readers is None or use.node in readers]
    half = ir.Value(name=f"{value.name}_float16", shape=value.shape, type=ir.TensorType(_HALF))
    rounded = ir.Value(name=f"{value.name}_rounded", shape=value.shape, type=ir.TensorType(_SINGLE))
    casts = [
        ir.Node("", "Cast", [value], [ir.AttrInt64("to", _HALF)], outputs=[half], name=f"{value.name}/round"),
        ir.Node("", "Cast", [half], [ir.AttrInt64("to", _SINGLE)], outputs=[rounded], name=f"{value.name}/widen"),
    ]
    producer = value.producer()
    graph = producer.graph if producer is not None else uses[0][0].graph
    if graph is None:
        return
    if producer is None:
        graph.insert_before(graph[0], casts)
    else:
        graph.insert_after(producer, casts)
    for node, index in uses:
        node.replace_input_with(index, rounded)
    if readers is None:
        _take_name_over(value, rounded, graph)


def _take_name_over(value: ir.Value, rounded: ir.Value, graph: ir.Graph | ir.Function) -> None:
    for i, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[i] = rounded
    rounded.name, value.name = value.name, f"{value.name}_exact"
