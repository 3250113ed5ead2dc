"""The same graph in another ONNX opset: older for older parsers, newer where a type needs it."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.version_converter import convert_version

from cascadert.errors import PassError
from cascadert.export.lowering import run_passes
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.export.passes.base import describe, nodes_of
from cascadert.export.passes.older_opset import REDEFINED, OlderOpset, oldest_ir_version, opset_of
from cascadert.graph import Graph

NEWEST_OPSET = 24
"""That onnxscript converts to and TensorRT reads."""


_TIDY = (
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.RemoveUnusedNodesPass(),
    common.NameFixPass(),
)


def to_opset(graph: Graph, opset: int) -> Graph:
    """Make the form of a graph that a backend of some opset reads, equal in values.

    Names of nodes and tensors, types, shapes and the record of modules stay.

    Raises:
        PassError: the opset is out of range, or an operator cannot be said in it; names the node and its module.
        GraphError: the graph is broken.
    """
    model = model_from_graph(graph)
    if opset_of(model) == opset:
        return graph
    convert_model(model, opset)
    converted = graph_from_model(model, graph.dialect)
    if (converted.inputs, converted.outputs) != (graph.inputs, graph.outputs):
        found = f"ports became {', '.join(map(str, (*converted.inputs, *converted.outputs)))}"
        raise PassError(f"conversion to opset {opset}", found, "report this network")
    return converted


def convert_model(model: ir.Model, opset: int) -> None:
    """Do the same in place.

    Raises:
        PassError: see `to_opset`.
    """
    found = opset_of(model)
    if opset > NEWEST_OPSET:
        raise PassError(f"opset {opset}", "is newer than any backend reads", f"choose {NEWEST_OPSET} or older")
    if opset < found:
        run_passes(model, [OlderOpset(opset), *_TIDY])
        return
    for node in nodes_of(model, *REDEFINED):
        if found < REDEFINED[node.op_type] <= opset:
            remedy = "choose a target with an older TensorRT, or replace that operation in the network"
            raise PassError(describe(node), f"means something else in ONNX opset {opset}", remedy)
    convert_version(model, opset)
    model.ir_version = max(model.ir_version, oldest_ir_version(opset))
