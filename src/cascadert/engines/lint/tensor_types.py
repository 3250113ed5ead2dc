"""Rules about element types. uint8 inside a graph is in `export.passes.uint8_boundary`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cascadert.engines.lint.operators import QUANTIZERS
from cascadert.engines.lint.releases import Builder
from cascadert.export.passes.tensorrt_ops import Objection

if TYPE_CHECKING:
    import onnx_ir as ir

_HALF = ("FLOAT16", "BFLOAT16")
_USE = "use uint8, int32, float16, float32 or bool"


def ports(model: ir.Model, builder: Builder) -> Iterator[tuple[str, str, Objection]]:
    """Types of inputs and outputs; yields what to call each at fault, its name, and what is wrong."""
    old = builder.before("10.0")
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            dtype, found = _type(value), None
            if dtype == "DOUBLE":
                # operators.md, every release: DOUBLE is cast down to FLOAT.
                found = f"has the type DOUBLE, which {builder.named()} makes float32 without a word"
            elif dtype == "INT64" and old:
                # Changelog.md of 9.0: until then INT64 at the boundary needs int32 bindings.
                found = f"has the type INT64, which {builder.named(old)} makes int32 without a word"
            elif dtype not in builder.types:
                found = f"has the type {dtype}, which {builder.named()} does not take there"
            elif dtype in _HALF and not builder.facts.strongly_typed:
                found = f"has the type {dtype} where {builder.named()} is not strongly typed"
            if found is not None:
                yield f"{kind} '{value.name}'", str(value.name), Objection("port-type", found, _USE)


def known_types(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """Types that a release does not have or replaces; told where they begin."""
    for dtype in _begins(node):
        if dtype == "DOUBLE":
            found = f"computes in float64, which {builder.named()} makes float32 without a word"
            yield Objection("type", found, "use float32 in the network")
        elif dtype not in builder.types:
            yield Objection("type", f"makes {dtype.lower()}, which {builder.named()} does not know", _USE)


def untyped_half(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """float16 where the builder chooses precision by flags, and takes types in the graph for no more than a hint."""
    if builder.facts.strongly_typed or node.op_type in QUANTIZERS:  # whose scales are judged with quantization
        return
    if set(_begins(node)) & {*_HALF}:
        found = f"begins float16 in the graph where {builder.named()} is not strongly typed"
        yield Objection("weak-typing", found, "give it the float32 graph and the flag FP16")


def float32_products(node: ir.Node, builder: Builder) -> Iterator[Objection]:
    """Tried with TensorRT-RTX 1.7.1: "Cannot compile operation ... for Turing (SM75): FP32 GEMM is not supported"."""
    if not builder.rtx or builder.compute_capability != "7.5":
        return
    if node.op_type in ("MatMul", "Gemm", "Einsum") and _type(node.outputs[0]) == "FLOAT":
        found = f"is a float32 matrix product, which {builder.named()} does not compile for compute capability 7.5"
        yield Objection("float32-product", found, "write it as a 1x1 convolution, or build fp16")


def _begins(node: ir.Node) -> list[str]:
    """List the types of a node's outputs that none of its computed inputs has."""
    read = {_type(value) for value in node.inputs if value is not None and value.const_value is None}
    made = {_type(value) for value in node.outputs}
    return sorted(made - read - {"UNDEFINED"})


def _type(value: ir.Value) -> str:
    return "UNDEFINED" if value.dtype is None else value.dtype.name
