"""Which operators leave the range of float16, and stay in float32."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from cascadert.export.network import network_nodes
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.passes.base import constant, describe
from cascadert.graph import Graph
from cascadert.precision import FP16_MAX

HEADROOM = 2.0
"""Calibration does not see every frame: a tensor may grow to twice its measured peak before it overflows."""


def operators_beyond_half(graph: Graph, peaks: Mapping[str, float]) -> dict[str, str]:
    """Return the operators that read or make what float16 cannot hold, by their first output, each with the reason.

    Args:
        graph: a stage's graph in float32.
        peaks: largest absolute value of each tensor that was measured.
    """
    model = model_from_graph(graph)
    known, kept = dict(peaks), {}
    for node in network_nodes(model):
        read = [value for value in node.inputs if value is not None]
        widest = max((known.get(str(value.name), 0.0) for value in read), default=0.0)
        for value in node.outputs:  # what lowering added rearranges or averages: it exceeds no input
            known.setdefault(str(value.name), widest)
        beyond = [name for value in (*read, *node.outputs) if (name := _beyond(value, known)) is not None]
        if beyond:
            kept[str(node.outputs[0].name)] = f"{describe(node)}: {beyond[0]}"
    return kept


def _beyond(value: ir.Value, peaks: Mapping[str, float]) -> str | None:
    """Say how far a tensor or weight goes, if that is too far."""
    weights = constant(value)
    if weights is None:
        peak = peaks.get(str(value.name), 0.0)
        return None if peak <= FP16_MAX / HEADROOM else f"'{value.name}' reaches {peak:.3g}"
    if weights.dtype != np.float32:  # a size or position
        return None
    largest = float(np.abs(weights).max(initial=0.0))
    return None if largest <= FP16_MAX else f"its weights reach {largest:.3g}"
