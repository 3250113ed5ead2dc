"""The TensorRT part of a refit: an engine that was built for it takes the weights of another graph."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from cascadert.engines.build_request import BuildRequest
from cascadert.engines.builder import MODULES, Built, Fault, Refused, Unfit, parser_faults
from cascadert.engines.progress import REFITTING, Hear, progress_message
from cascadert.engines.trt_log import make_log


def refit(request: BuildRequest, hear: Hear) -> Built:
    """Load the request's base engine, give it the weights of the ONNX file, write it.

    Raises:
        Refused: TensorRT did not take the weights, or not all of them.
        Unfit: this version, this machine or this engine cannot do it.
        ModuleNotFoundError: this TensorRT is not installed.
    """
    return _Refit(importlib.import_module(MODULES[request.backend]), request).run(hear)


class _Refit:
    def __init__(self, trt: Any, request: BuildRequest) -> None:
        self._trt, self._request = trt, request
        self._name = f"{MODULES[request.backend]} {trt.__version__}"
        self._log = make_log(trt)

    def run(self, hear: Hear) -> Built:
        start = time.perf_counter()
        hear(progress_message(REFITTING))
        engine = self._load()
        self._exchange(engine)
        Path(self._request.engine).write_bytes(self._serialize(engine))
        versions: dict[str, str] = {self._request.backend: self._trt.__version__}
        return Built(time.perf_counter() - start, versions, self._log.warnings, [])

    def _load(self) -> Any:
        if not hasattr(self._trt, "OnnxParserRefitter"):
            raise Unfit(f"{self._name} cannot take the weights of an ONNX graph", "build the engine anew")
        try:
            self._runtime = self._trt.Runtime(self._log)
        except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer
            found = f"{self._name} does not start: {self._said() or error}"
            raise Unfit(found, "refit where its GPU and driver are") from error
        engine = self._runtime.deserialize_cuda_engine(Path(self._request.base).read_bytes())
        if engine is None:
            found = f"{self._name} does not load the engine: {self._said()}"
            raise Unfit(found, "refit it where it was built")
        if not engine.refittable:
            raise Unfit("its engine does not take other weights", "build it with --refittable")
        return engine

    def _exchange(self, engine: Any) -> None:
        """Give the engine every weight that it has; those left out would keep their old values."""
        refitter = self._trt.Refitter(engine, self._log)
        parser = self._trt.OnnxParserRefitter(refitter, self._log)
        if not parser.refit_from_file(self._request.onnx):
            raise Refused("refitter", parser_faults(parser) or self._faults())
        missing = refitter.get_missing_weights()
        if missing:
            text = f"weights are missing: {', '.join(missing[:4])}"
            raise Refused("refitter", [{"text": text, "node": "", "index": -1}])
        if not refitter.refit_cuda_engine():
            raise Refused("refitter", self._faults())

    def _serialize(self, engine: Any) -> Any:
        """Keep the engine refittable, which versions that have this flag forget without it."""
        config, flags = engine.create_serialization_config(), self._trt.SerializationFlag
        if hasattr(flags, "INCLUDE_REFIT"):
            config.set_flag(flags.INCLUDE_REFIT)
        return engine.serialize_with_config(config)

    def _faults(self) -> list[Fault]:
        return [{"text": text, "node": "", "index": -1} for text in self._log.errors]

    def _said(self) -> str:
        return "; ".join([*self._log.errors, *self._log.driver_errors])
