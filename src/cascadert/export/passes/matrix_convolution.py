"""Products with a constant matrix, as convolutions with 1 x 1 kernels.

TensorRT-RTX has no float32 matrix product for Turing ("FP32 GEMM is not supported", SM 7.5), while the same sum as a
convolution compiles for every target. Adaptive pooling is what brings such products into our networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, constant, describe, literal, nodes_of, substitute

Matrix = npt.NDArray[Any]


def _factors(node: ir.Node) -> tuple[ir.Value, Matrix, bool] | None:
    """Return (maps, matrix, whether the matrix stands left) of a product of `[N, C, H, W]` with a constant."""
    for maps, other, from_left in ((node.inputs[1], node.inputs[0], True), (node.inputs[0], node.inputs[1], False)):
        matrix = constant(other)
        if maps is None or maps.shape is None or len(maps.shape) != 4 or constant(maps) is not None:
            continue
        if matrix is not None and matrix.ndim == 2 and matrix.dtype == np.float32:
            return maps, matrix, from_left
    return None


class MatrixProductToConvolution(GraphPass):
    """Turn MatMul of `[N, C, H, W]` and a constant float32 matrix, on either side, into Transpose, Conv, Transpose."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the products that have the form; others (attention, linear layers of vectors) are left alone."""
        modified = False
        for node in nodes_of(model, "MatMul"):
            # Products follow each other: what one reads may have been replaced a moment ago.
            if (factors := _factors(node)) is not None:
                self._rewrite(node, *factors)
                modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """No such product is left."""
        for node in nodes_of(model, "MatMul"):
            if _factors(node) is not None:
                raise PassError(describe(node), "is still a matrix product", "report this network")

    @staticmethod
    def _rewrite(node: ir.Node, maps: ir.Value, matrix: Matrix, from_left: bool) -> None:
        # The axis that is summed over becomes the channels: H for a matrix from the left, W from the right.
        to_channels, back = ([0, 2, 1, 3], [0, 2, 1, 3]) if from_left else ([0, 3, 1, 2], [0, 2, 3, 1])
        kernel = (matrix if from_left else matrix.T)[:, :, np.newaxis, np.newaxis]

        def build(tape: ir.tape.Tape) -> list[ir.Value]:
            turned = tape.op("Transpose", [maps], {"perm": to_channels})
            summed = tape.op("Conv", [turned, literal(tape, np.ascontiguousarray(kernel))], {"kernel_shape": [1, 1]})
            return [tape.op("Transpose", [summed], {"perm": back})]

        substitute(node, build)
