"""A parser that reads ONNX and refuses what that version's parser refuses."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tensorrt._network import INetworkDefinition
from tensorrt._surface import VERSION, ErrorCode, ILogger, Severity

_UNKNOWN = {"MaxUnpool", "Det", "Unique", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"}


class ParserError:
    def __init__(self, text: str, index: int, code: ErrorCode) -> None:
        self._text, self._index, self._code = text, index, code

    def code(self) -> ErrorCode:
        return self._code

    def desc(self) -> str:
        return self._text

    def func(self) -> str:
        return "importNode"

    def node(self) -> int:
        return self._index


class NamedParserError(ParserError):
    def __init__(self, text: str, index: int, code: ErrorCode, name: str) -> None:
        super().__init__(text, index, code)
        self._name = name

    def node_name(self) -> str:
        return self._name


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
        onnx.checker.check_model(model)
        opset = next(entry.version for entry in model.opset_import if not entry.domain)
        if not self._network.explicit_batch:
            self._refuse("This version of the ONNX parser only supports networks with an explicit batch dimension", -1)
        if opset > VERSION.opset:
            self._refuse(f"opset {opset} where this parser knows {VERSION.opset}", -1)
        reader = _Reader(model)
        for index, node in enumerate(model.graph.node):
            for fault in reader.faults(node):
                self._refuse(fault, index, node.name)
        if not self._errors:
            self._network.fill(model)
        return not self._errors

    def _refuse(self, text: str, index: int, name: str = "") -> None:
        code = ErrorCode.UNSUPPORTED_NODE if name else ErrorCode.INVALID_GRAPH
        error = NamedParserError(text, index, code, name) if VERSION.node_names else ParserError(text, index, code)
        self._errors.append(error)
        self._logger.log(Severity.ERROR, text)


class _Reader:
    """What is wrong with single nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._values = {tensor.name: tensor for tensor in graph.initializer}
        self._values |= {
            node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute
        }
        self._bytes = {
            info.name
            for info in (*graph.input, *graph.output, *graph.value_info)
            if info.type.tensor_type.elem_type == TensorProto.UINT8
        }

    def faults(self, node: NodeProto) -> Iterator[str]:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in _UNKNOWN or (len([name for name in node.output if name]) > 1 and node.op_type == "MaxPool"):
            yield f"No importer registered for op: {node.op_type}"
        if node.op_type in ("Gather", "Transpose", "Reshape", "ScatterND") and self._bytes & {
            *node.input,
            *node.output,
        }:
            yield "UINT8 is only taken at the boundary of the network, by a cast"
        if node.op_type == "AveragePool" and attributes["kernel_shape"][0] * attributes["kernel_shape"][1] > 316**2:
            yield "Parameter check failed: kernel area"
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            zero = self._values.get(node.input[2])
            if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
                yield "Non-zero zero point is not supported"
        if "reduction" in attributes:
            yield from self._reduction(node, attributes["reduction"].decode())

    def _reduction(self, node: NodeProto, reduction: str) -> Iterator[str]:
        if VERSION.scatter_reduction == "ignored":  # and gives wrong values
            kept = [attribute for attribute in node.attribute if attribute.name != "reduction"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif VERSION.scatter_reduction == "refused" or reduction != "none":
            yield f"Attribute reduction is not supported: {reduction}"
