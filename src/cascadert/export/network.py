"""The bare network inside a stage's graph: which operators it has, cutting it out, and putting another in its place.

It lies between the tensors `pixels` and `logits` (`passes/network_boundary.py`; `pixels_2`, `logits_2` and so on where
it has several), in the semantic graph and in every form it is lowered to. A graph without these tensors is all glue:
its network has no weights (the mean of an ensemble), and stays float32 whatever is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from cascadert.errors import GraphError
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.graph import Graph
from cascadert.stage_spec import OF_LOGITS

_PIXELS, _LOGITS = re.compile(r"pixels(_\d+)?"), re.compile(r"logits(_\d+)?")


def is_pixels(value: ir.Value) -> bool:
    """Whether a tensor is where a network begins."""
    return bool(value.name and _PIXELS.fullmatch(value.name))


def is_logits(value: ir.Value) -> bool:
    """Whether a tensor is where a network ends."""
    return bool(value.name and _LOGITS.fullmatch(value.name))


def network_edges(model: ir.Model) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the tensors where the network begins and ends, in the order of their numbers; none where all is glue.

    Raises:
        GraphError: the graph has only one of the two.
    """
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    pixels, logits = (sorted(filter(is_edge, values), key=_number) for is_edge in (is_pixels, is_logits))
    if bool(pixels) != bool(logits):
        raise _no_network()
    return pixels, logits


def _no_network() -> GraphError:
    return GraphError("the graph", "has no tensors 'pixels' and 'logits'", "export the network as a stage's")


def _number(value: ir.Value) -> int:
    return int(str(value.name).partition("_")[2] or 1)


def ends_of_logits(model: ir.Model) -> list[ir.Value]:
    """Return those ends of the network that labels, scores or logits are made of; the others are carried tensors."""
    ends = network_edges(model)[1]
    made = behind((value for value in model.graph.outputs if value.name in OF_LOGITS), ends.__contains__)
    return [value for value in ends if value in made]


def behind(values: Iterable[ir.Value], is_end: Callable[[ir.Value], bool]) -> set[ir.Value]:
    """Return all that tensors are made of, back to those that are an end."""
    found, waiting = set[ir.Value](), list(values)
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        if value not in found and producer is not None and not is_end(value):
            waiting += [read for read in producer.inputs if read is not None]
        found.add(value)
    return found


def network_nodes(model: ir.Model) -> list[ir.Node]:
    """Return the operators of the network, in the graph's order; none where all is glue.

    Those are all that lie on a way from `pixels` to `logits`, and what prepares their weights.
    """
    pixels, logits = network_edges(model)
    given, behind, before = set(model.graph.inputs), set(pixels), set(logits)
    for node in model.graph:  # which is in an order of execution
        for reached in (given, behind):
            if not reached.isdisjoint(node.inputs):
                reached.update(node.outputs)
    for node in reversed(model.graph):
        if not before.isdisjoint(node.outputs):
            before.update(value for value in node.inputs if value is not None and value not in pixels)
    return [
        node
        for node in model.graph
        if not before.isdisjoint(node.outputs)
        and (given.isdisjoint(node.outputs) or not behind.isdisjoint(node.outputs))
    ]


def network_graph(graph: Graph) -> Graph:
    """Return the bare network of a stage's graph as a graph of its own: `pixels` to `logits`.

    Raises:
        GraphError: the graph has none.
    """
    model = model_from_graph(graph)
    pixels, logits = network_edges(model)
    if not pixels:
        raise _no_network()
    inner = ir.convenience.extract(model.graph, pixels, logits)
    inner.name, inner.opset_imports[""] = "network", model.opset_imports[""]
    network = ir.Model(inner, ir_version=model.ir_version)
    return graph_from_model(network, graph.dialect)


def with_network(graph: Graph, network: onnx.ModelProto) -> ir.Model:
    """Put another network between `pixels` and `logits`; what it adds may use any name that the graph does not.

    Raises:
        GraphError: the graph has none, or the other network ends in other tensors.
    """
    outer = model_from_graph(graph)
    removed = network_nodes(outer)
    _, logits = network_edges(outer)
    if {value.name for value in logits} != {output.name for output in network.graph.output}:
        found = f"ends in {', '.join(output.name for output in network.graph.output)}"
        raise GraphError("the network", found, "report this network")
    proto = ir.serde.serialize_model(outer)
    names = {node.name for node in removed}
    kept = [node for node in proto.graph.node if node.name not in names]
    del proto.graph.node[:]
    proto.graph.node.extend([*kept, *network.graph.node])
    own = {tensor.name for tensor in network.graph.initializer}
    read = {name for node in kept for name in node.input}
    glue = [tensor for tensor in proto.graph.initializer if tensor.name in read - own]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*glue, *network.graph.initializer])
    model = ir.serde.deserialize_model(proto)
    common.TopologicalSortPass()(model)
    common.RemoveUnusedNodesPass()(model)
    return model
