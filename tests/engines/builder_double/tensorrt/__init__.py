"""A double of TensorRT's builder, for tests: versions 8.5 to 11.4, chosen by CASCADERT_DOUBLE_TENSORRT.

It has what that version has and no more, so that probes for attributes are really put to the test; it parses ONNX, it
refuses what that version refuses, and the plans it returns run on the run-time double (`tensorrt_double`).
"""

from tensorrt import _surface
from tensorrt._builder import Builder
from tensorrt._parser import OnnxParser
from tensorrt._refitter import Refitter, Runtime
from tensorrt._surface import (
    BuilderFlag,
    DataType,
    DeviceType,
    ILogger,
    LayerType,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
)

__all__ = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "DeviceType",
    "ILogger",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "Refitter",
    "Runtime",
]
__version__ = _surface.VERSION.text

if _surface.VERSION.optimization_level:

    class IProgressMonitor:
        """Called while an engine is built."""


if not _surface.FLAVOUR.startswith("8."):
    from tensorrt._refitter import OnnxParserRefitter, SerializationFlag

    __all__ += ["OnnxParserRefitter", "SerializationFlag"]
