"""The seam to a backend: one loaded stage that can be queued on a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cascadert.errors import ExecutionError
from cascadert.graph import TensorSpec
from cascadert.runtime.device import Buffer, Stream


class Executable(Protocol):
    """One stage, loaded. Not thread-safe: one executable belongs to one stream."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Tensors it reads."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Tensors it writes."""
        ...

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        """Queue one run. `bindings` holds a buffer for every input and output; outputs are written in place.

        Raises:
            ExecutionError: a binding that is missing or does not fit, or (once the work runs) a failure of the backend.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def check_bindings(name: str, specs: tuple[TensorSpec, ...], bindings: Mapping[str, Buffer]) -> None:
    """Check that every tensor is bound to a buffer of its type and shape; a dynamic dimension is the same everywhere.

    Raises:
        ExecutionError: naming the stage and the tensor.
    """
    dynamic: dict[str, int] = {}
    for spec in specs:
        subject = f"stage '{name}': {spec}"
        if spec.name not in bindings:
            raise ExecutionError(subject, "is not bound to a buffer", "bind every input and output")
        buffer = bindings[spec.name]
        found = f"is bound to {buffer.dtype} {list(buffer.shape)}"
        if buffer.dtype != spec.dtype or len(buffer.shape) != len(spec.shape):
            raise ExecutionError(subject, found, "bind a buffer of this type and shape")
        for size, wanted in zip(buffer.shape, spec.shape, strict=True):
            expected = dynamic.setdefault(wanted, size) if isinstance(wanted, str) else wanted
            if size != expected:
                raise ExecutionError(subject, found, "bind a buffer of this type and shape")
