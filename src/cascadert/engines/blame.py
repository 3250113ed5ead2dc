"""From TensorRT's complaint to the ONNX node and the network module it came from."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from cascadert.engines.process import Fault, RefusedGraph
from cascadert.errors import BuildError
from cascadert.graph import Graph

if TYPE_CHECKING:
    import onnx_ir as ir

_NAME = re.compile(r"[^\s'\"`:,;(){}\[\]]+")


def find_culprit(graph: Graph, faults: tuple[Fault, ...]) -> tuple[ir.Node | None, str]:
    """Return the node at fault and TensorRT's words about it.

    The parser names a node, or before TensorRT 10 its place in the graph; the builder mentions one somewhere in its
    text, or none at all.
    """
    from cascadert.export.onnx_io import model_from_graph

    model = model_from_graph(graph)
    nodes = {node.name: node for node in model.graph.all_nodes()}
    for fault in faults:
        if not fault.node and 0 <= fault.index < len(model.graph):
            return model.graph.node(fault.index), fault.text
        names = [fault.node, *_NAME.findall(fault.text)]
        culprit = next((nodes[name] for name in names if name in nodes), None)
        if culprit is not None:
            return culprit, fault.text
    return None, faults[0].text if faults else "no reason given"


def build_error(subject: str, graph: Graph, refusal: RefusedGraph) -> BuildError:
    """Turn a refusal into an error with TensorRT's own words, that names the node and its module where onnx is there.

    A board that builds a kit has no onnx; there it is the node's name that TensorRT gave, or nothing.
    """
    what, words, remedy = _name_culprit(graph, refusal.faults)
    more = len(refusal.faults) - 1
    others = f" (and {more} more)" if more > 0 else ""
    return BuildError(subject, f"{refusal.product}'s {refusal.by} refused {what}: {words.rstrip('.')}{others}", remedy)


def _name_culprit(graph: Graph, faults: tuple[Fault, ...]) -> tuple[str, str, str]:
    """Return what was refused, with which words, and what to do."""
    whole, elsewhere = "the graph", "choose another target or network"
    if find_spec("onnx_ir") is None:
        first = faults[0] if faults else Fault("no reason given", "")
        return f"node '{first.node}'" if first.node else whole, first.text, elsewhere
    from cascadert.export.passes.base import describe, name_scopes

    culprit, words = find_culprit(graph, faults)
    if culprit is None:
        return whole, words, elsewhere
    remedy = "replace that operation in the network" if name_scopes(culprit) else "choose another grid or target"
    return describe(culprit), words, remedy
