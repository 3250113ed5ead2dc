"""Constant folding, batch norm into convolutions, dead code: onnxscript's optimiser under this package's contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnxscript import optimizer

from cascadert.export.functions import DOMAIN
from cascadert.export.network import is_logits, is_pixels
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
        with _edges_kept(model):
            optimizer.optimize_ir(model, inline=False)
        return ir.passes.PassResult(model, _signature(model) != before)


@contextmanager
def _edges_kept(model: ir.Model) -> Iterator[None]:
    """Hide from the optimiser each Identity between a port and the network: it would drop it, and a name with it."""
    edges = [node for node in model.graph if node.op_type == "Identity" and _is_edge(node)]
    known = dict(model.opset_imports)
    for node in edges:
        node.domain, model.opset_imports[DOMAIN] = DOMAIN, 1
    try:
        yield
    finally:
        for node in edges:
            node.domain = ""
        if edges and DOMAIN not in known:
            del model.opset_imports[DOMAIN]


def _is_edge(node: ir.Node) -> bool:
    source, made = node.inputs[0], node.outputs[0]
    return is_pixels(made) or (source is not None and is_logits(source))
