"""Stages as TensorRT engines: TensorRT 8.5 to 11 and TensorRT-RTX on one code path.

What a flavour can do is asked of its module and objects (`hasattr`), never of its version number.
"""

from cascadert.runtime.executables.tensorrt.context import TensorRTOptions
from cascadert.runtime.executables.tensorrt.executable import StageEngine, TensorRTExecutable
from cascadert.runtime.executables.tensorrt.runtime import TensorRT, import_tensorrt
from cascadert.runtime.executables.tensorrt.stages import (
    check_device,
    check_version,
    load_tensorrt_stages,
    share_memory,
)

__all__ = [
    "StageEngine",
    "TensorRT",
    "TensorRTExecutable",
    "TensorRTOptions",
    "check_device",
    "check_version",
    "import_tensorrt",
    "load_tensorrt_stages",
    "share_memory",
]
