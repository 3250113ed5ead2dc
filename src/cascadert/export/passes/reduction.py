"""ScatterND and ScatterElements without the attribute `reduction`.

TensorRT 8.6 ignores the attribute and computes something else; some 10.x parsers refuse even `"none"`.
"""

from __future__ import annotations

import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, describe, nodes_of


def _with_reduction(model: ir.Model) -> list[ir.Node]:
    return [node for node in nodes_of(model, "ScatterND", "ScatterElements") if "reduction" in node.attributes]


class StripReductionNone(GraphPass):
    """Remove `reduction="none"`, which is the default."""

    def requires(self, model: ir.Model) -> None:
        """No scatter reduces."""
        for node in _with_reduction(model):
            reduction = node.attributes["reduction"].as_string()
            if reduction != "none":
                found = f"scatters with reduction '{reduction}', which TensorRT ignores or refuses"
                raise PassError(describe(node), found, "accumulate by gather and sum, or avoid duplicate indices")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove the attribute where it is written out."""
        nodes = _with_reduction(model)
        for node in nodes:
            del node.attributes["reduction"]
        return ir.passes.PassResult(model, bool(nodes))

    def ensures(self, model: ir.Model) -> None:
        """The attribute is nowhere."""
        for node in _with_reduction(model):
            raise PassError(describe(node), "still has the attribute 'reduction'", "report this network")
