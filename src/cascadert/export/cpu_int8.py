"""Int8 for CPUs: ONNX Runtime's own quantizer, unsigned asymmetric activations and signed weights (U8S8)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from cascadert.errors import import_extra
from cascadert.export.network import network_graph, network_nodes
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.placement import head_of
from cascadert.graph import Graph
from cascadert.precision import Range

# What has int8 kernels in ONNX Runtime and takes part in a chain of them, so that values stay int8 between operators.
OPERATORS = ("Conv", "Add", "Concat", "MaxPool", "LeakyRelu", "Resize", "AveragePool")


def quantized_for_cpu(graph: Graph, ranges: Mapping[str, Range], keep: Collection[str] = ()) -> onnx.ModelProto:
    """Return the bare network of a graph with Q/DQ pairs for ONNX Runtime's CPU kernels.

    Weights are signed and per channel, biases int32: the form that its VNNI kernels fuse. What the network is given and
    what it hands out stays float32.

    Args:
        graph: a stage's graph, lowered for ONNX Runtime.
        ranges: of every tensor that was measured; others are not quantized.
        keep: operators that stay in floating point, by the name of their first output.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        GraphError: the stage has no network, since nothing in it has weights.
    """
    import_extra("onnxruntime", "cpu", "to quantize for the CPU")
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    network = network_graph(graph)
    model = onnx.load_model_from_string(network.onnx)
    chosen = [str(node.name) for node in operators_for_cpu(model_from_graph(graph), ranges, keep)]
    if not chosen:
        return model
    measured = {
        name: TensorData(lowest=np.asarray(low, np.float32), highest=np.asarray(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, measured),
            nodes_to_quantize=chosen,
            nodes_to_exclude=[],
            op_types_to_quantize=list(OPERATORS),
            extra_options={},
        )
        quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def operators_for_cpu(model: ir.Model, ranges: Collection[str], keep: Collection[str] = ()) -> list[ir.Node]:
    """Return the operators of a stage's network that compute in int8: with kernels for it, their tensors measured.

    What they read and make is int8 for their neighbours, too.
    """
    head = head_of(model)
    return [
        node
        for node in network_nodes(model)
        if node.op_type in OPERATORS
        and node not in head
        and node.outputs[0].name not in keep
        and node.outputs[0].name in ranges
        and any(value is not None and value.name in ranges for value in node.inputs)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the quantizer's advice about preprocessing: our graphs are folded and have shapes."""
    logger = logging.getLogger()
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
