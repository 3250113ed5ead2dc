"""From the semantic graph to the form one backend wants."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from cascadert.errors import CascadertError, GraphError, PassError
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.export.passes.channel_reductions import FastChannelReductions
from cascadert.export.passes.clean_up import CleanUp
from cascadert.export.passes.gather_first import GatherBeforeCast
from cascadert.export.passes.large_pool import SplitLargeAveragePool
from cascadert.export.passes.matrix_convolution import MatrixProductToConvolution
from cascadert.export.passes.node_names import NameNodes
from cascadert.export.passes.reduction import StripReductionNone
from cascadert.export.passes.resize_scales import OwnResizeConstants
from cascadert.export.passes.tensorrt_ops import CheckTensorRTOperators
from cascadert.export.passes.uint8_boundary import Uint8AtBoundary
from cascadert.graph import Dialect, Graph


def run_passes(model: ir.Model, passes: Sequence[ir.passes.PassBase]) -> bool:
    """Apply passes in order, in place, and say whether any changed the model.

    Raises:
        PassError: a pass failed; errors of this package keep their own message.
    """
    modified = False
    for step in passes:
        try:
            modified |= step(model).modified
        except CascadertError:
            raise
        except Exception as error:
            raise PassError(f"pass '{type(step).__name__}'", f"failed with {error!r}", "report this network") from error
    return modified


def finish_passes() -> list[ir.passes.PassBase]:
    """Return what every dialect ends with."""
    return [
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        OwnResizeConstants(),
        common.TopologicalSortPass(),
        NameNodes(),
        common.NameFixPass(),
        common.ShapeInferencePass(),
    ]


def _passes(dialect: Dialect) -> list[ir.passes.PassBase]:
    if dialect == "tensorrt":
        rewrites: list[ir.passes.PassBase] = [
            StripReductionNone(),
            SplitLargeAveragePool(),
            common.ShapeInferencePass(),
            Uint8AtBoundary(),
            MatrixProductToConvolution(),
            CleanUp(),
            *finish_passes(),
            CheckTensorRTOperators(),
        ]
    elif dialect == "onnxruntime":
        rewrites = [
            common.ShapeInferencePass(),
            GatherBeforeCast(),
            FastChannelReductions(),
            CleanUp(),
            *finish_passes(),
        ]
    else:
        raise GraphError(f"lowering to '{dialect}'", "is not a backend", "choose 'onnxruntime' or 'tensorrt'")
    return rewrites


def lower(graph: Graph, dialect: Dialect) -> Graph:
    """Make the form of a semantic graph that one backend takes, equal in values.

    Args:
        graph: a graph of the dialect "semantic".
        dialect: "onnxruntime" or "tensorrt".

    Raises:
        GraphError: the graph is lowered already, broken, or the dialect is no backend.
        PassError: the backend is known to refuse an operator; names the node and the module it came from.
    """
    if graph.dialect != "semantic":
        found = f"was lowered to '{graph.dialect}' already"
        raise GraphError(f"lowering to '{dialect}'", f"the graph {found}", "start from the bundle's semantic graph")
    passes = _passes(dialect)
    model = model_from_graph(graph)
    run_passes(model, passes)
    lowered = graph_from_model(model, dialect)
    if (lowered.inputs, lowered.outputs) != (graph.inputs, graph.outputs):
        found = f"ports became {', '.join(map(str, (*lowered.inputs, *lowered.outputs)))}"
        raise PassError(f"lowering to '{dialect}'", found, "report this network")
    return lowered
