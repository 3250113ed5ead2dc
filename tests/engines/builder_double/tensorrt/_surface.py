"""What each version of TensorRT has, and has not; the tests choose one by an environment variable."""

import os
from dataclasses import dataclass
from enum import Enum, IntEnum

FLAVOUR = os.environ["CASCADERT_DOUBLE_TENSORRT"]
DLA_CORES = int(os.environ.get("CASCADERT_DOUBLE_DLA_CORES", "0"))
GPU = os.environ.get("CASCADERT_DOUBLE_GPU", "yes") == "yes"


@dataclass(frozen=True)
class Version:
    text: str
    opset: int
    weakly_typed: bool = True
    strongly_typed: bool = True
    explicit_batch: bool = True  # the flag exists
    implicit_batch: bool = False  # and is needed
    optimization_level: bool = True  # and auxiliary streams, and the progress monitor
    node_names: bool = True  # in the parser's errors
    scatter_reduction: str = "refused"  # the attribute: "ignored", "refused" wherever it is, or "none" is taken


VERSION = {
    "8.5": Version("8.5.2.2", 17, True, False, True, True, False, False, "ignored"),
    "8.6": Version("8.6.1", 17, True, False, True, True, True, False, "ignored"),
    "10.3": Version("10.3.0", 20),
    "10.16": Version("10.16.1.11", 24, scatter_reduction="none"),
    "11.3": Version("11.3.0", 24, weakly_typed=False, explicit_batch=False, scatter_reduction="none"),
    "11.4": Version("11.4.1", 24, weakly_typed=False, explicit_batch=False, scatter_reduction="none"),
}[FLAVOUR]

_EIGHT = FLAVOUR.startswith("8.")

BuilderFlag = IntEnum(  # type: ignore[misc]
    "BuilderFlag",
    [
        *[
            "DEBUG",
            "GPU_FALLBACK",
            "REFIT",
            "DISABLE_TIMING_CACHE",
            "TF32",
            "SPARSE_WEIGHTS",
            "SAFETY_SCOPE",
            "DIRECT_IO",
        ],
        *(
            ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"]
            if VERSION.weakly_typed
            else []
        ),
        *([] if FLAVOUR == "8.5" else ["VERSION_COMPATIBLE"]),
        *(["FP8"] if FLAVOUR in ("8.6", "10.3", "10.16") else []),
        *(["BF16", "INT4"] if FLAVOUR in ("10.3", "10.16") else []),
        *([] if _EIGHT else ["STRIP_PLAN", "REFIT_IDENTICAL"]),
    ],
    start=0,
)
NetworkDefinitionCreationFlag = IntEnum(  # type: ignore[misc]
    "NetworkDefinitionCreationFlag",
    [
        *(["EXPLICIT_BATCH"] if VERSION.explicit_batch else []),
        *(["STRONGLY_TYPED"] if VERSION.strongly_typed else []),
    ],
    start=0,
)
DataType = Enum(  # type: ignore[misc]
    "DataType",
    [
        *["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"],
        *([] if FLAVOUR == "8.5" else ["FP8"]),
        *([] if _EIGHT else ["BF16", "INT64", "INT4"]),
    ],
)
MemoryPoolType = Enum("MemoryPoolType", ["WORKSPACE", "DLA_MANAGED_SRAM", "DLA_LOCAL_DRAM", "DLA_GLOBAL_DRAM"])
DeviceType = Enum("DeviceType", ["GPU", "DLA"])
Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
ErrorCode = Enum("ErrorCode", ["INVALID_GRAPH", "UNSUPPORTED_NODE"])
LayerType = Enum(
    "LayerType",
    [
        *["CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "QUANTIZE", "DEQUANTIZE", "CONSTANT", "ELEMENTWISE"],
        *["ACTIVATION", "REDUCE", "TOPK", "GATHER", "SCATTER", "RESIZE", "SOFTMAX", "POOLING", "CAST", "SHUFFLE"],
    ],
)


class Misuse(AssertionError):
    """Something that TensorRT takes and that does not do what its caller wants."""


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, text: str) -> None:
        raise NotImplementedError
