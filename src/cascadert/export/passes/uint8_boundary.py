"""uint8 at the boundary of a graph and nowhere else: TensorRT refuses to gather or transpose it.

Inside, pixels and labels travel as float32, which holds 0 to 255 exactly and is the one type that every TensorRT from
8.5 converts from and to uint8.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import REARRANGING, GraphPass, constant, describe

_MOVES = REARRANGING | frozenset(
    ("Concat", "Split", "Expand", "Tile", "ScatterND", "ScatterElements", "Where", "Identity", "Pad", "Max", "Min")
)
_READERS = frozenset(("Cast", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Shape", "Size"))
_UINT8 = ir.DataType.UINT8
_FLOAT = ir.TensorType(ir.DataType.FLOAT)


def _is_uint8(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == _UINT8


def handles_inner_uint8(node: ir.Node) -> bool:
    """Whether a node handles uint8 otherwise than in a Cast to float from an input or a Cast to an output."""
    reads = [value for value in node.inputs if _is_uint8(value)]
    writes = [value for value in node.outputs if _is_uint8(value)]
    boundary = node.op_type == "Cast" and (
        (all(value is not None and value.is_graph_input() for value in reads) and not writes)
        or (not reads and all(value.is_graph_output() and not value.uses() for value in writes))
    )
    return bool(reads or writes) and not boundary


def inner_uint8(model: ir.Model) -> list[ir.Node]:
    """List the nodes that do."""
    return [node for node in model.graph.all_nodes() if handles_inner_uint8(node)]


class Uint8AtBoundary(GraphPass):
    """Cast each uint8 input at once, each uint8 output at last, and carry float32 in between."""

    def requires(self, model: ir.Model) -> None:
        """Every tensor's type is known, and uint8 is only moved, compared or converted."""
        for node in model.graph.all_nodes():
            if any(value.dtype is None for value in node.outputs):
                raise PassError(describe(node), "has an output of unknown type", "run shape inference before")
        for node in inner_uint8(model):
            if node.op_type not in _MOVES | _READERS:
                found = "computes in uint8, which TensorRT has only at the boundary of a graph"
                raise PassError(describe(node), found, "convert to float32 before it")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Retype, if anything but the boundary is uint8."""
        if not inner_uint8(model):
            return ir.passes.PassResult(model, False)
        ports = [(i, value) for i, value in enumerate(model.graph.outputs) if _is_uint8(value)]
        for value in model.graph.inputs:
            if _is_uint8(value):
                self._cast_input(model, value)
        for node in list(model.graph.all_nodes()):
            self._retype(node)
        for i, value in ports:
            self._cast_output(model, i, value)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """No uint8 tensor lies inside the graph."""
        for node in inner_uint8(model):
            raise PassError(describe(node), "still handles uint8", "report this network")

    @staticmethod
    def _cast_input(model: ir.Model, value: ir.Value) -> None:
        uses = list(value.uses())
        if not uses and not value.is_graph_output():
            return
        carried = ir.Value(name=f"{value.name}_float32", shape=value.shape, type=_FLOAT)
        first = uses[0].node.metadata_props if uses else {}
        cast = ir.Node(
            "",
            "Cast",
            [value],
            attributes=[ir.AttrInt64("to", ir.DataType.FLOAT)],
            outputs=[carried],
            metadata_props=dict(first),
        )
        for use in uses:
            use.node.replace_input_with(use.idx, carried)
        for i, output in enumerate(model.graph.outputs):
            if output is value:
                model.graph.outputs[i] = carried
        model.graph.insert_before(model.graph[0], cast)

    @staticmethod
    def _retype(node: ir.Node) -> None:
        for i, value in enumerate(node.inputs):
            if value is not None and _is_uint8(value) and (array := constant(value)) is not None:
                graph = node.graph
                if graph is None:
                    raise PassError(describe(node), "is in no graph", "report this network")
                tensor = ir.AttrTensor("value", ir.tensor(array.astype(np.float32)))
                carried = ir.Node("", "Constant", [], attributes=[tensor])
                carried.outputs[0].type, carried.outputs[0].shape = _FLOAT, value.shape
                graph.insert_before(node, carried)
                node.replace_input_with(i, carried.outputs[0])
        if node.op_type == "Constant":
            return
        for value in node.outputs:
            if not _is_uint8(value):
                continue
            value.type = _FLOAT
            if node.op_type == "Cast":
                Uint8AtBoundary._retype_cast(node)

    @staticmethod
    def _retype_cast(node: ir.Node) -> None:
        source, graph = node.inputs[0], node.graph
        if source is not None and graph is not None and source.dtype is not None and source.dtype.is_floating_point():
            # Casting to uint8 drops the fraction; carrying float32 must do so too.
            whole = ir.Node(
                "",
                "Cast",
                [source],
                attributes=[ir.AttrInt64("to", ir.DataType.INT32)],
                metadata_props=dict(node.metadata_props),
            )
            whole.outputs[0].type, whole.outputs[0].shape = ir.TensorType(ir.DataType.INT32), source.shape
            graph.insert_before(node, whole)
            node.replace_input_with(0, whole.outputs[0])
        node.attributes.add(ir.AttrInt64("to", ir.DataType.FLOAT))

    @staticmethod
    def _cast_output(model: ir.Model, index: int, value: ir.Value) -> None:
        carried = model.graph.outputs[index]
        name = value.name
        port = ir.Value(name=name, shape=carried.shape, type=ir.TensorType(_UINT8))
        producer = carried.producer()
        if not carried.is_graph_input() and carried is value:
            carried.name = f"{name}_float32"
        cast = ir.Node(
            "",
            "Cast",
            [carried],
            attributes=[ir.AttrInt64("to", _UINT8)],
            outputs=[port],
            metadata_props=dict(producer.metadata_props) if producer is not None else {},
        )
        model.graph.append(cast)
        model.graph.outputs[index] = port
