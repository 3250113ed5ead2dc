"""Rules about QuantizeLinear and DequantizeLinear (platforms.md 4.3; operators.md of every release: zero point 0)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cascadert.engines.lint.operators import QUANTIZERS
from cascadert.engines.lint.releases import Builder
from cascadert.export.passes.base import constant, integer
from cascadert.export.passes.tensorrt_ops import Objection
from cascadert.precision import FP16_SCALES_OPSET

if TYPE_CHECKING:
    import onnx_ir as ir

_SYMMETRIC = "quantize symmetrically to int8: QInt8, ActivationSymmetric, WeightSymmetric"
_FLOAT_BIAS = "keep biases in floating point: QuantizeBias=False"

# The axis of output channels of a weight, along which kernels take one scale each.
_CHANNEL_AXES = {"Conv": 0, "ConvTranspose": 1}


def quantization(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """All rules of a quantizer, or of an operator that reads quantized weights."""
    if node.op_type in QUANTIZERS:
        yield from _zero_point(node)
        yield from _scale(node, builder)
        yield from _activation(node)
    elif node.op_type in _CHANNEL_AXES:
        yield from _weights(node)


def _zero_point(node: ir.Node) -> Iterator[Objection]:
    given = node.inputs[2] if len(node.inputs) > 2 else None
    shift = constant(given)
    quantized = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    dtype = "UNDEFINED" if quantized is None or quantized.dtype is None else quantized.dtype.name
    if dtype in ("INT32", "INT16", "UINT16"):
        yield Objection("quantized-type", f"reads {dtype.lower()}, which TensorRT does not dequantize", _FLOAT_BIAS)
    elif given is not None and shift is None:
        yield Objection("zero-point", "has a zero point computed at run time, where TensorRT has none", _SYMMETRIC)
    elif shift is not None and shift.any():
        value = int(shift[shift != 0][0])
        yield Objection("zero-point", f"has the zero point {value}, where TensorRT has none but 0", _SYMMETRIC)
    elif dtype == "UINT8":
        # Tried with TensorRT-RTX 1.7.1: uint8 with zero point 0, ONNX's default, parses and becomes INT8.
        found = "quantizes to uint8, which TensorRT refuses or makes int8: what is above 127 saturates without a word"
        yield Objection("quantized-type", found, _SYMMETRIC)


def _scale(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    given = node.inputs[1]
    scale = constant(given)
    if scale is None:
        if builder.full:  # NvInfer.h, IQuantizeLayer: scales are build-time constants
            found = f"computes its scale at run time, which {builder.named()} must know when it builds"
            yield Objection("scale", found, "calibrate, and quantize with constant scales")
    elif (scale <= 0).any():
        yield Objection("scale", "has a scale that is not positive, which TensorRT refuses", "calibrate again")
    if given is None or given.dtype is None or given.dtype.name != "FLOAT16":
        return
    if not builder.facts.strongly_typed:
        found = f"has float16 scales where {builder.named()} is not strongly typed"
        yield Objection("scale", found, "give it float32 scales and the flags INT8 and FP16")
    elif (opset := _opset(node)) < FP16_SCALES_OPSET:
        found = f"has float16 scales, which ONNX opset {opset} does not define"
        yield Objection("scale", found, f"convert it to opset {FP16_SCALES_OPSET}")


def _opset(node: ir.Node) -> int:
    imports = {} if node.graph is None else node.graph.opset_imports
    return imports.get("", FP16_SCALES_OPSET)  # only the outermost graph says


def _activation(node: ir.Node) -> Iterator[Objection]:
    """Docs of explicit quantization: per channel is for weights. Others build, but no int8 kernel reads them."""
    scale, source = constant(node.inputs[1]), node.inputs[0]
    producer = None if source is None else source.producer()
    if producer is not None and producer.op_type == "QuantizeLinear":
        return  # said of the quantizer already
    if scale is not None and scale.size > 1 and constant(source) is None:
        found = f"quantizes an activation with {scale.size} scales, which no int8 kernel of TensorRT reads"
        yield Objection("quantized-axis", found, "use one scale for an activation")


def _weights(node: ir.Node) -> Iterator[Objection]:
    weight = node.inputs[1]
    producer = None if weight is None else weight.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        return
    scale, axis, wanted = constant(producer.inputs[1]), integer(producer, "axis", 1), _CHANNEL_AXES[node.op_type]
    if scale is not None and scale.size > 1 and axis != wanted:
        found = f"reads weights quantized along axis {axis}, where TensorRT's int8 kernels take axis {wanted}"
        yield Objection("quantized-axis", found, "quantize weights along the axis of output channels")
