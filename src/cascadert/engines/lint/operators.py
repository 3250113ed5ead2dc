"""Rules about operators and their attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cascadert.engines.lint.releases import Builder
from cascadert.export.passes.base import constant, integer, integers, is_read
from cascadert.export.passes.tensorrt_ops import Objection, objection

if TYPE_CHECKING:
    import onnx_ir as ir

QUANTIZERS = frozenset(("QuantizeLinear", "DequantizeLinear"))

_REPLACE = "replace that operation in the network"

# operators.md, every release; TensorRT-RTX refuses the others too.
_COORDINATES = frozenset(("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"))

# Which input must be a constant, and what it is called.
_CONSTANT_INPUTS = {
    **{
        f"Reduce{kind}": (1, "axes")
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    "Squeeze": (1, "axes"),
    "Unsqueeze": (1, "axes"),
}
# The same for some releases of full TensorRT only: those older than the last entry, or all.
_CONSTANT_INPUTS_OF_SOME = (
    ("CumSum", 1, "axis", "99"),  # operators.md of 8.5 to 10.15
    ("OneHot", 1, "depth", "99"),
    ("InstanceNormalization", 1, "scale", "8.6"),  # operators.md of 8.5
    ("InstanceNormalization", 2, "B", "8.6"),
    ("Slice", 3, "axes", "10.3"),  # Changelog.md
    ("Pad", 3, "axes", "10.4"),
)


def operator_support(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """Operators and forms of them that no TensorRT has, or some release lacks."""
    found = None if node.op_type in QUANTIZERS else objection(node)
    if found is not None:
        yield found
    elif lacking := builder.lacking(node.op_type):
        yield Objection("operator", f"is an operator that {builder.named(lacking)} does not have", _REPLACE)
    elif node.op_type == "LayerNormalization" and any(is_read(value) for value in node.outputs[1:]):
        # operators.md of 10.6: only the first output.
        yield Objection("operator", "returns more than its first output, which TensorRT does not", _REPLACE)
    elif node.op_type == "TopK" and not integer(node, "sorted", 1) and builder.full:
        # operators.md of 10.15: `sorted` must be 1.
        yield Objection("topk", f"does not sort, which {builder.named()} always does", "let it sort")


def pools(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """Dilated pooling: operators.md of 10.6; TensorRT-RTX refuses it; 8.5 has no place for it in its layer."""
    if node.op_type in ("AveragePool", "LpPool", "MaxPool") and set(integers(node, "dilations", (1,))) != {1}:
        dilations = list(integers(node, "dilations", ()))
        yield Objection("pool-dilation", f"pools with dilations {dilations}, which TensorRT does not", _REPLACE)


def resizes(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """Modes of Resize."""
    if node.op_type != "Resize":
        return
    mode, coordinates = _text(node, "mode", "nearest"), _text(node, "coordinate_transformation_mode", "half_pixel")
    policy = _text(node, "keep_aspect_ratio_policy", "stretch")
    if mode == "cubic" and builder.full:
        # operators.md of 8.5 to 10.15: nearest and linear; TensorRT-RTX takes cubic.
        yield Objection("resize", f"resizes by cubic interpolation, which {builder.named()} does not", "use bilinear")
    if coordinates not in _COORDINATES:
        remedy = "use half_pixel or align_corners"
        yield Objection("resize", f"resizes with coordinates '{coordinates}', which TensorRT does not have", remedy)
    if policy != "stretch":
        yield Objection("resize", f"resizes with the policy '{policy}', which TensorRT does not have", "use 'stretch'")


def inputs_known_at_build(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """Inputs that must be constants."""
    wanted: list[tuple[int, str, tuple[str, ...]]] = []
    if node.op_type in _CONSTANT_INPUTS:
        wanted.append((*_CONSTANT_INPUTS[node.op_type], builder.releases))
    for op_type, index, name, older_than in _CONSTANT_INPUTS_OF_SOME:
        if op_type == node.op_type and (releases := builder.before(older_than)):
            wanted.append((index, name, releases))
    for index, name, releases in wanted:
        if index < len(node.inputs) and node.inputs[index] is not None and constant(node.inputs[index]) is None:
            found = f"computes its {name} at run time, which {builder.named(releases)} must know when it builds"
            yield Objection("run-time-input", found, "make it a constant of the network")


def control_flow(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """Branches and loops, as operators.md restricts them; ranks also refused by TensorRT-RTX's builder."""
    if node.op_type == "If":
        branches = [node.attributes[name].as_graph().outputs for name in ("then_branch", "else_branch")]
        for one, other in zip(*branches, strict=True):
            if one.shape is not None and other.shape is not None and one.shape.rank() != other.shape.rank():
                yield Objection("control-flow", "has branches of different rank, which TensorRT refuses", _REPLACE)
            if one.name == other.name and builder.full:
                found = f"gives the outputs of both branches the name '{one.name}', which {builder.named()} refuses"
                yield Objection("control-flow", found, "rename one")
    elif node.op_type == "Loop" and builder.full:
        body = node.attributes["body"].as_graph()
        collects = len(body.outputs) > len(body.inputs) - 1
        if collects and (node.inputs[0] is None or constant(node.inputs[0]) is None):
            found = f"collects outputs over a number of rounds that {builder.named()} must know when it builds"
            yield Objection("control-flow", found, _REPLACE)


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else default
