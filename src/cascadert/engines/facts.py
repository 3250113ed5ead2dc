"""`BackendFacts`: what a target says about one of its builders, as far as builds and the lint need to know."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cascadert.deployment import Backend
from cascadert.precision import Precision
from cascadert.spec import Strict


class BackendFacts(Strict):
    """One way to build for a target.

    Attributes:
        name: the builder.
        versions: which of its versions serve, a PEP 440 specifier such as ">=8.5,<8.7".
        builds: "anywhere", or on the "device" itself: full TensorRT times its kernels on the GPU.
        strongly_typed: whether precision is in the graph alone, or needs builder flags (TensorRT before 10).
        opset: the newest ONNX opset that every one of these versions parses.
        known_bad: versions within the range that are known to be broken.
        refused: precisions that the target has and this builder makes nothing of, with the reason.
    """

    name: Backend
    versions: str
    builds: Literal["anywhere", "device"]
    strongly_typed: bool
    opset: Annotated[int, Field(ge=9)]
    known_bad: tuple[str, ...] = ()
    refused: dict[Precision, str] = Field(default_factory=dict)
