"""Int8 for CPUs: ONNX Runtime's own quantizer, unsigned asymmetric activations and signed weights (U8S8)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx

from cascadert.errors import import_extra
from cascadert.export.network import network_graph
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.placement import head_of
from cascadert.graph import Graph
from cascadert.precision import Range

# What has int8 kernels in ONNX Runtime and takes part in a chain of them, so that values stay int8 between operators.
OPERATORS = ("Conv", "Add", "Concat", "MaxPool", "LeakyRelu", "Resize", "AveragePool")


def quantized_for_cpu(graph: Graph, ranges: Mapping[str, Range], keep: Collection[str] = ()) -> onnx.ModelProto:
    """Return the bare network of a graph with Q/DQ pairs for ONNX Runtime's CPU kernels.

    Weights are signed and per channel, biases int32: the form that its VNNI kernels fuse.

    Args:
        graph: a stage's graph, lowered for ONNX Runtime.
        ranges: of every tensor that was measured; others are not quantized.
        keep: operators that stay in floating point, by the name of their first output.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
    """
    import_extra("onnxruntime", "cpu", "to quantize for the CPU")
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    network = network_graph(graph)
    model = onnx.load_model_from_string(network.onnx)
    head = {str(node.outputs[0].name) for node in head_of(model_from_graph(network))}
    measured = {
        name: TensorData(lowest=np.asarray(low, np.float32), highest=np.asarray(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    chosen = [node.name for node in model.graph.node if _is_chosen(node, measured, head.union(keep))]
    if not chosen:
        return model
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


def _is_chosen(node: onnx.NodeProto, measured: Collection[str], keep: Collection[str]) -> bool:
    known = node.output[0] in measured and any(name in measured for name in node.input)
    return node.op_type in OPERATORS and node.output[0] not in keep and known


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
