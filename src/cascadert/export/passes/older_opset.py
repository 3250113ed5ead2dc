"""An older ONNX opset for the same graph: TensorRT 8.5 and 8.6 read no newer one than 17.

ONNX's own converter has no way down for Pad and drops the record of modules; onnxscript's only goes up. An operator
whose definition did not change needs nothing. Where it did, a few get their older form, attributes at their default are
dropped, and whatever the older definition cannot say is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, constant, describe, integer, static_size

OLDEST_OPSET = 17
"""Of every TensorRT that is served: 8.5 reads it."""

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    "ReduceSumSquare",
)

# Values that an attribute may have from some opset on, where the attribute itself is older.
_NEWER_VALUES = {
    ("Pad", "mode"): {"wrap": 19},
    ("Resize", "coordinate_transformation_mode"): {"half_pixel_symmetric": 19},
    ("ScatterElements", "reduction"): {"max": 18, "min": 18},
    ("ScatterND", "reduction"): {"max": 18, "min": 18},
}

# Operators that mean something else from some opset on, with nothing in the node to tell.
REDEFINED = {"DFT": 20, "GroupNormalization": 21}

_ONNX_TYPES = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}


class OlderOpset(GraphPass):
    """Write every operator as `opset` defines it; the model says so afterwards."""

    def __init__(self, opset: int) -> None:
        super().__init__()
        self.opset = opset

    def requires(self, model: ir.Model) -> None:
        """The opset asked for is none that no backend needs."""
        if self.opset < OLDEST_OPSET:
            raise PassError(f"opset {self.opset}", "is older than any backend needs", f"choose {OLDEST_OPSET} or newer")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite node by node, or refuse the first that has no older form."""
        found = opset_of(model)
        if self.opset >= found:
            return ir.passes.PassResult(model, False)
        for node in list(model.graph.all_nodes()):
            if node.domain in ("", "ai.onnx"):
                self._lower(node, found)
        model.opset_imports.pop("ai.onnx", None)
        model.opset_imports[""] = self.opset
        model.ir_version = oldest_ir_version(self.opset)
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """No node is left that the older opset does not know."""
        if opset_of(model) <= self.opset:
            for node in model.graph.all_nodes():
                if node.domain in ("", "ai.onnx") and _definition(node, self.opset) is None:
                    raise PassError(describe(node), "is still there after the pass", "report this network")

    def _lower(self, node: ir.Node, found: int) -> None:
        newer, older = _definition(node, found), _definition(node, self.opset)
        if newer is None or older is None or self.opset < REDEFINED.get(node.op_type, 0) <= found:
            raise self._refusal(node, "has no equal")
        if newer.since_version == older.since_version:
            return
        since, rewrite = _REWRITES.get(node.op_type, (0, None))
        said = _show(node)
        if rewrite is not None and self.opset < since <= found and not rewrite(node):
            raise self._refusal(node, f"has axes, sizes or a mode ({said}) that cannot be said")
        _drop_defaults(node, newer, older)
        for fault in _faults(node, older, self.opset):
            raise self._refusal(node, fault)

    def _refusal(self, node: ir.Node, what: str) -> PassError:
        remedy = "choose a target with a newer TensorRT, or replace that operation in the network"
        return PassError(describe(node), f"{what} in ONNX opset {self.opset}", remedy)


def opset_of(model: ir.Model) -> int:
    """Return the opset whose definitions the standard operators of a model follow."""
    found = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if found is None:
        raise PassError("the model", "names no ONNX opset", "export it again")
    return found


def oldest_ir_version(opset: int) -> int:
    """Return the oldest version of ONNX's file format that goes with an opset."""
    version: int = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    return version


