"""A double of the TensorRT module that runs on the host, and fails where TensorRT would or should.

A *plan* is a header and an ONNX graph. A run is queued on the worker thread whose stream handle it was given; it reads
and writes the addresses that its context was told by then, in the memory of that moment, with ONNX Runtime. So wrong
addresses, shapes and profiles, buffers reused too early and missing waits give other labels, or an error.

What TensorRT refuses, the double refuses in the same way: it logs an error and returns false or none. What is undefined
with TensorRT raises `Misuse`, in the caller or as the failure of the run's piece of work. Activation memory that it was
given, it fills with noise, and finds out whether somebody else writes there meanwhile.
"""

from __future__ import annotations

import ctypes
import json
import math
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from cascadert.device import NUMPY_TYPES, Stream
from cascadert.graph import DType, Graph, TensorSpec
from cascadert.runtime.devices.host import HostBuffer, HostDevice, WorkerStream

Surface = Literal["8.6", "10", "rtx"]
SURFACES: tuple[Surface, ...] = ("8.6", "10", "rtx")

_MAGIC = b"plan of the double\n"
_ALIGNMENT = 64  # what the host device gives; a GPU's is 256
_NAMES = {"float16": "HALF", "float32": "FLOAT"}

Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])
TensorIOMode = Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
Strategy = Enum("ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"])
CudaGraphStrategy = Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
Specialization = Enum("DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"])
_TYPES_8 = ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8"]
DataType8 = Enum("DataType", _TYPES_8)
DataType10 = Enum("DataType", [*_TYPES_8, "BF16", "INT64", "INT4"])


class Misuse(AssertionError):
    """Something that has no defined result with TensorRT."""


@dataclass
class DoubleGpu(HostDevice):
    """A host device that the double runs on.

    Attributes:
        title: what it passes for, as its name.
        compute_capability: the same, as a number.
        multiprocessors, memory_bytes: the same, in size.
        streams: its streams by handle.
        calls: what contexts were told, in words.
        refusal: what the next context or run is refused with, where not empty.
        during_runs: called while a run holds its activation memory.
        contexts: those that are alive.
    """

    title: str = "NVIDIA A10"
    compute_capability: str = "8.6"
    multiprocessors: int = 72
    memory_bytes: int = 24 * 2**30
    streams: dict[int, WorkerStream] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refusal: str = ""
    during_runs: Callable[[], None] = lambda: None
    contexts: weakref.WeakSet[Context] = field(default_factory=weakref.WeakSet)
    _busy: list[range] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _memory: weakref.WeakValueDictionary[int, np.ndarray] = field(default_factory=weakref.WeakValueDictionary)

    @property
    def name(self) -> str:
        return self.title

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> HostBuffer:
        return self._remember(super().allocate(shape, dtype))

    def import_array(self, array: Any, stream: Stream) -> HostBuffer:
        return self._remember(super().import_array(array, stream))

    def _remember(self, buffer: HostBuffer) -> HostBuffer:
        owner = buffer.array if buffer.array.base is None else buffer.array.base
        self._memory[owner.ctypes.data] = owner
        return buffer

    def hold(self, memory: range) -> np.ndarray:
        """Return what keeps memory alive that is or was a buffer's."""
        for start, owner in list(self._memory.items()):
            if start <= memory.start and memory.stop <= start + owner.nbytes:
                return owner
        raise Misuse(f"{len(memory)} bytes at {memory.start:#x} are not, or no longer, in memory of the device")

    def create_stream(self, name: str, priority: int = 0, cpus: frozenset[int] | None = None) -> WorkerStream:
        stream = super().create_stream(name, priority, cpus)
        self.streams[stream.handle] = stream
        return stream

    @contextmanager
    def occupied(self, memory: range) -> Iterator[None]:
        """Hold activation memory for one run."""
        with self._lock:
            if any(memory.start < other.stop and other.start < memory.stop for other in self._busy):
                raise Misuse("two runs share activation memory at the same time")
            self._busy.append(memory)
        try:
            owner = self.hold(memory)
            block = np.ctypeslib.as_array((ctypes.c_uint8 * len(memory)).from_address(memory.start))
            block[:] = noise = np.random.default_rng().integers(0, 256, len(memory), np.uint8)
            yield
            if not np.array_equal(block, noise):
                raise Misuse("activation memory was written by somebody else during a run")
            del owner
        finally:
            with self._lock:
                self._busy.remove(memory)


