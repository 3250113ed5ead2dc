"""Constant folding, batch norm into convolutions, dead code: onnxscript's optimiser under this package's contract."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import optimizer

from cascadert.export.passes.base import GraphPass


def _signature(model: ir.Model) -> list[object]:
    """Everything but the contents of tensors; no rewrite of the optimiser changes only those."""
    nodes = [
        (node.domain, node.op_type, *(v and v.name for v in (*node.inputs, *node.outputs)), str(node.attributes))
        for node in model.graph.all_nodes()
    ]
    return [nodes, sorted(model.graph.initializers), sorted(map(str, model.functions)), sorted(model.opset_imports)]


class CleanUp(GraphPass):
    """Fold, simplify, merge equal constants, drop what nobody reads. Calls of functions stay calls."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the optimiser, which reports nothing itself; the comparison is ours."""
        before = _signature(model)
        optimizer.optimize_ir(model, inline=False)
        return ir.passes.PassResult(model, _signature(model) != before)
