"""The seam to a backend: one loaded stage that can be queued on a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cascadert.device import Buffer, Stream
from cascadert.errors import ExecutionError
from cascadert.graph import TensorSpec


class Executable(Protocol):
    """One stage, loaded. Used from one thread; runs of one executable never overlap, whatever stream they are on."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Tensors it reads."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Tensors it writes."""
        ...

    def blocks(self, n: int) -> int:
        """Return how many blocks a request for `n` refines: n, or the next larger number it was built for.

        Raises:
            ExecutionError: more than it was built for.
        """
        ...

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        """Queue one run and return at once. `bindings` holds a buffer for every input and output, written in place.

        Raises:
            ExecutionError: a binding that is missing or does not fit. What fails later is the failure of the stream's
                piece of work.
        """
        ...

    def close(self) -> None:
        """Give back what it holds. Nothing of it is queued or running any more."""
        ...


def check_bindings(name: str, specs: tuple[TensorSpec, ...], bindings: Mapping[str, Buffer]) -> None:
    """Check that every tensor is bound to a buffer of its type and shape; a dynamic dimension is the same everywhere.

    Raises:
        ExecutionError: naming the stage and the tensor.
    """
    dynamic: dict[str, int] = {}
    for spec in specs:
        if spec.name not in bindings:
            raise ExecutionError(f"stage '{name}': {spec}", "is not bound to a buffer", "bind every input and output")
        buffer = bindings[spec.name]
        fits = buffer.dtype == spec.dtype and len(buffer.shape) == len(spec.shape)
        for size, wanted in zip(buffer.shape, spec.shape, strict=False):
            fits &= size == (dynamic.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        if not fits:
            found = f"is bound to {buffer.dtype} {list(buffer.shape)}"
            raise ExecutionError(f"stage '{name}': {spec}", found, "bind a buffer of this type and shape")
