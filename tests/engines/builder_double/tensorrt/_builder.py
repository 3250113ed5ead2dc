"""A builder whose plans run on the run-time double, with the numbers that the chosen precision would give."""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnx import TensorProto, helper
from tensorrt_double import make_plan

from cascadert.graph import Graph, TensorSpec
from tensorrt._network import ILayer, INetworkDefinition
from tensorrt._surface import (
    DLA_CORES,
    GPU,
    VERSION,
    BuilderFlag,
    DataType,
    DeviceType,
    ILogger,
    LayerType,
    MemoryPoolType,
    Misuse,
    Severity,
)

_WEAK_FLAGS = {"FP16", "INT8", "BF16", "FP8", "INT4", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}
_DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
}
_STAMP = f"timing cache of {VERSION.text}\n".encode()


class ITimingCache:
    def __init__(self, times: set[str]) -> None:
        self.times = times

    def serialize(self) -> memoryview:
        return memoryview(_STAMP + json.dumps(sorted(self.times)).encode())


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class IBuilderConfig:
    __slots__ = ("DLA_core", "cache", "default_device_type", "limits", "logger", "profiles", "set_flags")

    def __init__(self, logger: ILogger) -> None:
        self.logger, self.set_flags, self.limits = logger, {BuilderFlag.TF32}, dict[str, int]()
        self.profiles: list[IOptimizationProfile] = []
        self.cache: ITimingCache | None = None
        self.default_device_type, self.DLA_core = DeviceType.GPU, -1

    def set_flag(self, flag: BuilderFlag) -> None:
        self.set_flags.add(BuilderFlag(flag))

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.set_flags.discard(BuilderFlag(flag))

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.limits[MemoryPoolType(pool).name] = size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, blob: bytes) -> ITimingCache | None:
        if blob and not blob.startswith(_STAMP):
            self.logger.log(Severity.ERROR, "deserializeTimingCache: version mismatch")
            return None
        return ITimingCache(set(json.loads(blob.removeprefix(_STAMP) or b"[]")))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if ignore_mismatch:
            raise Misuse("timings of another device are taken for this one's")
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache


class LevelledConfig(IBuilderConfig):
    """What 8.6 brought."""

    __slots__ = ("builder_optimization_level", "max_aux_streams", "progress_monitor")

    def __init__(self, logger: ILogger) -> None:
        super().__init__(logger)
        self.builder_optimization_level, self.max_aux_streams, self.progress_monitor = 3, -1, None


