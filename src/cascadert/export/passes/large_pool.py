"""Average pooling with kernels that TensorRT refuses, as reshape and mean."""

from __future__ import annotations

import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import (
    GraphPass,
    describe,
    integer,
    integers,
    literal,
    nodes_of,
    static_size,
    substitute,
)

# 316 x 316 parses and 317 x 317 does not (TensorRT-RTX 1.7; platforms.md 4.4b).
LARGEST_KERNEL_AREA = 99_856


def is_large(node: ir.Node) -> bool:
    """Whether a pooling's kernel is beyond TensorRT."""
    area = 1
    for length in integers(node, "kernel_shape", ()):
        area *= length
    return area > LARGEST_KERNEL_AREA


class SplitLargeAveragePool(GraphPass):
    """Turn each AveragePool with a kernel area above 99,856 into Reshape and ReduceMean."""

    def requires(self, model: ir.Model) -> None:
        """Kernels that large tile their map exactly."""
        for node in nodes_of(model, "AveragePool"):
            if is_large(node) and not self._tiles(node):
                found = f"averages {integers(node, 'kernel_shape', ())} pixels with overlap, padding or remainder"
                raise PassError(describe(node), found, "use stride = kernel on a map it divides")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the large kernels and leave the others."""
        large = [node for node in nodes_of(model, "AveragePool") if is_large(node)]
        for node in large:
            self._rewrite(node)
        return ir.passes.PassResult(model, bool(large))

    def ensures(self, model: ir.Model) -> None:
        """No large kernel is left."""
        for node in nodes_of(model, "AveragePool"):
            if is_large(node):
                raise PassError(describe(node), "is still there after the pass", "report this network")

    @staticmethod
    def _tiles(node: ir.Node) -> bool:
        kernel, size = integers(node, "kernel_shape", ()), static_size(node.inputs[0], (1, 2, 3))
        return (
            size is not None
            and integers(node, "strides", (1, 1)) == kernel
            and not any(integers(node, "pads", (0,)))
            and set(integers(node, "dilations", (1,))) == {1}
            and integer(node, "ceil_mode", 0) == 0
            and size[1] % kernel[0] == size[2] % kernel[1] == 0
        )

    @staticmethod
    def _rewrite(node: ir.Node) -> None:
        (high, wide), size = integers(node, "kernel_shape", ()), static_size(node.inputs[0], (1, 2, 3))
        if size is None:
            raise PassError(describe(node), "has no fixed size", "use a fixed image size")
        channels, height, width = size

        def build(tape: ir.tape.Tape) -> list[ir.Value]:
            blocks = literal(tape, [0, channels, height // high, high, width // wide, wide])
            split = tape.op("Reshape", [node.inputs[0], blocks])
            return [tape.op("ReduceMean", [split, literal(tape, [3, 5])], {"keepdims": 0})]

        substitute(node, build)
