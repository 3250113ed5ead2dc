"""`TensorRTExecutable`: one stage as a TensorRT engine with an execution context of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cascadert.device import NUMPY_TYPES, Buffer, Stream
from cascadert.errors import ExecutionError
from cascadert.executable import check_bindings
from cascadert.graph import TensorSpec
from cascadert.runtime.executables.tensorrt.cache import CacheState
from cascadert.runtime.executables.tensorrt.context import DEFAULTS, Context, TensorRTOptions
from cascadert.runtime.executables.tensorrt.engine import (
    Profile,
    check_tensors,
    find_counts,
    read_memory_bytes,
    read_profiles,
)
from cascadert.runtime.executables.tensorrt.runtime import TensorRT


@dataclass(frozen=True)
class StageEngine:
    """The serialised engine of a stage, and the tensors that its graph reads and writes."""

    stage: str
    plan: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class TensorRTExecutable:
    """One engine, loaded. A context manager; see `Executable` for threads.

    Runs of one executable follow each other on one stream; on several, the caller orders them by events. CUDA's context
    of the device must be current in the thread that calls: opening the device and queueing on its streams make it so.

    Args:
        source: the engine.
        tensorrt: what loads it.
        options: how it runs.

    Attributes:
        engine_bytes: length of the serialised engine, weights included.
        memory_bytes: activation memory that a run needs at most, whatever n; TensorRT's own unless `user_memory`.
        runtime_cache: what became of the runtime cache when the engine was loaded; none without one.

    Raises:
        DeploymentError: TensorRT refuses the engine, or its tensors are not those of the stage.
        InvalidRequest: a choice that this flavour of TensorRT does not have.
    """

    def __init__(self, source: StageEngine, tensorrt: TensorRT, options: TensorRTOptions = DEFAULTS) -> None:
        self.name, self.inputs, self.outputs = source.stage, source.inputs, source.outputs
        engine = tensorrt.deserialize(source.stage, source.plan)
        check_tensors(tensorrt.module, engine, source.stage, source.inputs, source.outputs)
        self._counts = find_counts(source.inputs)
        self._profiles = read_profiles(engine, self._counts)
        self.engine_bytes, self.memory_bytes = len(source.plan), read_memory_bytes(engine)
        self._context: Context | None = Context(tensorrt, engine, source.stage, options)
        self.runtime_cache: CacheState | None = self._context.cache_state
        self._user_memory = options.user_memory
        self._memory: Buffer | None = None

    def blocks(self, n: int) -> int:
        """Return n where a profile takes it, else the next larger number that one takes; n where none is counted.

        Raises:
            ExecutionError: more than any profile takes.
        """
        if not self._profiles or any(profile.holds(n) for profile in self._profiles):
            return n
        larger = [profile.smallest for profile in self._profiles if profile.smallest > n]
        if not larger:
            raise self._not_built_for(n)
        return min(larger)

    def use_memory(self, block: Buffer) -> None:
        """Give it the activation memory of its runs: at least `memory_bytes`, aligned to 256 bytes.

        Executables whose runs follow each other on one stream may share a block. Sharing one among runs that can be in
        parallel is undefined: they overwrite each other's activations, and nothing reports it.

        Raises:
            ExecutionError: a block that is too small or that TensorRT refuses, or no `user_memory` in the options.
        """
        context = self._opened()
        if not self._user_memory:
            raise ExecutionError(f"stage '{self.name}'", "has activation memory of its own", "load it with user_memory")
        size = math.prod(block.shape) * np.dtype(NUMPY_TYPES[block.dtype]).itemsize
        if size < self.memory_bytes:
            found = f"is given {size} bytes of activation memory where it needs {self.memory_bytes}"
            raise ExecutionError(f"stage '{self.name}'", found, "give a larger block")
        context.use_memory(block, size)
        self._memory = block

    def enqueue(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        """Queue one run; see `Executable.enqueue`. The caller keeps the buffers until it is done.

        Raises:
            ExecutionError: bindings that do not fit, a number of blocks that no profile takes, no activation memory
                yet, or a refusal of TensorRT's, in its own words.
        """
        context = self._opened()
        self._check_run(bindings, stream)
        if self._profiles:
            name, axis = self._counts[0]  # the others are the same: `check_bindings` saw to it
            context.select_profile(self._profile(bindings[name].shape[axis]).index, stream)
        for spec in self.inputs:
            context.set_shape(spec.name, bindings[spec.name].shape)
        for spec in (*self.inputs, *self.outputs):
            context.set_address(spec.name, bindings[spec.name].address)
        context.execute(stream)

    def close(self) -> None:
        """Save the runtime cache, and give back the context and the engine.

        Raises:
            InvalidRequest: the runtime cache cannot be written; everything is given back nevertheless.
        """
        context, self._context, self._memory = self._context, None, None
        if context is not None:
            context.close()

    def _opened(self) -> Context:
        if self._context is None:
            raise ExecutionError(f"stage '{self.name}'", "is closed", "load it again")
        return self._context

    def _check_run(self, bindings: Mapping[str, Buffer], stream: Stream) -> None:
        check_bindings(self.name, (*self.inputs, *self.outputs), bindings)
        subject = f"stage '{self.name}'"
        if stream.handle == 0:  # TensorRT would synchronise the whole device around the run
            raise ExecutionError(subject, "is queued on the default stream", "use a stream of the device")
        if self._user_memory and self._memory is None:
            raise ExecutionError(subject, "has no activation memory", "call use_memory first")

    def _profile(self, n: int) -> Profile:
        """Return the profile that takes n blocks; of several the narrowest, whose kernels fit n best."""
        fitting = [profile for profile in self._profiles if profile.holds(n)]
        if not fitting:
            raise self._not_built_for(n)
        return min(fitting, key=lambda profile: profile.largest - profile.smallest)

    def _not_built_for(self, n: int) -> ExecutionError:
        built = ", ".join(str(profile) for profile in self._profiles)
        return ExecutionError(f"stage '{self.name}'", f"was built for {built} blocks, not for {n}", "build it for more")

    def __enter__(self) -> TensorRTExecutable:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
