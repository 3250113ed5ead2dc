"""What every pass shares: the contract, where a node came from, and how to put new nodes in its place."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cascadert.errors import PassError

_SCOPES = "pkg.torch.onnx.name_scopes"

# Operators that only put the elements of their first input elsewhere.
REARRANGING = frozenset(
    (
        *("Reshape", "Transpose", "Gather", "GatherND", "GatherElements", "Slice", "Squeeze", "Unsqueeze", "Flatten"),
        *("DepthToSpace", "SpaceToDepth"),
    )
)

Build = Callable[[ir.tape.Tape], Sequence[ir.Value]]


class GraphPass(ir.passes.InPlacePass):
    """A pass whose `requires` and `ensures` raise `PassError`, and which reports truthfully what it changed."""

    def __call__(self, model_or_result: ir.Model | ir.passes.PassResult, /) -> ir.passes.PassResult:
        """Check what the pass requires, run it, check what it ensures.

        Raises:
            PassError: a requirement or guarantee does not hold.
        """
        try:
            return super().__call__(model_or_result)
        except ir.passes.InvariantError as error:
            if isinstance(error.__cause__, PassError):
                raise error.__cause__ from error
            raise


def name_scopes(node: ir.Node) -> list[str]:
    """Return the modules around a node, outermost first, as PyTorch recorded them: `["network", "network.head"]`."""
    recorded = node.metadata_props.get(_SCOPES)
    # The first entry is the stage itself, the last one the operation.
    return list(ast.literal_eval(recorded))[1:-1] if recorded else []


def describe(node: ir.Node) -> str:
    """Name a node and the network module it came from, for messages."""
    scopes = name_scopes(node)
    origin = f"from module '{scopes[-1]}'" if scopes else "from the stage's own code"
    return f"node '{node.name}' ({node.op_type}, {origin})"


def nodes_of(model: ir.Model, *op_types: str, domain: str = "") -> list[ir.Node]:
    """List the nodes of some operators, subgraphs included, safe to edit while walking."""
    return [node for node in model.graph.all_nodes() if node.domain == domain and node.op_type in op_types]


def constant(value: ir.Value | None) -> npt.NDArray[Any] | None:
    """Return the array behind an initialiser or Constant node, `None` for anything else."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def literal(tape: ir.tape.Tape, array: npt.ArrayLike) -> ir.Value:
    """Add a constant; lists of int become int64."""
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(array))})


def static_size(value: ir.Value | None, dims: Iterable[int]) -> tuple[int, ...] | None:
    """Return some dimensions of a value if all of them are fixed."""
    if value is None or value.shape is None:
        return None
    sizes = [value.shape[dim] for dim in dims]
    return tuple(size for size in sizes if isinstance(size, int)) if all(isinstance(s, int) for s in sizes) else None


def is_read(value: ir.Value) -> bool:
    """Whether any node or the graph's own outputs read a value."""
    return bool(value.uses()) or value.is_graph_output()


def integers(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """Return an attribute of integers, or its default."""
    attribute = node.attributes.get(name)
    return tuple(default) if attribute is None else tuple(attribute.as_ints())


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def substitute(node: ir.Node, build: Build) -> None:
    """Put the nodes that `build` records in the place of `node`; its outputs keep name, type and shape.

    `build` returns one value per output of `node` (the first ones, if the others are unused).
    """
    tape = ir.tape.Tape()
    values = build(tape)
    for new in tape.nodes:
        new.metadata_props.update({**node.metadata_props, **new.metadata_props})
    graph = node.graph
    if graph is None:
        raise PassError(describe(node), "is in no graph", "report this network")
    kept = node.outputs[: len(values)]
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, kept, values)