def make_plan(graph: Graph, profiles: Sequence[tuple[int, int, int]] = (), memory_bytes: int = 4096) -> bytes:
    """Return the plan of a graph in the dialect of ONNX Runtime.

    Args:
        graph: the graph.
        profiles: smallest, typical and largest n of each optimisation profile; a graph without n has one of its own.
        memory_bytes: activation memory that it asks for.
    """
    tensors = [
        [mode, spec.name, spec.dtype, spec.shape]
        for mode, specs in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs))
        for spec in specs
    ]
    header = {"tensors": tensors, "profiles": list(profiles) or [[0, 0, 0]], "memory_bytes": memory_bytes}
    return _MAGIC + json.dumps(header).encode() + b"\n" + graph.onnx


def make_tensorrt(surface: Surface, gpu: DoubleGpu) -> ModuleType:
    """Return a module with what a version of TensorRT has, and without what it has not."""
    trt: Any = ModuleType("tensorrt_rtx" if surface == "rtx" else "tensorrt")
    trt.__version__ = {"8.6": "8.6.1", "10": "10.9.0", "rtx": "1.7.1"}[surface]
    trt.ILogger, trt.TensorIOMode, trt.TensorLocation = ILogger, TensorIOMode, TensorLocation
    trt.DataType = DataType8 if surface == "8.6" else DataType10
    if surface != "8.6":
        trt.ExecutionContextAllocationStrategy = Strategy
    if surface == "rtx":
        trt.CudaGraphStrategy, trt.DynamicShapesKernelSpecializationStrategy = CudaGraphStrategy, Specialization
    trt.Runtime = lambda logger: Runtime(trt, gpu, logger, ENGINES[surface])
    return trt


class ILogger:
    Severity = Severity

    def log(self, severity: Severity, text: str) -> None:
        raise NotImplementedError


class Runtime:
    def __init__(self, trt: Any, gpu: DoubleGpu, logger: ILogger, engine: type[Engine]) -> None:
        if not isinstance(logger, ILogger):
            raise TypeError("logger")
        self._trt, self._gpu, self._logger, self._engine = trt, gpu, logger, engine
        logger.log(Severity.INFO, "[MemUsageChange] Init CUDA: CPU +1, GPU +0")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        header, _, onnx = serialized_engine.removeprefix(_MAGIC).partition(b"\n")
        if not serialized_engine.startswith(_MAGIC) or not onnx:
            self._logger.log(Severity.ERROR, "Error Code 1: Serialization (magicTag == kEXPECTED_MAGIC_TAG failed.)")
            return None
        return self._engine(self._trt, self._gpu, self._logger, json.loads(header), onnx)


