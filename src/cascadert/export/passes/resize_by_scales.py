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
    mode = node.attributes.get("mode")
    interpolates = mode is not None and mode.as_string() != "nearest"
    pairs = zip(source[1:], target[1:], strict=True)
    scales = [_scale(size, wanted, interpolates) for size, wanted in pairs]
    return None if None in scales else np.array([1, 1, *scales], np.float32)


def _scale(size: int, wanted: int, interpolates: bool) -> np.float32 | None:
    """Return the float32 scale that makes `wanted` pixels of `size`; backends take the floor, in float32 or float64.

    One unit in the last place more moves no interpolated sample visibly, but may choose another nearest pixel.
    """
    scale = np.float32(wanted / size)
    candidates: list[np.float32] = (
        [scale, np.float32(np.nextafter(scale, np.float32(np.inf)))] if interpolates else [scale]
    )
    for candidate in candidates:
        if {math.floor(float(candidate) * size), math.floor(np.float32(size) * candidate)} == {wanted}:
            return candidate
    return None


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