def _definition(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _show(node: ir.Node) -> str:
    return ", ".join(f"{name}={attribute.value}" for name, attribute in node.attributes.items()) or "no attributes"


def _drop_defaults(node: ir.Node, newer: onnx.defs.OpSchema, older: onnx.defs.OpSchema) -> None:
    """Remove what the older definition does not know and what says nothing."""
    for name, attribute in list(node.attributes.items()):
        if name not in older.attributes and name in newer.attributes:
            default = newer.attributes[name].default_value
            says_nothing = default.name and ir.serde.deserialize_attribute(default).value == attribute.value
            if says_nothing or (name == "dilations" and set(attribute.as_ints()) == {1}):
                del node.attributes[name]


def _faults(node: ir.Node, older: onnx.defs.OpSchema, opset: int) -> Iterator[str]:
    """Say what of a node its older definition does not have."""
    for name, attribute in node.attributes.items():
        if name not in older.attributes:
            yield f"has the attribute {name}={attribute.value}, which it does not have"
        newer_values = _NEWER_VALUES.get((node.op_type, name), {})
        if newer_values and opset < newer_values.get(attribute.as_string(), 0):
            yield f"has {name}={attribute.as_string()!r}, which it does not have"
    if len(node.inputs) > older.max_input:
        yield f"reads {len(node.inputs)} tensors where it reads {older.max_input}"
    for values, formal in ((node.inputs, older.inputs), (node.outputs, older.outputs)):
        yield from _type_faults(values, formal)


def _type_faults(
    values: Sequence[ir.Value | None], formal: Sequence[onnx.defs.OpSchema.FormalParameter]
) -> Iterator[str]:
    for i, value in enumerate(values):
        if value is None or value.dtype is None or not formal:
            continue
        spelled = _ONNX_TYPES.get(value.dtype, value.dtype.name.lower())
        if f"tensor({spelled})" not in formal[min(i, len(formal) - 1)].types:
            yield f"handles '{value.name}' as {spelled}, which it does not"


def _axes_to_attribute(node: ir.Node) -> bool:
    """Reductions took their axes from an attribute before 18."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = constant(given)
    if given is not None and axes is None:
        return False
    if axes is None or not axes.size:
        if integer(node, "noop_with_empty_axes", 0):
            return False
    else:
        node.attributes.add(ir.AttrInt64s("axes", axes.reshape(-1).tolist()))
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    return True


def _equal_parts(node: ir.Node) -> bool:
    """Split without sizes made equal parts before 18, one for each output."""
    if "num_outputs" not in node.attributes:
        return True
    size = static_size(node.inputs[0], (integer(node, "axis", 0),))
    del node.attributes["num_outputs"]
    return size is not None and size[0] % len(node.outputs) == 0


def _pads_of_every_axis(node: ir.Node) -> bool:
    """Pad took no axes before 18."""
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if axes is None:
        return True
    padded, pads, source = constant(axes), constant(node.inputs[1]), node.inputs[0]
    if padded is None or pads is None or source is None or source.shape is None or node.graph is None:
        return False
    spread = np.zeros((2, source.shape.rank()), np.int64)
    spread[:, padded] = pads.reshape(2, -1)
    tensor = ir.AttrTensor("value", ir.tensor(spread.reshape(-1)))
    written = ir.Node("", "Constant", [], attributes=[tensor], metadata_props=dict(node.metadata_props))
    written.outputs[0].type, written.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([spread.size])
    node.graph.insert_before(node, written)
    node.replace_input_with(1, written.outputs[0])
    node.resize_inputs(3)
    return True


def _sampling_mode(node: ir.Node) -> bool:
    """GridSample called its modes otherwise before 20, and took images only."""
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "linear"
    node.attributes.add(ir.AttrString("mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)))
    source = node.inputs[0]
    return source is not None and source.shape is not None and source.shape.rank() == 4


_REWRITES: dict[str, tuple[int, Callable[[ir.Node], bool]]] = {
    **dict.fromkeys(_REDUCTIONS, (18, _axes_to_attribute)),
    "GridSample": (20, _sampling_mode),
    "Pad": (18, _pads_of_every_axis),
    "Split": (18, _equal_parts),
}
