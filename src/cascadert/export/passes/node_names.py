"""Names that say where a node came from, so that a parser's message names the network's module."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, describe, name_scopes


class NameNodes(GraphPass):
    """Name each node `module/Operator`, numbered where that is not unique: `network.down1.pool/MaxPool`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename, and count what changed."""
        used: Counter[str] = Counter()
        modified = False
        for node in model.graph.all_nodes():
            name = "/".join([*name_scopes(node)[-1:], node.op_type])
            used[name] += 1
            if used[name] > 1:
                name = f"{name}_{used[name]}"
            modified |= node.name != name
            node.name = name
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Every node has a name of its own."""
        for name, count in Counter(node.name for node in model.graph.all_nodes()).items():
            if not name or count > 1:
                node = next(node for node in model.graph.all_nodes() if node.name == name)
                raise PassError(describe(node), f"{count} nodes have this name", "report this network")
