"""The TensorRT part of a build: one code path for TensorRT 8.5 to 11 and TensorRT-RTX.

What a version can do is asked of its module and objects (`hasattr`), never of its number. A setting that it does not
have is refused, since an engine built without it would not be what was asked for.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascadert.engines.build_request import BuildRequest
from cascadert.engines.inspection import LayerTypes, network_types
from cascadert.engines.pinning import float32_layers
from cascadert.engines.progress import BUILDING, PARSING, Hear, make_monitor, progress_message
from cascadert.engines.recipe import TensorRTBackend
from cascadert.engines.trt_log import make_log, without_driver_noise

MODULES: Mapping[TensorRTBackend, str] = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}

PRECISION_FLAGS = ("TF32", "FP16", "BF16", "INT8", "FP8", "INT4", "FP4")

REFIT_LOSES_BIASES = "11.3."
"""Versions of TensorRT whose flag REFIT may change results; nothing else tells (NVIDIA's documentation of 11.3.0)."""

Fault = dict[str, Any]


class Refused(Exception):
    """TensorRT's parser or builder said no; `faults` are its own words, driver noise left out."""

    def __init__(self, by: str, faults: list[Fault]) -> None:
        self.by, self.faults = by, faults
        super().__init__(by, faults)


class Unfit(Exception):
    """This version of TensorRT, or this device, cannot do what the request asks for."""

    def __init__(self, found: str, remedy: str) -> None:
        self.found, self.remedy = found, remedy
        super().__init__(f"{found}; {remedy}")


@dataclass(frozen=True)
class Built:
    """What is reported of an engine: it and its timing cache are in the files of the request."""

    seconds: float
    versions: dict[str, str]
    log: list[str]
    network: list[LayerTypes]


def build(request: BuildRequest, hear: Hear) -> Built:
    """Parse the ONNX file, build the engine, write it.

    Raises:
        Refused: the parser or the builder did not take the graph.
        Unfit: see there.
        ModuleNotFoundError: this TensorRT is not installed.
    """
    return _Build(importlib.import_module(MODULES[request.backend]), request, hear).run()


class _Build:
    def __init__(self, trt: Any, request: BuildRequest, hear: Hear) -> None:
        self._trt, self._request, self._settings, self._hear = trt, request, request.settings, hear
        self._log = make_log(trt)
        self._builder = self._create_builder()
        self._network = self._builder.create_network(self._network_flags())
        self._config = self._builder.create_builder_config()

    def run(self) -> Built:
        start = time.perf_counter()
        self._hear(progress_message(PARSING))
        self._parse()
        self._set_precision()
        self._set_refit()
        self._set_limits()
        self._set_device()
        self._set_profile()
        timed = self._load_timing_cache()
        self._log.errors.clear()
        self._build()
        if timed:
            Path(self._request.timing_cache).write_bytes(self._config.get_timing_cache().serialize())
        versions: dict[str, str] = {self._request.backend: self._trt.__version__}
        seconds = time.perf_counter() - start
        return Built(seconds, versions, self._log.warnings, network_types(self._trt, self._network))

    def _create_builder(self) -> Any:
        try:
            return self._trt.Builder(self._log)
        except TypeError as error:  # what the bindings make of a null pointer
            said = "; ".join([*self._log.errors, *self._log.driver_errors]) or str(error)
            raise Unfit(f"{self._name} does not start: {said}", "build where its GPU and driver are") from error

    def _network_flags(self) -> int:
        known, flags = self._trt.NetworkDefinitionCreationFlag, 0
        if hasattr(known, "EXPLICIT_BATCH"):  # before TensorRT 10 the other kind of network was the default
            flags |= 1 << int(known.EXPLICIT_BATCH)
        if self._request.strongly_typed:
            flags |= 1 << int(self._need(known, "STRONGLY_TYPED", "strong typing"))
        return flags

    def _parse(self) -> None:
        parser = self._trt.OnnxParser(self._network, self._log)
        if not parser.parse_from_file(self._request.onnx):
            raise Refused("parser", parser_faults(parser))

    def _build(self) -> None:
        if hasattr(self._trt, "IProgressMonitor"):
            self._config.progress_monitor = make_monitor(self._trt, self._hear)
        self._hear(progress_message(BUILDING))
        engine = self._builder.build_serialized_network(self._network, self._config)
        if engine is None:
            self._check_driver()
            raise Refused("builder", [{"text": text, "node": "", "index": -1} for text in self._log.errors])
        Path(self._request.engine).write_bytes(engine)

    def _set_precision(self) -> None:
        """Allow what the recipe allows, and nothing else: TF32 for one is on by default."""
        known = self._trt.BuilderFlag
        for name in PRECISION_FLAGS:
            if hasattr(known, name):
                self._config.clear_flag(getattr(known, name))
        for name in self._settings.flags:
            self._config.set_flag(self._need(known, name, f"flag {name}"))
        if self._settings.float32_nodes:
            self._keep_float32()

    def _set_refit(self) -> None:
        if not self._settings.refittable:
            return
        what = "a refittable engine"
        self._need(self._trt, "OnnxParserRefitter", what)  # the flag is older, but with nothing that could use it
        if self._request.backend == "tensorrt" and self._trt.__version__.startswith(REFIT_LOSES_BIASES):
            found = f"{what} is asked for, and that of {self._name} may take a bias for zero (NVIDIA's known issues)"
            raise Unfit(found, "leave it out, or build with another version")
        self._config.set_flag(self._need(self._trt.BuilderFlag, "REFIT", what))

    def _check_driver(self) -> None:
        """Say so where TensorRT-RTX builds without a GPU, but not this: kernels of refittable engines are loaded."""
        if self._settings.refittable and any("CUDA_SUCCESS" in text for text in self._log.errors):
            found = f"{self._name} builds refittable engines only where a GPU and its driver are"
            raise Unfit(found, "build there, or leave it out")

    def _keep_float32(self) -> None:
        obey = self._need(self._trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS", "a float32 operator")
        self._config.set_flag(obey)
        pinned = float32_layers(self._network, self._settings.float32_nodes)
        if not pinned:
            found = f"none of the operators to keep in float32 is in the parsed network: {self._settings.float32_nodes}"
            raise Unfit(found, "name operators of the graph")
        single, floats = self._trt.DataType.FLOAT, (self._trt.DataType.FLOAT, self._trt.DataType.HALF)
        for layer in pinned:
            outputs = [i for i in range(layer.num_outputs) if layer.get_output(i).dtype in floats]
            if outputs:  # integers and truth values have no precision to choose
                layer.precision = single
            for i in outputs:
                layer.set_output_type(i, single)

    def _set_limits(self) -> None:
        settings = self._settings
        if settings.workspace_bytes is not None:
            self._config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
        if settings.optimization_level is not None:
            self._set("builder_optimization_level", settings.optimization_level, "an optimization level")
        # That there are none holds by itself where TensorRT knows of none: before 8.6.
        if settings.aux_streams or (settings.aux_streams == 0 and hasattr(self._config, "max_aux_streams")):
            self._set("max_aux_streams", settings.aux_streams, "a limit of auxiliary streams")

    def _set_device(self) -> None:
        if self._request.backend == "tensorrt-rtx":
            self._set_compute_capability()
        core = self._settings.dla_core
        if core is None:
            return
        cores = getattr(self._builder, "num_DLA_cores", 0)
        if not 0 <= core < cores:
            raise Unfit(f"DLA core {core} is asked for, and {self._name} finds {cores} here", "build for the GPU")
        self._config.default_device_type = self._trt.DeviceType.DLA
        self._config.DLA_core = core
        self._config.set_flag(self._trt.BuilderFlag.GPU_FALLBACK)

    def _set_compute_capability(self) -> None:
        known = self._trt.ComputeCapability.__members__
        name = f"SM{self._request.compute_capability.replace('.', '')}"
        if name not in known:
            those = ", ".join(other for other in known if other.startswith("SM"))
            raise Unfit(f"{self._name} does not build for {name}, only for {those}", "choose another target")
        self._config.num_compute_capabilities = 1
        self._config.set_compute_capability(known[name], 0)

    def _set_profile(self) -> None:
        if not self._request.shapes:
            return
        profile = self._builder.create_optimization_profile()
        for name, shapes in self._request.shapes.items():
            profile.set_shape(name, *map(tuple, shapes))
        self._config.add_optimization_profile(profile)

    def _load_timing_cache(self) -> bool:
        """Take the timings of an earlier build; true where there are timings to keep."""
        path = Path(self._request.timing_cache)
        if self._request.backend == "tensorrt-rtx":  # times nothing ahead, although its API has the calls
            if path.exists():
                raise Unfit(f"{self._name} has no use for a timing cache", "leave it out")
            return False
        cache = self._config.create_timing_cache(path.read_bytes() if path.exists() else b"")
        if cache is None or not self._config.set_timing_cache(cache, ignore_mismatch=False):
            raise Unfit(f"{self._name} does not take this timing cache", "give one of this device and version, or none")
        return True

    def _set(self, attribute: str, value: int, what: str) -> None:
        self._need(self._config, attribute, what)
        setattr(self._config, attribute, value)

    def _need(self, owner: Any, attribute: str, what: str) -> Any:
        if not hasattr(owner, attribute):
            raise Unfit(
                f"{what} is asked for, and {self._name} has no {attribute}",
                "leave it out, or build with a version that has it",
            )
        return getattr(owner, attribute)

    @property
    def _name(self) -> str:
        return f"{MODULES[self._request.backend]} {self._trt.__version__}"


def parser_faults(parser: Any) -> list[Fault]:
    """Return what a parser, or its kind that refits, complains of."""
    return [_parser_fault(parser.get_error(i)) for i in range(parser.num_errors)]


def _parser_fault(error: Any) -> Fault:
    """Before TensorRT 10 the parser knows a node by its place in the graph, later also by name."""
    text = f"{error.desc()} [{error.code().name}, {error.func()}]"
    name = error.node_name() if hasattr(error, "node_name") else ""
    return {"text": without_driver_noise(text), "node": name, "index": error.node()}
