"""Stable names at the edge of the bare network, so that it can be cut out, converted and put back.

Markers go in before any optimisation and come out after all of it: no rewrite can then move an operator across the
edge, and what lies between `pixels` and `logits` is the network, all of it and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.functions import DOMAIN, NetworkBoundary, add_functions
from cascadert.export.network import behind
from cascadert.export.passes.base import GraphPass, describe, name_scopes, nodes_of
from cascadert.stage_spec import ENTROPY, LABELS, LOGITS, SCORES

Use = tuple[ir.Node, int]

SCOPE = "network"
MARKER = NetworkBoundary.name
_KEY = "cascadert.boundary"
_FIRST = (LABELS, LOGITS, SCORES, ENTROPY)  # what these are made of is `logits`; carried tensors come behind it


def _varying(model: ir.Model) -> set[ir.Value]:
    """Collect the floating-point tensors that depend on an input; weights, constants and shapes do not count."""
    reached: set[ir.Value] = set(model.graph.inputs)
    for node in model.graph:
        if any(value in reached for value in node.inputs if value is not None):
            reached.update(node.outputs)
    return {value for value in reached if value.dtype is not None and value.dtype.is_floating_point()}


def _inside(node: ir.Node) -> bool:
    return name_scopes(node)[:1] == [SCOPE]


def _edges(model: ir.Model) -> Iterator[tuple[str, ir.Value, list[Use]]]:
    """Yield each tensor that crosses the edge: its side, itself, and its uses on the far side."""
    varying, seen = _varying(model), set()
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is None or value in seen or value not in varying:
                continue
            seen.add(value)
            producer = value.producer()
            from_inside = producer is not None and _inside(producer)
            far = [(use.node, use.idx) for use in value.uses() if _inside(use.node) != from_inside]
            if far or (from_inside and value.is_graph_output()):
                yield ("logits" if from_inside else "pixels"), value, far


def _ends_first(model: ir.Model, ends: list[ir.Value]) -> list[ir.Value]:
    """Sort what leaves the network: what labels are made of, then scores, then the other outputs in their order."""
    outputs = sorted(model.graph.outputs, key=lambda o: _FIRST.index(o.name) if o.name in _FIRST else len(_FIRST))
    ranked: dict[ir.Value, None] = {}
    for output in outputs:
        made = behind([output], ends.__contains__)
        ranked.update(dict.fromkeys(value for value in ends if value in made))
    return [*ranked, *(value for value in ends if value not in ranked)]


class MarkNetworkBoundary(GraphPass):
    """Mark each tensor that enters (`pixels`, `pixels_2`, and so on) or leaves (`logits`) the module `network`.

    Of several that leave it, `logits` is the one that the port "labels" is made of, or else "scores".
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the markers; a graph without a module `network` stays as it is."""
        if nodes_of(model, MARKER, domain=DOMAIN) or not any(map(_inside, model.graph)):
            return ir.passes.PassResult(model, False)
        add_functions(model)
        edges = {value: (side, far) for side, value, far in _edges(model)}
        pixels = [value for value, (side, _) in edges.items() if side == "pixels"]
        logits = _ends_first(model, [value for value, (side, _) in edges.items() if side == "logits"])
        for side, values in (("pixels", pixels), ("logits", logits)):
            for number, value in enumerate(values, start=1):
                self._mark(model, value, edges[value][1], side if number == 1 else f"{side}_{number}")
        return ir.passes.PassResult(model, bool(edges))

    def ensures(self, model: ir.Model) -> None:
        """A network has at least one input and one output."""
        if not any(map(_inside, model.graph)):
            return
        names = {node.metadata_props[_KEY] for node in nodes_of(model, MARKER, domain=DOMAIN)}
        for name in ("pixels", "logits"):
            if name not in names:
                found = "no floating-point tensor crosses its edge there"
                raise PassError(f"'{name}' of the module '{SCOPE}'", found, "return logits that depend on the image")

    @staticmethod
    def _mark(model: ir.Model, value: ir.Value, far: list[Use], name: str) -> None:
        marked = ir.Value(shape=value.shape, type=value.type, name=f"marked_{name}")
        marker = ir.Node(DOMAIN, MARKER, [value], outputs=[marked], name=f"mark_{name}", metadata_props={_KEY: name})
        producer = value.producer()
        if producer is None:
            first = model.graph[0]
            model.graph.insert_before(first, marker)
        else:
            model.graph.insert_after(producer, marker)
        for node, index in far:
            node.replace_input_with(index, marked)
        for i, output in enumerate(model.graph.outputs):
            if output is value:
                value.name, marked.name = f"inner_{value.name}", value.name
                model.graph.outputs[i] = marked


class NameNetworkBoundary(GraphPass):
    """Take the markers out again and leave their names on the tensors."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Remove the markers; where one sits on a port of the graph it becomes an Identity, since ports keep names."""
        markers = nodes_of(model, MARKER, domain=DOMAIN)
        for marker in markers:
            self._unmark(model, marker)
        return ir.passes.PassResult(model, bool(markers))

    def ensures(self, model: ir.Model) -> None:
        """No marker is left."""
        for node in nodes_of(model, MARKER, domain=DOMAIN):
            raise PassError(describe(node), "is still there after the pass", "report this network")

    @staticmethod
    def _unmark(model: ir.Model, marker: ir.Node) -> None:
        value, marked, name = marker.inputs[0], marker.outputs[0], marker.metadata_props.pop(_KEY)
        if value is None:
            raise PassError(describe(marker), "has no input", "report this network")
        taken = ir.convenience.create_value_mapping(model.graph).get(name)
        if taken is not None and taken not in (value, marked):
            found = "another tensor of the graph has this name"
            raise PassError(f"'{name}' of the module '{SCOPE}'", found, "rename the port")
        if value.is_graph_input() or marked.is_graph_output() or value.is_initializer():
            marker.domain, marker.op_type = "", "Identity"
            inner = marked if value.is_graph_input() else value
            if not inner.is_graph_output() and taken is None:
                inner.name = name
            return
        marked.replace_all_uses_with(value)
        marker_graph = marker.graph
        if marker_graph is not None:
            marker_graph.remove(marker, safe=True)
        value.name = name
