"""Operators that standard ONNX lacks, as ONNX functions, and how PyTorch's become calls of them.

PyTorch's own exporter turns max un-pooling into integer arithmetic that TensorRT cannot parse, and adaptive pooling
into gathers of every bin. So both stay one call through the export, and a pass that knows the shapes then chooses the
form. The bodies are exact in standard ONNX, so that a graph with calls runs everywhere.
"""

# The bodies below are ONNX written in Python's syntax; its types are not Python's.
# mypy: disable-error-code="type-var,arg-type,misc,has-type"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Op, Opset

DOMAIN = "cascadert"
_OPSET = Opset(DOMAIN, 1)


@script(_OPSET)
def NetworkBoundary(x):  # type: ignore[no-untyped-def]  # noqa: N802, D103
    return op.Identity(x)


@script(_OPSET)
def MaxUnpool2d(x, indices, size):  # type: ignore[no-untyped-def]  # noqa: N802, D103
    leading = op.Shape(x, start=0, end=2)
    flat = op.Concat(leading, op.Constant(value_ints=[-1]), axis=0)
    area = op.ReduceProd(size, keepdims=1)
    zeros = op.Expand(op.CastLike(op.Constant(value_floats=[0.0]), x), op.Concat(leading, area, axis=0))
    placed = op.ScatterElements(zeros, op.Reshape(indices, flat), op.Reshape(x, flat), axis=2)
    return op.Reshape(placed, op.Concat(leading, size, axis=0))


@script(_OPSET)
def BinWeights(length, bins):  # type: ignore[no-untyped-def]  # noqa: N802, D103
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    row = op.Unsqueeze(op.Range(zero, bins, one), op.Constant(value_ints=[1]))
    column = op.Unsqueeze(op.Range(zero, length, one), op.Constant(value_ints=[0]))
    first = op.Div(op.Mul(row, length), bins)
    last = op.Div(op.Sub(op.Add(op.Mul(op.Add(row, one), length), bins), one), bins)
    inside = op.And(op.GreaterOrEqual(column, first), op.Less(column, last))
    return op.Div(op.Cast(inside, to=1), op.Cast(op.Sub(last, first), to=1))


@script(_OPSET)
def AdaptiveAvgPool2d(x, size):  # type: ignore[no-untyped-def]  # noqa: N802, D103
    height, width = op.Split(op.Shape(x, start=2, end=4), num_outputs=2)
    rows, columns = op.Split(size, num_outputs=2)
    vertical = BinWeights(op.Squeeze(height), op.Squeeze(rows))
    horizontal = BinWeights(op.Squeeze(width), op.Squeeze(columns))
    return op.MatMul(op.MatMul(vertical, x), op.Transpose(horizontal, perm=[1, 0]))


def _callable(name: str, *inputs: tuple[str, str]) -> Op:
    parameter = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        name,
        DOMAIN,
        1,
        inputs=[parameter(label, f"tensor({kind})") for label, kind in inputs],
        outputs=[parameter("y", "tensor(float)")],
    )
    return Op(_OPSET, name, schema)


_max_unpool2d = _callable("MaxUnpool2d", ("x", "float"), ("indices", "int64"), ("size", "int64"))
_adaptive_avg_pool2d = _callable("AdaptiveAvgPool2d", ("x", "float"), ("size", "int64"))


def _sizes(values: Sequence[int]) -> Any:
    return op.Constant(value_ints=[int(value) for value in values])


def _translate_max_unpool2d(self: Any, indices: Any, output_size: Sequence[int]) -> Any:
    return _max_unpool2d(self, indices, _sizes(output_size))


def _translate_adaptive_avg_pool2d(self: Any, output_size: Sequence[int]) -> Any:
    return _adaptive_avg_pool2d(self, _sizes(output_size))


def _translate_max_pool2d_with_indices(
    self: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Any:
    def pair(values: Sequence[int]) -> list[int]:
        return list(values) * (2 // len(values))

    values, flat = op.MaxPool(
        self,
        kernel_shape=pair(kernel_size),
        strides=pair(stride or kernel_size),
        pads=pair(padding) * 2,
        dilations=pair(dilation),
        ceil_mode=int(ceil_mode),
    )
    # ONNX counts through the whole tensor, PyTorch within one plane.
    return values, op.Mod(flat, op.ReduceProd(op.Shape(self, start=2), keepdims=1))


def _translate_sort(self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    # TopK breaks ties by the lower index: a stable sort, whether asked for or not.
    axis = dim % len(self.shape)
    return op.TopK(self, op.Shape(self, start=axis, end=axis + 1), axis=axis, largest=int(descending), sorted=1)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the argument `custom_translation_table` of `torch.onnx.export`."""
    aten = torch.ops.aten
    return {
        aten.max_unpool2d.default: _translate_max_unpool2d,
        aten.max_pool2d_with_indices.default: _translate_max_pool2d_with_indices,
        aten.adaptive_avg_pool2d.default: _translate_adaptive_avg_pool2d,
        aten._adaptive_avg_pool2d.default: _translate_adaptive_avg_pool2d,
        aten.sort.stable: _translate_sort,
    }


def add_functions(model: ir.Model) -> None:
    """Put the bodies of this module's functions into `model`, in place."""
    for function in (NetworkBoundary, MaxUnpool2d, BinWeights, AdaptiveAvgPool2d):
        body = ir.serde.deserialize_function(function.to_function_proto())
        model.functions[body.identifier()] = body
    model.graph.opset_imports.setdefault(DOMAIN, 1)
