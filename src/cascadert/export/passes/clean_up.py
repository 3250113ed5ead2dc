"""Constant folding, batch norm into convolutions, dead code: onnxscript's optimiser under this package's contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript import optimizer

from cascadert.export.functions import DOMAIN
from cascadert.export.network import is_logits, is_pixels
from cascadert.export.passes.base import GraphPass


def _signature(model: ir.Model) -> list[object]:
    """Everything but the contents of tensors; no rewrite of the optimiser changes only those."""
    nodes = [
        (node.domain, node.op_type, *(v and v.name for v in (*node.inputs, *node.outputs)), str(node.attributes))
        for node in model.graph.all_nodes()
    ]
    return [nodes, sorted(model.graph.initializers), sorted(map(str, model.functions)), sorted(model.opset_imports)]


_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
_TOLERANCE = 1e-4  # wider than the optimiser's, which takes a constant so near for the neutral one
_KEEPS_VALUES = frozenset(("Cast", "CastLike", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Expand"))


class CleanUp(GraphPass):
    """Fold, simplify, merge equal constants, drop what nobody reads. Calls of functions stay calls."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the optimiser, which reports nothing itself; the comparison is ours."""
        before = _signature(model)
        with _hidden(model):
            optimizer.optimize_ir(model, inline=False)
        return ir.passes.PassResult(model, _signature(model) != before)


@contextmanager
def _hidden(model: ir.Model) -> Iterator[None]:
    """Hide from the optimiser what it would drop and must not.

    That is each Identity between a port and the network, whose name would go with it, and arithmetic with a constant
    that is nearly neutral: without `x + 1e-8` the logarithm or quotient after it is no number.
    """
    hidden = [
        node for node in model.graph if (node.op_type == "Identity" and _is_edge(node)) or _is_nearly_neutral(node)
    ]
    known = dict(model.opset_imports)
    for node in hidden:
        node.domain, model.opset_imports[DOMAIN] = DOMAIN, 1
    try:
        yield
    finally:
        for node in hidden:
            node.domain = ""
        if hidden and DOMAIN not in known:
            del model.opset_imports[DOMAIN]


def _is_edge(node: ir.Node) -> bool:
    source, made = node.inputs[0], node.outputs[0]
    return is_pixels(made) or (source is not None and is_logits(source))


def _is_nearly_neutral(node: ir.Node) -> bool:
    neutral = _NEUTRAL.get(node.op_type)
    if neutral is None or node.domain not in ("", "ai.onnx"):
        return False
    constants = [value for value in map(_constant, node.inputs) if value is not None]
    return any(0 < float(np.max(np.abs(value - neutral))) < _TOLERANCE for value in constants if value.size)


def _constant(value: ir.Value | None) -> NDArray[np.float64] | None:
    """Return a floating-point constant, also behind operators that keep its values."""
    while value is not None and (found := ir.convenience.get_const_tensor(value)) is None:
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.op_type in _KEEPS_VALUES else None
    if value is None or found is None or not found.dtype.is_floating_point():
        return None
    return found.numpy().astype(np.float64)
