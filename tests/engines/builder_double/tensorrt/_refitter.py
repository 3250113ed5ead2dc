"""What gives a plan of the builder's other weights, by the names of the ONNX graph that it was built from."""

from __future__ import annotations

import json
import os
from enum import IntEnum
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tensorrt._parser import NamedParserError, ParserError
from tensorrt._surface import FLAVOUR, GPU, ErrorCode, ILogger, Misuse, Severity

_MAGIC = b"plan of the double\n"
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_FORGOTTEN = os.environ.get("CASCADERT_DOUBLE_FORGOTTEN_WEIGHT", "")
"""A weight that the parser leaves out without a word, as that of TensorRT-RTX did (pytorch/TensorRT#4198)."""

SerializationFlag = IntEnum(  # type: ignore[misc]
    "SerializationFlag",
    ["EXCLUDE_WEIGHTS", "EXCLUDE_LEAN_RUNTIME", *([] if FLAVOUR == "10.3" else ["INCLUDE_REFIT"])],
    start=0,
)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        if not GPU:
            logger.log(Severity.ERROR, "createInferRuntime: Error Code 6: CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        head, _, content = serialized_engine.removeprefix(_MAGIC).partition(b"\n")
        if not serialized_engine.startswith(_MAGIC) or not content:
            self._logger.log(Severity.ERROR, "Error Code 1: Serialization (magicTag == kEXPECTED_MAGIC_TAG failed.)")
            return None
        return ICudaEngine(head, onnx.load_model_from_string(content))


class ICudaEngine:
    def __init__(self, head: bytes, model: onnx.ModelProto) -> None:
        self._head, self.model, self.pending = head, model, False

    @property
    def told(self) -> dict[str, list[str]]:
        return dict(json.loads({entry.key: entry.value for entry in self.model.metadata_props}["told"]))

    @property
    def refittable(self) -> bool:
        return "REFIT" in self.told["flags"]

    def create_serialization_config(self) -> ISerializationConfig:
        return ISerializationConfig()

    def serialize_with_config(self, config: ISerializationConfig) -> memoryview:
        if self.pending:
            raise Misuse("weights were set, and the engine still has the old ones")
        if hasattr(SerializationFlag, "INCLUDE_REFIT") and SerializationFlag.INCLUDE_REFIT not in config.set_flags:
            flags = [flag for flag in self.told["flags"] if flag != "REFIT"]
            helper.set_model_props(self.model, {"told": json.dumps({**self.told, "flags": flags})})
        return memoryview(_MAGIC + self._head + b"\n" + self.model.SerializeToString())


class ISerializationConfig:
    def __init__(self) -> None:
        self.set_flags: set[int] = set()

    def set_flag(self, flag: SerializationFlag) -> bool:
        self.set_flags.add(SerializationFlag(flag))
        return True


class Refitter:
    def __init__(self, engine: ICudaEngine, logger: ILogger) -> None:
        if not engine.refittable:
            logger.log(Severity.ERROR, "createInferRefitter: Error Code 3: (condition: e.isRefittable())")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._engine, self._logger, self._given = engine, logger, dict[str, TensorProto]()

    def weights(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self._engine.model.graph.initializer if tensor.data_type in _FLOATS}

    def give(self, tensor: TensorProto) -> bool:
        old = self.weights()[tensor.name]
        if (old.data_type, old.dims) != (tensor.data_type, tensor.dims):
            self._logger.log(Severity.ERROR, f"setNamedWeights: {tensor.name} has another type or count")
            return False
        self._given[tensor.name], self._engine.pending = tensor, True
        return True

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.weights() if name not in self._given] if self._given else []

    def refit_cuda_engine(self) -> bool:
        if self.get_missing_weights():
            self._logger.log(Severity.ERROR, "refitCudaEngine: Error Code 3: (condition: nbMissing == 0)")
            return False
        for name, tensor in self.weights().items():
            tensor.CopyFrom(self._given[name])
        self._engine.pending = False
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        self._refitter, self._logger, self._errors = refitter, logger, list[ParserError]()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def refit_from_file(self, path: str) -> bool:
        if not Path(path).is_file():
            return False
        here = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
        for name in self._refitter.weights():
            if name == _FORGOTTEN:
                continue
            if name not in here or not self._refitter.give(here[name]):
                text = f"Failed to refit all the weights: {name}"
                self._errors.append(NamedParserError(text, -1, ErrorCode.INVALID_GRAPH, ""))
        return not self._errors
