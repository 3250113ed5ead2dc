"""A small network and its glue, made by hand in every precision."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cascadert.engines.recipe import BuilderSettings, EngineRecipe, TensorRTBackend
from cascadert.graph import Graph, TensorSpec

Kind = Literal["fp32", "fp16", "int8", "int8-fp16"]

CHANNELS, CLASSES, SIZE = 32, 5, 16
CONVOLUTIONS = ("net.first", "net.left", "net.right", "net.up", "net.last")
QUANTIZED = ("net.left", "net.right", "net.up")
GLUE = ("glue.shift", "glue.softmax")


def network(kind: Kind = "fp32", opset: int = 17, batch: int | str = 1) -> Graph:
    """Convolutions, a residual add and a deconvolution, then a Softmax in float32.

    Args:
        kind: fp16 is casts; int8 is symmetric Q/DQ around `QUANTIZED`, with the rest in either type.
        opset: of ONNX; float16 scales need 19.
        batch: "n" for a dynamic one.
    """
    maker = Maker(kind)
    x = maker.cast("x", "halved", TensorProto.FLOAT16) if maker.half else "x"
    first = maker.relu(maker.convolution(x, "first", 3, CHANNELS))
    left = maker.convolution(first, "left", CHANNELS, CHANNELS, quantize=True)
    left = maker.node("LeakyRelu", "net.leaky", [left], "leaky", alpha=0.25)
    right = maker.convolution(left, "right", CHANNELS, CHANNELS, quantize=True)
    residual = maker.relu(maker.node("Add", "net.residual", [right, first], "residual"))
    up = maker.relu(maker.convolution(residual, "up", CHANNELS, CHANNELS, "ConvTranspose", quantize=True))
    logits = maker.convolution(up, "last", CHANNELS, CLASSES)
    logits = maker.cast(logits, "logits", TensorProto.FLOAT)
    shift = maker.constant("shift", np.linspace(0.1, 0.7, CLASSES).reshape(CLASSES, 1, 1).astype(np.float32))
    maker.node("Softmax", GLUE[1], [maker.node("Sub", GLUE[0], [logits, shift], "shifted")], "scores", axis=1)
    sizes = {
        "x": (batch, 3, SIZE, SIZE),
        "logits": (batch, CLASSES, SIZE, SIZE),
        "scores": (batch, CLASSES, SIZE, SIZE),
    }
    return maker.graph(sizes, opset)


def recipe(
    graph: Graph,
    backend: TensorRTBackend = "tensorrt",
    compute_capability: str = "8.6",
    strongly_typed: bool = False,
    shapes: Any = None,
    **settings: Any,
) -> EngineRecipe:
    """Return a recipe for a graph, with `BuilderSettings` by name."""
    return EngineRecipe(
        "fast", graph, "fp32", backend, compute_capability, strongly_typed, shapes or {}, BuilderSettings(**settings)
    )


class Maker:
    """Collects the nodes and constants of a graph whose nodes are called `net.<tensor>`, the glue's aside."""

    def __init__(self, kind: Kind) -> None:
        self.int8, self.half = kind.startswith("int8"), kind.endswith("fp16")
        self._float = np.float16 if self.half else np.float32
        self._random = np.random.default_rng(0)
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def node(self, operator: str, name: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def cast(self, source: str, result: str, to: int) -> str:
        """Cast where there is something to cast; otherwise only rename."""
        if self.half:
            return self.node("Cast", f"net.{result}", [source], result, to=to)
        return self.node("Identity", f"net.{result}", [source], result)

    def relu(self, source: str) -> str:
        return self.node("Relu", f"net.relu_{source}", [source], f"{source}_relu")

    def convolution(
        self, source: str, name: str, channels: int, filters: int, operator: str = "Conv", *, quantize: bool = False
    ) -> str:
        weights = (self._random.standard_normal((filters, channels, 3, 3)) / (3 * channels**0.5)).astype(self._float)
        bias = self.constant(f"{name}_bias", self._random.standard_normal(filters).astype(self._float))
        if quantize and self.int8:
            axis = 0 if operator == "Conv" else 1
            source, kernel = self._quantized(source), self._quantized_weights(f"{name}_weights", weights, axis)
        else:
            kernel = self.constant(f"{name}_weights", weights)
        return self.node(operator, f"net.{name}", [source, kernel, bias], name, pads=[1, 1, 1, 1])

    def _quantized(self, source: str) -> str:
        scale = self.constant(f"{source}_scale", np.array(0.05, self._float))
        zero = self.constant(f"{source}_zero", np.array(0, np.int8))
        quantized = self.node("QuantizeLinear", f"net.q_{source}", [source, scale, zero], f"{source}_int8")
        return self.node("DequantizeLinear", f"net.dq_{source}", [quantized, scale, zero], f"{source}_float")

    def _quantized_weights(self, name: str, weights: np.ndarray, axis: int) -> str:
        others = tuple(i for i in range(weights.ndim) if i != axis)
        scales = (np.abs(weights).max(others, keepdims=True) / 127).astype(self._float)
        values = [np.clip(np.round(weights / scales), -127, 127).astype(np.int8), scales.ravel()]
        parts = [self.constant(f"{name}_{part}", value) for part, value in zip(("int8", "scale"), values, strict=True)]
        zero = self.constant(f"{name}_zero", np.zeros(scales.size, np.int8))
        return self.node("DequantizeLinear", f"net.dq_{name}", [*parts, zero], name, axis=axis)

    def graph(self, sizes: dict[str, tuple[int | str, ...]], opset: int) -> Graph:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
        content = helper.make_graph(self._nodes, "toy", infos[:1], infos[1:], self._constants)
        model = helper.make_model(content, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        specs = tuple(TensorSpec(name, "float32", size) for name, size in sizes.items())
        return Graph(model.SerializeToString(), specs[:1], specs[1:], "tensorrt")
