"""From TensorRT's complaint to the ONNX node and the network module it came from."""

from __future__ import annotations

import re

from cascadert.engines.process import Fault, RefusedGraph
from cascadert.errors import BuildError
from cascadert.graph import Graph

_NAME = re.compile(r"[^\s'\"`:,;(){}\[\]]+")


def find_culprit(graph: Graph, faults: tuple[Fault, ...]) -> tuple[str | None, str]:
    """Return the node at fault, described with its module, and TensorRT's words about it.

    The parser names a node; the builder mentions one somewhere in its text, or none at all.
    """
    from cascadert.export.onnx_io import model_from_graph
    from cascadert.export.passes.base import describe

    nodes = {node.name: node for node in model_from_graph(graph).graph.all_nodes()}
    for fault in faults:
        names = [fault.node, *_NAME.findall(fault.text)]
        culprit = next((nodes[name] for name in names if name in nodes), None)
        if culprit is not None:
            return describe(culprit), fault.text
    return None, faults[0].text if faults else "no reason given"


def build_error(subject: str, graph: Graph, refusal: RefusedGraph) -> BuildError:
    """Turn a refusal into an error that names the node and its module, with TensorRT's own words."""
    culprit, words = find_culprit(graph, refusal.faults)
    more = len(refusal.faults) - 1
    others = f" (and {more} more)" if more > 0 else ""
    what = culprit or "the graph"
    found = f"TensorRT-RTX's {refusal.by} refused {what}: {words.rstrip('.')}{others}"
    remedy = "replace that operation in the network" if culprit else "choose another target or network"
    return BuildError(subject, found, remedy)
