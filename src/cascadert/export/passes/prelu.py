"""PReLU with one slope for all channels, as LeakyRelu: convolutions fuse with it and nothing is broadcast."""

from __future__ import annotations

import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, constant, describe, nodes_of, substitute


def _scalar_slope(node: ir.Node) -> float | None:
    slope = constant(node.inputs[1])
    return float(slope.reshape(())) if slope is not None and slope.size == 1 else None


class ScalarPReluToLeakyRelu(GraphPass):
    """Turn each PRelu with a constant slope of one element into LeakyRelu."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the scalar ones; PRelu with one slope a channel stays."""
        scalar = [(node, slope) for node in nodes_of(model, "PRelu") if (slope := _scalar_slope(node)) is not None]
        for node, slope in scalar:
            self._rewrite(node, slope)
        return ir.passes.PassResult(model, bool(scalar))

    def ensures(self, model: ir.Model) -> None:
        """No PRelu with a scalar slope is left."""
        for node in nodes_of(model, "PRelu"):
            if _scalar_slope(node) is not None:
                raise PassError(describe(node), "is still there after the pass", "report this network")

    @staticmethod
    def _rewrite(node: ir.Node, slope: float) -> None:
        substitute(node, lambda tape: [tape.op("LeakyRelu", [node.inputs[0]], {"alpha": slope})])
