"""From TensorRT's complaint to the ONNX node and the network module it came from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cascadert.engines.process import Fault, RefusedGraph
from cascadert.errors import BuildError
from cascadert.graph import Graph

if TYPE_CHECKING:
    import onnx_ir as ir

_NAME = re.compile(r"[^\s'\"`:,;(){}\[\]]+")


def find_culprit(graph: Graph, faults: tuple[Fault, ...]) -> tuple[ir.Node | None, str]:
    """Return the node at fault and TensorRT's words about it.

    The parser names a node; the builder mentions one somewhere in its text, or none at all.
    """
    from cascadert.export.onnx_io import model_from_graph

    nodes = {node.name: node for node in model_from_graph(graph).graph.all_nodes()}
    for fault in faults:
        names = [fault.node, *_NAME.findall(fault.text)]
        culprit = next((nodes[name] for name in names if name in nodes), None)
        if culprit is not None:
            return culprit, fault.text
    return None, faults[0].text if faults else "no reason given"


def build_error(subject: str, graph: Graph, refusal: RefusedGraph) -> BuildError:
    """Turn a refusal into an error that names the node and its module, with TensorRT's own words."""
    from cascadert.export.passes.base import describe, name_scopes

    culprit, words = find_culprit(graph, refusal.faults)
    more = len(refusal.faults) - 1
    others = f" (and {more} more)" if more > 0 else ""
    what, remedy = "the graph", "choose another target or network"
    if culprit is not None:
        what = describe(culprit)
        remedy = "replace that operation in the network" if name_scopes(culprit) else "choose another grid or target"
    return BuildError(subject, f"TensorRT-RTX's {refusal.by} refused {what}: {words.rstrip('.')}{others}", remedy)