class Builder:
    num_DLA_cores = DLA_CORES  # noqa: N815

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        if not GPU:
            logger.log(Severity.ERROR, "createInferBuilder: Error Code 6: CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return (LevelledConfig if VERSION.optimization_level else IBuilderConfig)(self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> memoryview | None:
        for fault in (_profile_fault(network, config), _typing_fault(network, config)):
            if fault:
                self._logger.log(Severity.ERROR, f"IBuilder::buildSerializedNetwork: Error Code 4: {fault}")
                return None
        if not _tell(getattr(config, "progress_monitor", None), network.layers):
            return None
        if config.cache is not None:
            config.cache.times |= {layer.name for layer in network.layers}
        assert network.model is not None
        model = _rounded(network) if _may_halve(config) else network.model
        return memoryview(_plan(model, config))


def _tell(monitor: Any, layers: list[ILayer]) -> bool:
    if monitor is None:
        return True
    monitor.phase_start("Building engine", None, len(layers))
    going = all(monitor.step_complete("Building engine", step) for step in range(len(layers)))
    monitor.phase_finish("Building engine")
    return going


def _profile_fault(network: INetworkDefinition, config: IBuilderConfig) -> str:
    assert network.model is not None
    for entry in network.model.graph.input:
        sizes = [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        if not any(isinstance(size, str) for size in sizes):
            continue
        if not config.profiles or entry.name not in config.profiles[0].shapes:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
        shapes = config.profiles[0].shapes[entry.name]
        if any(len(shape) != len(sizes) for shape in shapes) or shapes != sorted(shapes):
            return f"the profile of {entry.name} is {shapes}"
        if any(
            one != size for shape in shapes for one, size in zip(shape, sizes, strict=True) if isinstance(size, int)
        ):
            return f"the profile of {entry.name} is {shapes} where it has {sizes}"
    return ""


def _typing_fault(network: INetworkDefinition, config: IBuilderConfig) -> str:
    flags = {flag.name for flag in config.set_flags}
    if network.strongly_typed:
        wrong = flags & _WEAK_FLAGS
        return f"{sorted(wrong)} cannot be set for a strongly typed network" if wrong else ""
    told = [layer.name for layer in network.layers if layer.type is not LayerType.CONSTANT and layer.types]
    if told and not flags & {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}:
        raise Misuse(f"the types of {told} are set, and no flag says that they count")
    types = {tensor.dtype for layer in network.layers for tensor in layer.outputs}
    if DataType.HALF in types:
        return "the network has types of its own, and is not strongly typed: float16 casts are not what flags allow"
    if any(layer.type is LayerType.QUANTIZE for layer in network.layers) and "INT8" not in flags:
        return "Q/DQ layers need the INT8 builder flag"
    return ""


def _may_halve(config: IBuilderConfig) -> bool:
    return any(flag.name == "FP16" for flag in config.set_flags)


def _rounded(network: INetworkDefinition) -> onnx.ModelProto:
    """Compute every layer in float16 that was not told otherwise: the most that the flag FP16 allows."""
    model = onnx.ModelProto()
    assert network.model is not None
    model.CopyFrom(network.model)
    del model.graph.node[:]
    nodes: dict[int, onnx.NodeProto] = {}
    for layer in network.layers:
        node = nodes.setdefault(id(layer.node), onnx.NodeProto.FromString(layer.node.SerializeToString()))
        free = [i for i, tensor in enumerate(layer.outputs) if tensor.dtype is DataType.FLOAT and i not in layer.types]
        if layer.helps is not None:
            if free:
                source, wide = node.input[layer.helps], layer.outputs[0].name
                model.graph.node.extend(_halve(source, wide))
                node.input[layer.helps] = wide
            continue
        model.graph.node.append(node)
        if layer.type is LayerType.CONSTANT:
            continue
        for i in free:
            name = node.output[i]
            model.graph.node[-1 - 2 * free.index(i)].output[i] = f"{name}_wide"
            model.graph.node.extend(_halve(f"{name}_wide", name))
    return model


def _halve(source: str, result: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Cast", [source], [f"{result}_half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{result}_half"], [result], to=TensorProto.FLOAT),
    ]


def _plan(model: onnx.ModelProto, config: IBuilderConfig) -> bytes:
    """The plan of the run-time double; what the builder was told goes along as metadata of its model."""
    told = {
        "flags": sorted(flag.name for flag in config.set_flags),
        "limits": config.limits,
        "device": f"{config.default_device_type.name}{config.DLA_core}",
        **{name: getattr(config, name, None) for name in ("builder_optimization_level", "max_aux_streams")},
    }
    helper.set_model_props(model, {"told": json.dumps(told)})
    inputs, outputs = ([_spec(entry) for entry in entries] for entries in (model.graph.input, model.graph.output))
    profiles = [_counts(inputs, profile) for profile in config.profiles]
    return make_plan(Graph(model.SerializeToString(), tuple(inputs), tuple(outputs), "onnxruntime"), profiles)


def _spec(entry: onnx.ValueInfoProto) -> TensorSpec:
    kind = entry.type.tensor_type
    return TensorSpec(
        entry.name, _DTYPES[kind.elem_type], tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    )  # type: ignore[arg-type]


def _counts(inputs: list[TensorSpec], profile: IOptimizationProfile) -> tuple[int, int, int]:
    """Smallest, typical and largest n."""
    for spec in inputs:
        for place, size in enumerate(spec.shape):
            if isinstance(size, str):
                low, typical, high = (shape[place] for shape in profile.shapes[spec.name])
                return low, typical, high
    return 0, 0, 0
