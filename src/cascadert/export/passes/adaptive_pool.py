"""Adaptive average pooling in forms that every backend has: a mean, plain pooling, or two constant matrix products."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.functions import DOMAIN
from cascadert.export.passes.base import GraphPass, constant, describe, literal, nodes_of, static_size, substitute
from cascadert.export.passes.large_pool import LARGEST_KERNEL_AREA

Sizes = tuple[tuple[int, int], tuple[int, int]]


def bin_weights(length: int, bins: int) -> npt.NDArray[np.float32]:
    """Weights `[bins, length]` whose product with a column of pixels is PyTorch's adaptive average of it.

    Bin i averages pixels floor(i * length / bins) up to ceil((i + 1) * length / bins), so neighbours may overlap.
    """
    weights = np.zeros((bins, length), np.float32)
    for i in range(bins):
        first, last = i * length // bins, -(-(i + 1) * length // bins)
        weights[i, first:last] = 1 / (last - first)
    return weights


def _sizes(node: ir.Node) -> Sizes:
    """Return (H, W) of the input and of the output."""
    size, asked = static_size(node.inputs[0], (2, 3)), constant(node.inputs[1])
    if size is None or asked is None:
        shape = None if node.inputs[0] is None else node.inputs[0].shape
        raise PassError(describe(node), f"pools a map of the shape {shape}", "use a fixed image size")
    return (size[0], size[1]), (int(asked[0]), int(asked[1]))


class SpecialiseAdaptivePool(GraphPass):
    """Choose the form of each `AdaptiveAvgPool2d` by its sizes."""

    def requires(self, model: ir.Model) -> None:
        """The spatial sizes are fixed."""
        for node in nodes_of(model, "AdaptiveAvgPool2d", domain=DOMAIN):
            _sizes(node)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every adaptive pooling."""
        pools = nodes_of(model, "AdaptiveAvgPool2d", domain=DOMAIN)
        for node in pools:
            self._rewrite(node)
        return ir.passes.PassResult(model, bool(pools))

    def ensures(self, model: ir.Model) -> None:
        """No adaptive pooling is left."""
        for node in nodes_of(model, "AdaptiveAvgPool2d", domain=DOMAIN):
            raise PassError(describe(node), "is still there after the pass", "report this network")

    def _rewrite(self, node: ir.Node) -> None:
        source, ((height, width), (rows, columns)) = node.inputs[0], _sizes(node)
        kernel = [height // rows, width // columns]
        divides = height % rows == 0 and width % columns == 0

        def build(tape: ir.tape.Tape) -> list[ir.Value]:
            if rows == columns == 1:
                return [tape.op("ReduceMean", [source, literal(tape, [2, 3])], {"keepdims": 1})]
            if divides and kernel[0] * kernel[1] <= LARGEST_KERNEL_AREA:
                return [tape.op("AveragePool", [source], {"kernel_shape": kernel, "strides": kernel})]
            partial = tape.op("MatMul", [literal(tape, bin_weights(height, rows)), source])
            return [tape.op("MatMul", [partial, literal(tape, bin_weights(width, columns).T.copy())])]

        substitute(node, build)
