"""What TensorRT's parsers are known to refuse, checked before a build is tried (platforms.md 4.4, 4.4b)."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, constant, describe, integer, is_read
from cascadert.export.passes.large_pool import is_large
from cascadert.export.passes.uint8_boundary import inner_uint8

_REFUSED = frozenset(("NonZero", "MaxUnpool", "MaxRoiPool", "Unique", "SequenceAt", "SequenceConstruct", "Optional"))
LARGEST_K = 3840
"""K of a TopK, in every TensorRT."""

_PORT_TYPES = (
    ir.DataType.UINT8,
    ir.DataType.INT32,
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BOOL,
    ir.DataType.INT8,
)


def _largest(node: ir.Node) -> int:
    count = constant(node.inputs[1])
    return 0 if count is None else int(count.max())


def _objection(node: ir.Node) -> tuple[str, str] | None:
    """Return what is wrong with one node and what to do instead."""
    found: tuple[str, str] | None = None
    if node.domain not in ("", "ai.onnx"):
        found = f"is of the domain '{node.domain}'", "use standard ONNX operators"
    elif node.op_type in _REFUSED:
        found = "is an operator TensorRT does not have", "choose by TopK, Where or masks of fixed size"
    elif node.op_type == "MaxPool" and len(node.outputs) > 1 and is_read(node.outputs[1]):
        found = "returns indices, which TensorRT does not", "pair it with nn.MaxUnpool2d of the same kernel and stride"
    elif node.op_type in ("ScatterND", "ScatterElements") and "reduction" in node.attributes:
        found = "has the attribute 'reduction'", "scatter without it, or accumulate by gather and sum"
    elif node.op_type == "AveragePool" and is_large(node):
        found = "has a kernel of more than 99,856 pixels", "average by reshape and mean"
    elif node.op_type == "Resize" and integer(node, "antialias", 0):
        found = "resizes with antialiasing", "resize without, or before the graph"
    elif node.op_type == "TopK" and constant(node.inputs[1]) is None:
        found = "has a K that is computed at run time", "sort all and take a prefix outside"
    elif node.op_type == "TopK" and _largest(node) > LARGEST_K:
        found = (
            f"sorts {_largest(node)} values where TensorRT's limit is {LARGEST_K}",
            "use larger blocks or fewer cameras",
        )
    return found


def _port_objections(model: ir.Model) -> Iterator[PassError]:
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            if value.dtype not in _PORT_TYPES:
                found = f"has the type {value.dtype}, which TensorRT does not take there"
                yield PassError(f"{kind} '{value.name}'", found, "use uint8, int32, float16, float32 or bool")


class CheckTensorRTOperators(GraphPass):
    """Change nothing; refuse what no TensorRT parser takes, naming the node and the module it came from."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Return the model as it is."""
        return ir.passes.PassResult(model, False)

    def ensures(self, model: ir.Model) -> None:
        """No operator, attribute or type is left that is known to be refused."""
        for node in model.graph.all_nodes():
            if (objection := _objection(node)) is not None:
                raise PassError(describe(node), *objection)
        for node in inner_uint8(model):
            raise PassError(describe(node), "handles uint8 inside the graph", "cast to float32 at the boundary")
        for error in _port_objections(model):
            raise error
