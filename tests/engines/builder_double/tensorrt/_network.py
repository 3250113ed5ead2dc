"""A parsed network: layers named after ONNX nodes, tensors with types, and what a weakly typed network may be told."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from tensorrt._surface import VERSION, DataType, LayerType, NetworkDefinitionCreationFlag

_KINDS = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "MatMul": "MATRIX_MULTIPLY",
    "Constant": "CONSTANT",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "TopK": "TOPK",
    "Gather": "GATHER",
    "Cast": "CAST",
    "Relu": "ACTIVATION",
    "LeakyRelu": "ACTIVATION",
    "ScatterND": "SCATTER",
    "Resize": "RESIZE",
    "Softmax": "SOFTMAX",
    **dict.fromkeys(["MaxPool", "AveragePool"], "POOLING"),
    **dict.fromkeys(["Add", "Sub", "Mul", "Div", "Max", "Min"], "ELEMENTWISE"),
    **dict.fromkeys(["ReduceSum", "ReduceMean", "ReduceMax"], "REDUCE"),
}
_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT64: "INT64" if hasattr(DataType, "INT64") else "INT32",
}


@dataclass(frozen=True)
class ITensor:
    name: str
    dtype: DataType
    shape: tuple[int, ...] = ()


class ILayer:
    """`helps` is the input of the node that the layer stands before; none for the node's own layer."""

    __slots__ = ("_told", "helps", "inputs", "name", "node", "outputs", "types")

    def __init__(
        self, name: str, node: onnx.NodeProto, inputs: list[ITensor], outputs: list[ITensor], helps: int | None = None
    ) -> None:
        self.name, self.node, self.inputs, self.outputs, self.helps = name, node, inputs, outputs, helps
        self._told: DataType | None = None
        self.types: dict[int, DataType] = {}

    @property
    def type(self) -> LayerType:
        return LayerType.SHUFFLE if self.helps is not None else LayerType[_KINDS.get(self.node.op_type, "SHUFFLE")]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> ITensor:
        return self.inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self.outputs[index]


class WeakLayer(ILayer):
    """With what TensorRT had until version 10."""

    __slots__ = ()

    @property
    def precision_is_set(self) -> bool:
        return self._told is not None

    @property
    def precision(self) -> DataType:
        return self._told or DataType.FLOAT

    @precision.setter
    def precision(self, dtype: DataType) -> None:
        if not any(tensor.dtype in (DataType.FLOAT, DataType.HALF) for tensor in self.outputs):
            raise ValueError(f"{self.name} makes no floating-point tensor")
        self._told = DataType(dtype)

    def set_output_type(self, index: int, dtype: DataType) -> None:
        if self.outputs[index].dtype not in (DataType.FLOAT, DataType.HALF):
            raise ValueError(f"output {index} of {self.name} is {self.outputs[index].dtype.name}")
        self.types[index] = DataType(dtype)


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        names = NetworkDefinitionCreationFlag.__members__
        if flags >> len(names):
            raise ValueError(f"network flags {flags:b} where there are {len(names)}")
        self.explicit_batch = not VERSION.implicit_batch or bool(flags & 1 << names["EXPLICIT_BATCH"])
        self.strongly_typed = not VERSION.weakly_typed or (
            VERSION.strongly_typed and bool(flags & 1 << names["STRONGLY_TYPED"])
        )
        self.layers: list[ILayer] = []
        self.model: onnx.ModelProto | None = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]

    def fill(self, model: onnx.ModelProto) -> None:
        """Make the layers of a model whose shapes were inferred."""
        self.model, graph = model, model.graph
        infos = [*graph.input, *graph.output, *graph.value_info]
        known = {i.name: (i.type.tensor_type.elem_type, len(i.type.tensor_type.shape.dim)) for i in infos}
        known |= {tensor.name: (tensor.data_type, len(tensor.dims)) for tensor in graph.initializer}
        for node in graph.node:
            self._add(node, known, {tensor.name for tensor in graph.initializer})

    def _add(self, node: onnx.NodeProto, known: dict[str, tuple[int, int]], weights: set[str]) -> None:
        make = ILayer if not VERSION.weakly_typed or self.strongly_typed else WeakLayer
        held = weights if node.op_type in ("Conv", "ConvTranspose") else set()
        inputs = [_tensor(name, known) for name in node.input if name and name not in held]
        if _KINDS.get(node.op_type) == "ELEMENTWISE":
            rank = max(known[name][1] for name in node.input)
            for place, name in enumerate(node.input):
                if known[name][1] < rank:
                    wide = ITensor(f"{node.output[0]}_broadcast{place}", inputs[place].dtype)
                    helper = make(self._unique("ONNXTRT_Broadcast"), node, [inputs[place]], [wide], place)
                    self.layers.append(helper)
                    inputs[place] = wide
        outputs = [_tensor(name, known) for name in node.output if name]
        self.layers.append(make(self._unique(node.name), node, inputs, outputs))

    def _unique(self, name: str) -> str:
        taken = {layer.name for layer in self.layers}
        return name if name not in taken else f"{name}_{len(taken)}"


def _tensor(name: str, known: dict[str, tuple[int, int]]) -> ITensor:
    return ITensor(name, DataType[_TYPES[known[name][0]]])
