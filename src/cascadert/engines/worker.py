"""The process that holds TensorRT while one engine is built: `python -m cascadert.engines.worker REQUEST PIPE`.

A process of its own, because Polygraphy chooses between TensorRT and TensorRT-RTX once, at import; because a builder
that crashes or runs out of memory must not take the caller with it; and because only its end returns all its memory.

REQUEST is a JSON file (`BuildRequest`), PIPE the number of an open file descriptor that takes one JSON object a line:

* `{"kind": "progress", "phase": ..., "step": ..., "steps": ..., "fraction": ...}`
* and, last, `{"kind": "done", "seconds": ..., "versions": {...}}`, `{"kind": "missing", "module": ...}`, or
  `{"kind": "refused", "by": "parser" | "builder", "faults": [{"text": ..., "node": ...}]}`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

USE_RTX = "POLYGRAPHY_USE_TENSORRT_RTX"

# Without a driver, TensorRT-RTX complains of CUDA in passing while it builds for a named compute capability.
DRIVER_NOISE = re.compile("CUDA driver version is insufficient|CUDA initialization failure|Error Code 9: .*CUDA")


@dataclass(frozen=True)
class BuildRequest:
    """One engine to build: where from, where to, for what.

    `shapes` holds, for each input with a dynamic dimension, its smallest, typical and largest shape.
    """

    onnx: str
    engine: str
    compute_capability: str
    shapes: dict[str, list[list[int]]]
    workspace_bytes: int | None = None
    optimization_level: int | None = None

    def to_json(self) -> str:
        """Return the text of a request file."""
        return json.dumps(asdict(self))


class Refused(Exception):
    """TensorRT's parser or builder said no; `faults` are its own words, driver noise left out."""

    def __init__(self, by: str, faults: list[dict[str, str]]) -> None:
        self.by, self.faults = by, faults
        super().__init__(by)


class ProgressTree:
    """Fraction of the whole build, from TensorRT's nested phases; never falls."""

    def __init__(self) -> None:
        self._parents: dict[str, str | None] = {}
        self._done: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._highest = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Open a phase of `steps` steps inside `parent`."""
        self._parents[phase], self._done[phase], self._steps[phase] = parent, 0, max(1, steps)

    def step(self, phase: str, step: int) -> tuple[int, int]:
        """Record that step number `step` (from 0) is complete; return how many are and will be."""
        self._done[phase] = step + 1
        return step + 1, self._steps[phase]

    def finish(self, phase: str) -> None:
        """Close a phase."""
        self._parents.pop(phase, None)

    def fraction(self) -> float:
        """Return how much is done, 0 to 1."""
        roots = [phase for phase, parent in self._parents.items() if parent not in self._parents]
        self._highest = max([self._highest, *map(self._fraction_of, roots)])
        return self._highest

    def _fraction_of(self, phase: str) -> float:
        inner = sum(self._fraction_of(child) for child, parent in self._parents.items() if parent == phase)
        return min(1.0, (self._done[phase] + min(1.0, inner)) / self._steps[phase])


def without_driver_noise(text: str) -> str:
    """Drop the lines of a TensorRT message that only say that this machine has no CUDA driver."""
    return "\n".join(line for line in text.splitlines() if not DRIVER_NOISE.search(line))


def build(request: BuildRequest, report: TextIO) -> dict[str, Any]:
    """Parse the ONNX file, build the engine, write it; return the report of success.

    Raises:
        Refused: the parser or the builder did not take the graph.
        ModuleNotFoundError: TensorRT-RTX or Polygraphy is not installed.
    """
    import polygraphy
    import tensorrt_rtx as trt
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    log = _logger(trt)
    start = time.perf_counter()
    builder = trt.Builder(log)
    # TensorRT-RTX knows only typed networks; the flag says so to whoever reads this.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(request.onnx):
        raise Refused("parser", [_parser_fault(parser.get_error(i)) for i in range(parser.num_errors)])
    config = _configure(request, builder, network, _monitor(trt, report))
    log.errors.clear()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise Refused("builder", [{"text": text, "node": ""} for text in log.errors])
    Path(request.engine).write_bytes(engine)
    versions = {"tensorrt-rtx": trt.__version__, "polygraphy": polygraphy.__version__}
    return {"kind": "done", "seconds": time.perf_counter() - start, "versions": versions}


def _configure(request: BuildRequest, builder: Any, network: Any, monitor: Any) -> Any:
    import tensorrt_rtx as trt
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import Profile
    from polygraphy.exception import PolygraphyException

    profile = Profile()
    for name, (smallest, typical, largest) in request.shapes.items():
        profile.add(name, tuple(smallest), tuple(typical), tuple(largest))
    major, minor = request.compute_capability.split(".")
    workspace = request.workspace_bytes
    try:
        config = CreateConfigRTX(
            compute_capabilities=[(int(major), int(minor))],
            profiles=[profile],
            memory_pool_limits=None if workspace is None else {trt.MemoryPoolType.WORKSPACE: workspace},
            builder_optimization_level=request.optimization_level,
            progress_monitor=monitor,
        )(builder, network)
    except PolygraphyException as error:
        raise Refused("builder", [{"text": str(error), "node": ""}]) from error
    # On by default, and CreateConfigRTX leaves it so: products of 10-bit mantissas are not what "fp32" promises.
    config.clear_flag(trt.BuilderFlag.TF32)
    return config


def _parser_fault(error: Any) -> dict[str, str]:
    text = f"{error.desc()} [{error.code().name}, {error.func()}]"
    return {"text": without_driver_noise(text), "node": error.node_name()}


def _logger(trt: Any) -> Any:
    """Return a TensorRT logger that keeps errors and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]  # a class of the extension module
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            heard = without_driver_noise(text)
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR) and heard:
                self.errors.append(heard)

    return Log()


def _monitor(trt: Any, report: TextIO) -> Any:
    """Return a progress monitor that writes to the pipe, and stops the build when nobody reads it any more."""
    tree = ProgressTree()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of the extension module
        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            tree.start(phase, parent, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            done, steps = tree.step(phase, step)
            message = {"kind": "progress", "phase": phase, "step": done, "steps": steps}
            return send(report, {**message, "fraction": tree.fraction()})

        def phase_finish(self, phase: str) -> None:
            tree.finish(phase)

    return Monitor()


def send(report: TextIO, message: dict[str, Any]) -> bool:
    """Write one line to the pipe; false when its reader is gone."""
    try:
        report.write(json.dumps(message) + "\n")
        report.flush()
    except BrokenPipeError:
        return False
    return True


def main(request_path: str, pipe: str) -> None:
    """Serve one request."""
    request = BuildRequest(**json.loads(Path(request_path).read_text(encoding="utf-8")))
    with os.fdopen(int(pipe), "w", encoding="utf-8") as report:
        try:
            outcome = build(request, report)
        except ModuleNotFoundError as error:
            outcome = {"kind": "missing", "module": error.name}
        except Refused as refusal:
            outcome = {"kind": "refused", "by": refusal.by, "faults": refusal.faults}
        send(report, outcome)


if __name__ == "__main__":
    main(*sys.argv[1:])