class Engine:
    """What all versions have."""

    _context: type[Context]

    def __init__(self, trt: Any, gpu: DoubleGpu, logger: ILogger, header: dict[str, Any], onnx: bytes) -> None:
        self._trt, self._gpu, self._logger = trt, gpu, logger
        self._specs = {name: TensorSpec(name, dtype, tuple(shape)) for _, name, dtype, shape in header["tensors"]}
        self._inputs = [name for mode, name, _, _ in header["tensors"] if mode == "INPUT"]
        self._profiles, self._memory_bytes = header["profiles"], header["memory_bytes"]
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._specs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: int) -> str:
        return list(self._specs)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        dtype = self._specs[name].dtype
        return self._trt.DataType[_NAMES.get(dtype, dtype.upper())]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(-1 if isinstance(size, str) else size for size in self._specs[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        shape = self._specs[name].shape
        return [tuple(n if isinstance(size, str) else size for size in shape) for n in self._profiles[profile_index]]

    def _create(self, how: str, *, user_managed: bool = False, config: RuntimeConfig | None = None) -> Context | None:
        self._gpu.calls.append(f"context {how}")
        return None if self._refused() else self._context(self, user_managed, config)

    def _refused(self) -> bool:
        refusal, self._gpu.refusal = self._gpu.refusal, ""
        return bool(refusal) and not self._refuse(refusal)

    def _refuse(self, text: str) -> bool:
        self._logger.log(Severity.ERROR, text)
        return False


class Context:
    """What all versions have."""

    def __init__(self, engine: Engine, user_managed: bool, config: RuntimeConfig | None) -> None:
        self._engine, self._user_managed, self._config = engine, user_managed, config
        self._profile, self._switched_on = 0, 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory: range | None = None
        self._running = threading.Lock()
        engine._gpu.contexts.add(self)

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._told(f"profile {profile_index}")
        if stream_handle not in self._engine._gpu.streams:
            raise Misuse(f"a profile is switched on stream {stream_handle}, which is none of the device's")
        if profile_index not in range(self._engine.num_optimization_profiles):
            return self._engine._refuse(f"setOptimizationProfileAsync: there is no profile {profile_index}")
        self._profile, self._switched_on = profile_index, stream_handle
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        self._told(f"shape {name}")
        if name not in self._engine._inputs:
            return self._engine._refuse(f"setInputShape: there is no input {name}")
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(low) or not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            text = f"setInputShape: {list(shape)} of {name} is outside {list(low)} to {list(high)}"
            return self._engine._refuse(f"{text} of profile {self._profile}")
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._told(f"address {name}")
        if name not in self._engine._specs or not memory:
            return self._engine._refuse(f"setTensorAddress: {name} at {memory}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._told("execute")
        engine, stream = self._engine, self._engine._gpu.streams.get(stream_handle)
        if stream is None:
            raise Misuse(f"a run is queued on stream {stream_handle}, which is none of the device's")
        if self._switched_on not in (0, stream_handle):
            raise Misuse("a run is queued on another stream than the switch of its profile")
        if engine._refused():
            return False
        unset = [name for name in engine._specs if name not in self._addresses]
        if unset:
            return engine._refuse(f"enqueueV3: no address is set for {', '.join(unset)}")
        dynamic = [name for name in engine._inputs if -1 in engine.get_tensor_shape(name)]
        if not all(name in self._shapes for name in dynamic):
            return engine._refuse(f"enqueueV3: the shape of {', '.join(dynamic)} is not set in profile {self._profile}")
        if self._user_managed and self._memory is None:
            raise Misuse("a run has no activation memory")
        self._switched_on = 0
        tensors = {name: (self._addresses[name], shape) for name, shape in self._all_shapes().items()}
        stream.submit(_Run(weakref.ref(self), tensors, self._memory))
        return True

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        specs = self._engine._specs
        sizes: dict[int | str, int] = {}
        for name, shape in self._shapes.items():
            sizes |= dict(zip(specs[name].shape, shape, strict=True))
        return {
            name: tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
            for name, spec in specs.items()
        }

    def _take_memory(self, memory: int, size: int) -> None:
        self._told(f"memory {size}")
        if not self._user_managed:
            raise Misuse("a context with memory of its own is given some")
        if memory % _ALIGNMENT or size < self._engine._memory_bytes:
            self._engine._refuse(f"setDeviceMemory: {size} bytes at {memory:#x}")
            return
        self._memory = range(memory, memory + size)

    def _told(self, what: str) -> None:
        self._engine._gpu.calls.append(what)

    def _execute(self, tensors: dict[str, tuple[int, tuple[int, ...]]], memory: range | None) -> None:
        """Run now, on the stream's thread."""
        if not self._running.acquire(blocking=False):
            raise Misuse("two runs of one context at the same time")
        try:
            with nullcontext() if memory is None else self._engine._gpu.occupied(memory):
                self._compute(tensors)
                self._engine._gpu.during_runs()
        finally:
            self._running.release()
        if self._config is not None and self._config._cache is not None:
            self._config._cache._kernels.add(str({name: shape for name, (_, shape) in sorted(tensors.items())}))

    def _compute(self, tensors: dict[str, tuple[int, tuple[int, ...]]]) -> None:
        io, held = self._engine._session.io_binding(), []
        for name, (address, shape) in tensors.items():
            kind = np.dtype(NUMPY_TYPES[self._engine._specs[name].dtype])
            held.append(self._engine._gpu.hold(range(address, address + math.prod(shape) * kind.itemsize)))
            bind = io.bind_input if name in self._engine._inputs else io.bind_output
            bind(name, "cpu", 0, kind.type, shape, address)
        self._engine._session.run_with_iobinding(io)


@dataclass(frozen=True)
class _Run:
    """What a context was told, at the time when the run was queued. It does not keep the context alive."""

    context: weakref.ref[Context]
    tensors: dict[str, tuple[int, tuple[int, ...]]]
    memory: range | None

    def __call__(self) -> None:
        context = self.context()
        if context is None:
            raise Misuse("a context was destroyed before its run")
        context._execute(self.tensors, self.memory)


class Context8(Context):
    def _set_device_memory(self, memory: int) -> None:
        self._take_memory(memory, self._engine._memory_bytes)

    device_memory = property(None, _set_device_memory)


class Context10(Context8):
    def set_device_memory(self, memory: int, size: int) -> None:
        self._take_memory(memory, size)


class Engine8(Engine):
    _context = Context8

    @property
    def device_memory_size(self) -> int:
        return self._memory_bytes

    def create_execution_context(self) -> Context | None:
        return self._create("STATIC")

    def create_execution_context_without_device_memory(self) -> Context | None:
        return self._create("without memory", user_managed=True)


class Engine10(Engine):
    _context = Context10

    @property
    def device_memory_size_v2(self) -> int:
        return self._memory_bytes

    @property
    def device_memory_size(self) -> int:
        warnings.warn("Deprecated in TensorRT 10.1. Superseded by device_memory_size_v2", DeprecationWarning, 2)
        return self._memory_bytes

    def create_execution_context(self, strategy: Strategy = Strategy.STATIC) -> Context | None:
        return self._create(strategy.name, user_managed=strategy is Strategy.USER_MANAGED)

    def create_execution_context_without_device_memory(self) -> Context | None:
        warnings.warn("Use create_execution_context instead", DeprecationWarning, 2)
        return self._create("without memory", user_managed=True)


class EngineRtx(Engine):
    _context = Context10

    @property
    def device_memory_size_v2(self) -> int:
        return self._memory_bytes

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self)

    def create_execution_context(self, runtime_config: RuntimeConfig) -> Context | None:
        if not isinstance(runtime_config, RuntimeConfig):
            raise TypeError("runtime_config")
        user_managed = runtime_config._allocation is Strategy.USER_MANAGED
        return self._create(str(runtime_config), user_managed=user_managed, config=runtime_config)


class RuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = Specialization.LAZY

    def __init__(self, engine: Engine) -> None:
        self._engine, self._allocation = engine, Strategy.STATIC
        self._cache: RuntimeCache | None = None

    def __str__(self) -> str:
        graphs, kernels = self.cuda_graph_strategy.name, self.dynamic_shapes_kernel_specialization_strategy.name
        return f"{self._allocation.name} {graphs} {kernels}{'' if self._cache is None else ' cached'}"

    def set_execution_context_allocation_strategy(self, strategy: Strategy = Strategy.STATIC) -> None:
        self._allocation = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._engine)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = cache
        return True


class RuntimeCache:
    """The shapes that kernels were compiled for; of use to one compute capability."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._key = engine, f"kernels for {engine._gpu.compute_capability}"
        self._kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        key, *kernels = bytes(blob).decode(errors="replace").splitlines() or [""]
        if key != self._key:
            return self._engine._refuse("IRuntimeCache::deserialize: the cache is from another environment")
        self._kernels |= set(kernels)
        return True

    def serialize(self) -> memoryview:
        return memoryview("\n".join([self._key, *sorted(self._kernels)]).encode())


ENGINES: dict[Surface, type[Engine]] = {"8.6": Engine8, "10": Engine10, "rtx": EngineRtx}
