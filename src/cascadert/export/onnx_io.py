"""Between `Graph`, the value that is stored, and `onnx_ir.Model`, the form that passes work on."""

from __future__ import annotations

from typing import get_args

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from cascadert.errors import GraphError
from cascadert.graph import Dialect, DType, Graph, TensorSpec

_DTYPES: dict[ir.DataType, DType] = {
    {"float16": ir.DataType.FLOAT16, "float32": ir.DataType.FLOAT}.get(name) or ir.DataType[name.upper()]: name
    for name in get_args(DType)
}

_REMEDY = "the file is truncated or no ONNX; export it again"


def _tensor_spec(value: ir.Value) -> TensorSpec:
    name = value.name or "(no name)"
    if value.dtype not in _DTYPES:
        raise GraphError(f"tensor '{name}'", f"has type {value.dtype}", f"use one of {', '.join(get_args(DType))}")
    if value.shape is None:
        raise GraphError(f"tensor '{name}'", "has no shape", "run shape inference before")
    sizes = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    if None in sizes:
        raise GraphError(f"tensor '{name}'", f"has a nameless dynamic dimension in {value.shape}", "name it")
    return TensorSpec(name, _DTYPES[value.dtype], tuple(size for size in sizes if size is not None))


def graph_from_model(model: ir.Model, dialect: Dialect) -> Graph:
    """Check `model` and freeze it.

    Raises:
        GraphError: the model breaks ONNX's rules, or a port has no type, shape or name.
    """
    proto = ir.serde.serialize_model(model)
    content: bytes = proto.SerializeToString()
    try:
        onnx.checker.check_model(content, full_check=False)
        onnx.shape_inference.infer_shapes(content, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise GraphError(f"{dialect} graph", f"ONNX rejects it: {error}", "report this network") from error
    inputs, outputs = (tuple(map(_tensor_spec, values)) for values in (model.graph.inputs, model.graph.outputs))
    return Graph(content, inputs, outputs, dialect)


def model_from_graph(graph: Graph) -> ir.Model:
    """Read the ONNX bytes of `graph`.

    Raises:
        GraphError: the bytes are truncated or no ONNX model.
    """
    subject = f"ONNX graph of {len(graph.onnx)} bytes, sha256 {graph.sha256[:12]}"
    try:
        proto = onnx.load_model_from_string(graph.onnx)
        model = ir.serde.deserialize_model(proto)
    except (DecodeError, ir.serde.SerdeError, ValueError) as error:
        raise GraphError(subject, f"cannot be read ({error})", _REMEDY) from error
    if not len(model.graph):
        raise GraphError(subject, "contains no operators", _REMEDY)
    return model
