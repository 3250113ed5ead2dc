"""The network in float16: casts at its edges, float16 weights, and operators that stay in float32."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.network import network_edges, network_nodes
from cascadert.export.passes.base import GraphPass, describe

# Inputs that are float32 whatever the operator computes in: sizes, by ONNX's own type rules.
ALWAYS_FLOAT32 = {"Resize": (1, 2)}

_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_HALF, _SINGLE = ir.DataType.FLOAT16, ir.DataType.FLOAT


class NetworkToFloat16(GraphPass):
    """Compute the network in float16; the rest of the graph keeps its types.

    A pass of our own rather than ONNX Runtime's converter, which makes invalid graphs where two Resize share a constant
    and where an operator that stays in float32 reads a tensor twice (platforms.md 4.4b).

    Args:
        keep: operators that stay in float32, by the name of their first output.
    """

    def __init__(self, keep: Collection[str] = ()) -> None:
        super().__init__()
        self._keep = frozenset(keep)
        self._casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Convert operator by operator; each tensor is cast at most once in either direction."""
        nodes = network_nodes(model)
        _, logits = network_edges(model)
        self._casts.clear()
        single = float32_nodes(nodes, self._keep)
        for node in nodes:
            self._convert(node, _SINGLE if node in single else _HALF)
        for value in logits:
            if value.dtype == _HALF:
                _float32_outside(value, set(nodes))
        return ir.passes.PassResult(model, bool(nodes))

    def ensures(self, model: ir.Model) -> None:
        """The network's edges are float32."""
        for value in (side for edges in network_edges(model) for side in edges):
            if value.dtype != _SINGLE:
                raise PassError(f"'{value.name}'", f"became {value.dtype}", "report this network")

    def _convert(self, node: ir.Node, dtype: ir.DataType) -> None:
        if any(attribute.type in _SUBGRAPHS for attribute in node.attributes.values()):
            raise PassError(describe(node), "holds a graph of its own", "replace it in the network")
        for i, value in enumerate(node.inputs):
            if value is None or value.dtype not in (_SINGLE, _HALF) or i in ALWAYS_FLOAT32.get(node.op_type, ()):
                continue
            if value.dtype != dtype:
                node.replace_input_with(i, self._cast(value, dtype, node))
        if node.op_type == "Cast" and node.attributes["to"].as_int() in (_SINGLE, _HALF):
            node.attributes["to"] = ir.AttrInt64("to", dtype)
        elif not any(value is not None and value.dtype == dtype for value in node.inputs):
            return  # what it makes is said by an attribute: ConstantOfShape
        for value in node.outputs:
            if value.dtype in (_SINGLE, _HALF):
                value.dtype = dtype

    def _cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        key = (value, dtype)
        if key not in self._casts:
            made = _converted(value, reader) if dtype == _HALF and value.const_value is not None else None
            self._casts[key] = _cast_before(value, dtype, reader) if made is None else made
        return self._casts[key]


def float32_nodes(nodes: Sequence[ir.Node], keep: Collection[str]) -> set[ir.Node]:
    """Return what is kept of a network, and the Q/DQ pairs before it.

    No Cast may part those from it, and what they restore need not fit float16.
    """
    found: set[ir.Node] = set()
    for node in reversed(nodes):
        readers = {use.node for value in node.outputs for use in value.uses()}
        pair = node.op_type in ("QuantizeLinear", "DequantizeLinear") and bool(readers) and readers <= found
        if pair or node.outputs[0].name in keep:
            found.add(node)
    return found


def _converted(value: ir.Value, reader: ir.Node) -> ir.Value | None:
    """Return a float16 copy of an initialiser."""
    if reader.graph is None or value.const_value is None:
        return None
    with np.errstate(over="ignore"):  # calibration keeps operators with such weights in float32
        array = value.const_value.numpy().astype(np.float16)
    name = f"{value.name}_float16"
    copy = ir.Value(name=name, shape=value.shape, type=ir.TensorType(_HALF), const_value=ir.tensor(array, name=name))
    reader.graph.register_initializer(copy)
    return copy


def _cast_before(value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
    """Add a Cast right before its first reader."""
    name = f"{value.name}_{'float16' if dtype == _HALF else 'float32'}"
    cast = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype)], outputs=[cast], name=f"{reader.name}/{name}")
    node.metadata_props.update(reader.metadata_props)
    if reader.graph is not None:
        reader.graph.insert_before(reader, node)
    return cast


def _float32_outside(value: ir.Value, inside: set[ir.Node]) -> None:
    """Cast one end of the network to float32 for everything behind it; the cast takes the name over."""
    producer = value.producer()
    if producer is None or producer.graph is None:
        return
    single = ir.Value(shape=value.shape, type=ir.TensorType(_SINGLE))
    uses = [(use.node, use.idx) for use in value.uses() if use.node not in inside]
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", _SINGLE)], outputs=[single], name=f"{value.name}/to_float")
    producer.graph.insert_after(producer, cast)
    for node, index in uses:
        node.replace_input_with(index, single)
    for i, output in enumerate(producer.graph.outputs):
        if output is value:
            producer.graph.outputs[i] = single
    single.name, value.name = value.name, f"{value.name}_float16"
