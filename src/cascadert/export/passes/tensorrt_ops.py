"""What TensorRT's parsers are known to refuse, checked before a build is tried (platforms.md 4.4, 4.4b).

Here is what holds for every TensorRT, so that one lowered graph serves all; `engines.lint` knows the releases apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, constant, describe, integer, is_read
from cascadert.export.passes.large_pool import is_large
from cascadert.export.passes.uint8_boundary import handles_inner_uint8

_REFUSED = frozenset(("NonZero", "MaxUnpool", "MaxRoiPool", "Unique", "SequenceAt", "SequenceConstruct", "Optional"))
LARGEST_K = 3840
"""K of a TopK, in every TensorRT."""

_POOLS = {
    "AveragePool": "average by reshape and mean",
    "LpPool": "reduce by reshape and norm",
    "MaxPool": "reduce by reshape and maximum",
}

_SORT_ALL = "sort all and take a prefix outside"

_PORT_TYPES = (
    ir.DataType.UINT8,
    ir.DataType.INT32,
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BOOL,
    ir.DataType.INT8,
)


class Objection(NamedTuple):
    """What is wrong with a node: a short name of the rule, what was found, what to do instead."""

    rule: str
    found: str
    remedy: str


def _largest(node: ir.Node) -> int:
    count = constant(node.inputs[1])
    return 0 if count is None else int(count.max())


def objection(node: ir.Node) -> Objection | None:
    """Return what every TensorRT has against a node."""
    found: Objection | None = None
    if node.domain not in ("", "ai.onnx"):
        found = Objection("domain", f"is of the domain '{node.domain}'", "use standard ONNX operators")
    elif node.op_type in _REFUSED:
        found = Objection(
            "operator", "is an operator TensorRT does not have", "choose by TopK, Where or masks of fixed size"
        )
    elif node.op_type == "MaxPool" and len(node.outputs) > 1 and is_read(node.outputs[1]):
        remedy = "pair it with nn.MaxUnpool2d of the same kernel and stride"
        found = Objection("pool-indices", "returns indices, which TensorRT does not", remedy)
    elif node.op_type in ("ScatterND", "ScatterElements") and "reduction" in node.attributes:
        remedy = "scatter without it, or accumulate by gather and sum"
        found = Objection(
            "scatter-reduction", "has the attribute 'reduction', which TensorRT ignores or refuses", remedy
        )
    elif node.op_type in _POOLS and is_large(node):
        found = Objection(
            "pool-kernel", "has a kernel of more than 99,856 pixels, which is TensorRT's limit", _POOLS[node.op_type]
        )
    elif node.op_type == "Resize" and integer(node, "antialias", 0):
        found = Objection(
            "resize", "resizes with antialiasing, which TensorRT does not", "resize without, or before the graph"
        )
    elif node.op_type == "TopK" and constant(node.inputs[1]) is None:
        found = Objection(
            "topk", "has a K that is computed at run time, which TensorRT must know when it builds", _SORT_ALL
        )
    elif node.op_type == "TopK" and _largest(node) > LARGEST_K:
        what = f"sorts {_largest(node)} values where TensorRT's limit is {LARGEST_K}"
        found = Objection("topk", what, "use larger blocks or fewer cameras")
    elif handles_inner_uint8(node):
        found = Objection(
            "uint8",
            "handles uint8 inside the graph, which TensorRT takes at the boundary only",
            "cast to float32 at the boundary",
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
            if (found := objection(node)) is not None:
                raise PassError(describe(node), found.found, found.remedy)
        for error in _port_objections(model):
            raise error
