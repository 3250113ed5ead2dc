"""`Graph`: one ONNX model as an immutable value, readable without onnx."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Dialect = Literal["semantic", "onnxruntime", "tensorrt"]
DType = Literal["uint8", "int32", "int64", "float16", "float32", "bool"]


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one input or output of a graph.

    `shape` holds an int per fixed dimension and a name (`"n"`) per dynamic one.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Graph:
    """ONNX bytes with the named tensors at their boundary. Only passes make new ones."""

    onnx: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dialect: Dialect = "semantic"

    @cached_property
    def sha256(self) -> str:
        """Digest of the ONNX bytes, hexadecimal."""
        return hashlib.sha256(self.onnx).hexdigest()
