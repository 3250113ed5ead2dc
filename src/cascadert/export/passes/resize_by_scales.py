"""Resize by constant scales where PyTorch asked for sizes.

Sizes name all four dimensions, so a dynamic batch turns them into arithmetic on shapes: host-side shape tensors in
TensorRT, and nodes that run for every frame in ONNX Runtime.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, describe, literal, nodes_of, static_size, substitute


def _scales(node: ir.Node) -> npt.NDArray[np.float32] | None:
    """Return `[1, 1, sh, sw]` if they give exactly the size that the node asks for."""
    if len(node.inputs) < 4 or node.inputs[3] is None or "axes" in node.attributes:
        return None
    policy = node.attributes.get("keep_aspect_ratio_policy")
    source, target = static_size(node.inputs[0], (1, 2, 3)), static_size(node.outputs[0], (1, 2, 3))
    if source is None or target is None or source[0] != target[0] or (policy and policy.as_string() != "stretch"):
        return None
    scales = np.array([1, 1, target[1] / source[1], target[2] / source[2]], np.float32)
    # Backends compute floor(size * scale) in float32 and in float64; both must give the size.
    for size, scale, wanted in zip(source[1:], scales[2:], target[1:], strict=True):
        if {math.floor(float(scale) * size), math.floor(np.float32(size) * scale)} != {wanted}:
            return None
    return scales


class ResizeByScales(GraphPass):
    """Replace the sizes of each Resize of a fixed map by its scales, unless rounding would change the size."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace where the scales are exact."""
        found = [(node, scales) for node in nodes_of(model, "Resize") if (scales := _scales(node)) is not None]
        for node, scales in found:
            self._rewrite(node, scales)
        return ir.passes.PassResult(model, bool(found))

    def ensures(self, model: ir.Model) -> None:
        """No Resize is left whose sizes could be scales."""
        for node in nodes_of(model, "Resize"):
            if _scales(node) is not None:
                raise PassError(describe(node), "still resizes by sizes", "report this network")

    @staticmethod
    def _rewrite(node: ir.Node, scales: npt.NDArray[np.float32]) -> None:
        def build(tape: ir.tape.Tape) -> list[ir.Value]:
            output = tape.op("Resize", [node.inputs[0], None, literal(tape, scales)])
            made = output.producer()
            if made is not None:
                made.attributes.update(node.attributes)
            return [output]

        substitute(node, build)
