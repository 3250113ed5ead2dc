"""Q/DQ pairs as TensorRT wants them: signed, symmetric, per-channel weights, bias in floating point."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, constant, describe, nodes_of
from cascadert.export.placement import place
from cascadert.precision import Range

_LARGEST = 127  # -128 is left out: TensorRT's range is symmetric
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)  # scales may become float16, and must not become 0


class QuantizeForTensorRT(GraphPass):
    """Insert Q/DQ pairs in front of what `placement.place` chooses, one pair for each tensor, and for each weight.

    Weights stay in floating point in front of their pair: TensorRT folds it, and TensorRT 8 takes nothing else.

    Args:
        ranges: of every tensor that was measured.
        keep: operators that stay in floating point, by the name of their first output.
    """

    def __init__(self, ranges: Mapping[str, Range], keep: Collection[str] = ()) -> None:
        super().__init__()
        self._ranges, self._keep = ranges, keep
        self._pairs: dict[ir.Value, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the pairs."""
        placement = place(model, self._ranges, self._keep)
        self._pairs.clear()
        for node, inputs in placement.readers.items():
            for i in inputs:
                if (value := node.inputs[i]) is not None:
                    low, high = placement.ranges[value]
                    scale = np.float32(max(abs(low), abs(high)) / _LARGEST)
                    node.replace_input_with(i, self._pair(value, np.asarray(scale), node))
            if node.op_type == "Conv":
                self._quantize_weights(node)
        return ir.passes.PassResult(model, bool(placement.readers))

    def ensures(self, model: ir.Model) -> None:
        """Every scale is positive and finite."""
        for node in nodes_of(model, "QuantizeLinear", "DequantizeLinear"):
            scale = constant(node.inputs[1])
            if scale is None or not (np.isfinite(scale).all() and (scale > 0).all()):
                raise PassError(describe(node), f"has the scale {scale}", "calibrate again")

    def _quantize_weights(self, node: ir.Node) -> None:
        value, weights = node.inputs[1], constant(node.inputs[1])
        if value is None or weights is None:
            raise PassError(describe(node), "has no constant weights", "report this network")
        largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)))
        # A channel of zeros has no scale of its own; any will do.
        scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(_LARGEST)
        node.replace_input_with(1, self._pair(value, scale, node, axis=0))

    def _pair(
        self, value: ir.Value, scale: npt.NDArray[np.float32], reader: ir.Node, axis: int | None = None
    ) -> ir.Value:
        """Return the value behind its Q/DQ pair, which is made right before the first reader."""
        if value in self._pairs:
            return self._pairs[value]
        graph = reader.graph
        if graph is None:
            raise PassError(describe(reader), "is in no graph", "report this network")
        scale = np.maximum(scale, np.float32(_SMALLEST_SCALE))
        zeros = np.zeros(scale.shape, np.int8)
        scales, zero = (
            _initializer(graph, f"{value.name}_scale", scale),
            _initializer(graph, f"{value.name}_zero", zeros),
        )
        quantized = ir.Value(name=f"{value.name}_int8", shape=value.shape, type=ir.TensorType(ir.DataType.INT8))
        restored = ir.Value(name=f"{value.name}_restored", shape=value.shape, type=value.type)
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        pair = [
            ir.Node("", op, [source, scales, zero], attributes, outputs=[made], name=f"{reader.name}/{value.name}/{op}")
            for op, source, made in (("QuantizeLinear", value, quantized), ("DequantizeLinear", quantized, restored))
        ]
        for node in pair:
            node.metadata_props.update(reader.metadata_props)
        graph.insert_before(reader, pair)
        self._pairs[value] = restored
        return restored


def _initializer(graph: ir.Graph | ir.Function, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    if not isinstance(graph, ir.Graph):
        raise PassError(f"'{name}'", "belongs into a function", "report this network")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
