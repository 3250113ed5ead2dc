"""What a graph is apart from its weights: two checkpoints of one network make graphs of one architecture."""

from __future__ import annotations

import hashlib

import onnx
import onnx_ir as ir

from cascadert.export.network import network_nodes
from cascadert.export.onnx_io import model_from_graph
from cascadert.graph import Graph

_TAKES_WEIGHTS = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization", "LayerNormalization"}
    | {"PRelu", "Add", "Sub", "Mul", "Div"}
)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def architecture_sha256(graph: Graph) -> str:
    """Return the digest of a graph without the values of its weights, hexadecimal.

    Operators, attributes, names, types, shapes and every other constant count: what has equal digests may take each
    other's weights by name. A weight is a floating-point constant that only convolutions, products, normalisations and
    arithmetic of the network read. What is quantized counts: its scales belong to its weights.
    """
    weights = _weights(model_from_graph(graph))
    model = onnx.load_model_from_string(graph.onnx)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
    for node in model.graph.node:  # where it came from is not what it does
        del node.metadata_props[:]
        node.ClearField("doc_string")
    opsets = [f"{entry.domain}:{entry.version}" for entry in model.opset_import]
    return hashlib.sha256("\n".join(opsets).encode() + model.graph.SerializeToString(deterministic=True)).hexdigest()


def _weights(model: ir.Model) -> set[str]:
    """Return the names of the weights."""
    network = set(network_nodes(model))
    return {
        name
        for name, value in model.graph.initializers.items()
        if value.dtype in _FLOATS
        and all(node in network and node.op_type in _TAKES_WEIGHTS for node in value.consumers())
    }
