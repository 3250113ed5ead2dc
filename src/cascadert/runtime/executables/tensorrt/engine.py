"""What an engine says of itself: its tensors, the block counts it was built for, the memory it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cascadert.errors import DeploymentError
from cascadert.graph import TensorSpec

_DTYPES = {"HALF": "float16", "FLOAT": "float32"}  # the others are ours in capitals


@dataclass(frozen=True)
class Profile:
    """An optimisation profile: it takes `smallest` to `largest` blocks."""

    index: int
    smallest: int
    largest: int

    def __str__(self) -> str:
        return f"{self.smallest}" if self.smallest == self.largest else f"{self.smallest} to {self.largest}"

    def holds(self, n: int) -> bool:
        """Whether it takes exactly n blocks."""
        return self.smallest <= n <= self.largest


def check_tensors(
    trt: Any, engine: Any, stage: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Check that an engine has exactly these tensors.

    Raises:
        DeploymentError: naming the stage and the first tensor that differs.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {name: _describe_tensor(trt, engine, name) for name in names}
    wanted = {spec.name: _describe_spec("input", spec) for spec in inputs}
    wanted |= {spec.name: _describe_spec("output", spec) for spec in outputs}
    for name in sorted(found.keys() | wanted.keys()):
        is_, should_be = found.get(name, "nothing"), wanted.get(name, "nothing")
        if is_ != should_be:
            words = f"is {is_} in the engine where the manifest has {should_be}"
            raise DeploymentError(f"stage '{stage}': tensor '{name}'", words, "build it anew from its bundle")


def _describe_spec(mode: str, spec: TensorSpec) -> str:
    sizes = (-1 if isinstance(size, str) else size for size in spec.shape)
    return f"{mode} {spec.dtype} {list(sizes)} on the device"


def _describe_tensor(trt: Any, engine: Any, name: str) -> str:
    mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
    dtype = engine.get_tensor_dtype(name).name
    place = "device" if engine.get_tensor_location(name) == trt.TensorLocation.DEVICE else "host"
    return f"{mode} {_DTYPES.get(dtype, dtype.lower())} {list(engine.get_tensor_shape(name))} on the {place}"


def find_counts(inputs: tuple[TensorSpec, ...]) -> tuple[tuple[str, int], ...]:
    """Return where inputs count blocks: name and axis of their dynamic dimensions."""
    return tuple((spec.name, axis) for spec in inputs for axis, size in enumerate(spec.shape) if isinstance(size, str))


def read_profiles(engine: Any, counts: tuple[tuple[str, int], ...]) -> tuple[Profile, ...]:
    """Return the profiles in the order of their block counts; none where no input counts blocks."""
    if not counts:
        return ()
    profiles = []
    for index in range(engine.num_optimization_profiles):
        ranges = [(engine.get_tensor_profile_shape(name, index), axis) for name, axis in counts]
        smallest = max(low[axis] for (low, _, _), axis in ranges)
        largest = min(high[axis] for (_, _, high), axis in ranges)
        profiles.append(Profile(index, smallest, largest))
    return tuple(sorted(profiles, key=lambda profile: (profile.smallest, profile.largest)))


def read_memory_bytes(engine: Any) -> int:
    """Return the activation memory that one context needs at most, over all profiles and shapes."""
    # Asked in this order: where both are there, the older one warns that it is deprecated.
    return int(engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size)
