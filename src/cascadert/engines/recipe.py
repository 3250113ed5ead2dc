"""`EngineRecipe`: everything that decides what one engine is, so that equal recipes make equal engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cascadert.graph import Graph
from cascadert.precision import Precision

TensorRTBackend = Literal["tensorrt-rtx", "tensorrt"]
Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""For each input with a dynamic dimension: smallest, typical and largest shape."""


@dataclass(frozen=True)
class BuilderSettings:
    """What the builder is told besides the network; none leaves a choice to TensorRT.

    Attributes:
        workspace_bytes: scratch memory that the engine may use on the device.
        optimization_level: 0 (fast to build) to 5 (fast to run).
        aux_streams: streams that TensorRT may add; 0 keeps overlap predictable.
        dla_core: run on this DLA core; layers that it cannot take run on the GPU.
        flags: names of builder flags to set ("TF32", "FP16", "INT8"); every other precision flag is cleared.
        float32_nodes: operators that a weakly typed TensorRT must keep in float32, by name.
        refittable: whether the engine can take other weights.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    aux_streams: int | None = None
    dla_core: int | None = None
    flags: tuple[str, ...] = ()
    float32_nodes: tuple[str, ...] = ()
    refittable: bool = False


@dataclass(frozen=True)
class EngineRecipe:
    """One engine to build.

    Attributes:
        stage: its name.
        graph: what the builder's parser is given, lowered and in its precision.
        precision: what it computes in.
        backend: which builder.
        compute_capability: what it is built for, as in "8.6".
        strongly_typed: whether the graph's types are binding; before TensorRT 10 they are not.
        shapes: see `Shapes`.
        settings: see `BuilderSettings`.
    """

    stage: str
    graph: Graph
    precision: Precision
    backend: TensorRTBackend
    compute_capability: str
    strongly_typed: bool
    shapes: Shapes
    settings: BuilderSettings = BuilderSettings()
