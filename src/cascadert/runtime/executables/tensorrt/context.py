"""An execution context: how it is made in each flavour, and what it is told for each run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cascadert.device import Buffer, Stream
from cascadert.errors import DeploymentError, ExecutionError, InvalidRequest
from cascadert.runtime.executables.tensorrt.cache import CacheState, RuntimeCache
from cascadert.runtime.executables.tensorrt.runtime import TensorRT


@dataclass(frozen=True)
class TensorRTOptions:
    """How engines run.

    The choices that only TensorRT-RTX has are refused elsewhere. CUDA graphs are among them: no run is captured by us.

    Attributes:
        user_memory: contexts get no activation memory of their own; `use_memory` gives them some.
        runtime_cache: folder of compiled kernels, one file a stage (TensorRT-RTX).
        cuda_graphs: have each run captured and replayed as one CUDA graph for each shape (TensorRT-RTX).
        kernels: whether kernels are compiled for each new n: "lazy" in the background, with slower ones until then;
            "eager" at once, which makes that run slow; or never. None: TensorRT-RTX's own choice (TensorRT-RTX).
    """

    user_memory: bool = False
    runtime_cache: Path | None = None
    cuda_graphs: bool = False
    kernels: Literal["lazy", "eager", "none"] | None = None


DEFAULTS = TensorRTOptions()


class Context:
    """The execution context of one stage. It tells TensorRT only what changed since the last run.

    Raises:
        DeploymentError: TensorRT makes none.
        InvalidRequest: a choice that this flavour does not have, or a runtime cache that cannot be read.
    """

    def __init__(self, tensorrt: TensorRT, engine: Any, stage: str, options: TensorRTOptions) -> None:
        self._tensorrt, self._engine, self._stage = tensorrt, engine, stage
        self._config = _configure(tensorrt, engine, options)
        folder = options.runtime_cache
        self._cache = None if folder is None else RuntimeCache(self._config, folder / f"{stage}.cache")
        self.cache_state: CacheState | None = None if self._cache is None else self._cache.state
        self._context = _create(tensorrt.module, engine, options, self._config)
        if self._context is None:
            found = f"TensorRT makes no execution context: {tensorrt.take_words() or 'it does not say why'}"
            raise DeploymentError(f"stage '{stage}'", found, "free memory of the device, or build with fewer blocks")
        tensorrt.take_words()  # such as why a runtime cache was refused
        self._profile: int | None = self._context.active_optimization_profile
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def use_memory(self, block: Buffer, size: int) -> None:
        """Give it `size` bytes of activation memory."""
        self._tensorrt.take_words()
        if hasattr(self._context, "set_device_memory"):
            self._context.set_device_memory(block.address, size)
        else:
            self._context.device_memory = block.address
        words = self._tensorrt.take_words()  # neither way returns whether it was taken
        if words:
            raise ExecutionError(
                f"stage '{self._stage}'", f"TensorRT refuses its memory: {words}", "give another block"
            )

    def select_profile(self, index: int, stream: Stream) -> None:
        """Switch to an optimisation profile; the switch itself is work on the stream."""
        if index != self._profile:
            switched = self._context.set_optimization_profile_async(index, stream.handle)
            self._check(switched, f"optimisation profile {index}")
            self._profile = index
            self._shapes.clear()  # a switch makes TensorRT forget them

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Say how large an input is."""
        if self._shapes.get(name) != shape:
            self._check(self._context.set_input_shape(name, shape), f"shape {list(shape)} of '{name}'")
            self._shapes[name] = shape

    def set_address(self, name: str, address: int) -> None:
        """Say where a tensor lies."""
        if self._addresses.get(name) != address:
            self._check(self._context.set_tensor_address(name, address), f"the address of '{name}'")
            self._addresses[name] = address

    def execute(self, stream: Stream) -> None:
        """Queue a run."""
        self._check(self._context.execute_async_v3(stream.handle), "to run")

    def close(self) -> None:
        """Save the runtime cache, and let go of the context and then of what it was made from."""
        try:
            if self._cache is not None:
                self._cache.save()
        finally:
            self._context = None
            self._cache = self._config = self._engine = None

    def _check(self, accepted: bool, what: str) -> None:
        if not accepted:
            self._profile = None  # what it took in before it refused is not known
            self._shapes.clear()
            self._addresses.clear()
            found = f"TensorRT refuses {what}: {self._tensorrt.take_words() or 'it does not say why'}"
            raise ExecutionError(f"stage '{self._stage}'", found, "check the frame and the deployment")


def _configure(tensorrt: TensorRT, engine: Any, options: TensorRTOptions) -> Any:
    """Return the runtime configuration of TensorRT-RTX; none for a flavour that has nothing to choose."""
    trt = tensorrt.module
    if not hasattr(trt, "CudaGraphStrategy"):
        chosen = [name for name in ("runtime_cache", "cuda_graphs", "kernels") if getattr(options, name)]
        if chosen:
            raise InvalidRequest(chosen[0], f"is a choice of TensorRT-RTX that {tensorrt.title} lacks", "leave it out")
        return None
    config = engine.create_runtime_config()
    if options.user_memory:
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if options.cuda_graphs:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    if options.kernels is not None:
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = getattr(strategies, options.kernels.upper())
    return config


def _create(trt: Any, engine: Any, options: TensorRTOptions, config: Any) -> Any:
    if config is not None:
        return engine.create_execution_context(config)
    if not options.user_memory:
        return engine.create_execution_context()
    if hasattr(trt, "ExecutionContextAllocationStrategy"):  # TensorRT 10
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()
