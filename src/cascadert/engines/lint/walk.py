"""Every rule over every node of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from cascadert.engines.facts import BackendFacts
from cascadert.engines.lint import Finding
from cascadert.engines.lint.operators import control_flow, inputs_known_at_build, operator_support, pools, resizes
from cascadert.engines.lint.quantization import quantization
from cascadert.engines.lint.releases import Builder, make_builder
from cascadert.engines.lint.tensor_types import float32_products, known_types, ports, untyped_half
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.passes.base import describe, name_scopes
from cascadert.export.passes.older_opset import opset_of
from cascadert.export.passes.tensorrt_ops import Objection
from cascadert.graph import Graph

if TYPE_CHECKING:
    import onnx_ir as ir

Rule = Callable[["ir.Node", Builder], Iterator[Objection]]

_RULES: tuple[Rule, ...] = (
    operator_support,
    pools,
    resizes,
    inputs_known_at_build,
    control_flow,
    known_types,
    untyped_half,
    float32_products,
    quantization,
)


def walk(graph: Graph, facts: BackendFacts, compute_capability: str | None) -> Iterator[Finding]:
    """Yield findings: of the graph as a whole, of its ports, then node by node."""
    model = _typed(graph)
    if facts.name == "onnxruntime":
        yield from _opset(model, facts.opset, f"ONNX Runtime {facts.versions}")
        return
    builder = make_builder(facts, compute_capability)
    yield from _opset(model, builder.opset, builder.named())
    for where, name, objection in ports(model, builder):
        yield Finding(objection.rule, name, None, where, objection.found, objection.remedy)
    for node in model.graph.all_nodes():
        for rule in _RULES:
            for objection in rule(node, builder):
                yield _finding(node, objection)


def _typed(graph: Graph) -> ir.Model:
    """Read a graph and infer the types that it does not state."""
    from onnx_ir.passes import common

    model = model_from_graph(graph)
    if model.functions:
        common.InlinePass()(model)
    return common.ShapeInferencePass()(model).model


def _opset(model: ir.Model, newest: int, reader: str) -> Iterator[Finding]:
    found = opset_of(model)
    if found > newest:
        what = f"is of ONNX opset {found} where {reader} reads {newest} at most"
        yield Finding("opset", "", None, "the graph", what, f"convert it to opset {newest}, or export it with that")


def _finding(node: ir.Node, objection: Objection) -> Finding:
    scopes = name_scopes(node)
    module = scopes[-1] if scopes else None
    return Finding(objection.rule, str(node.name), module, describe(node), objection.found, objection.remedy)
