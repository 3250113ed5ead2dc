"""Compile adaptive semantic segmentation for embedded GPUs.

The functions below are what the commands of `cascadert` call, one to one. They are imported on first use, so that
`import cascadert` needs none of the extras.
"""

from __future__ import annotations

import importlib
from typing import Any

from cascadert._version import __version__

_HOMES = {
    "Bundle": "cascadert.bundle",
    "BenchRequest": "cascadert.jetson.bench",
    "BuildOptions": "cascadert.engines.build",
    "CascadeSpec": "cascadert.spec",
    "CascadertError": "cascadert.errors",
    "Deployment": "cascadert.deployment",
    "ExportOptions": "cascadert.export.compile",
    "FrameRatePolicy": "cascadert.spec",
    "LatencyPolicy": "cascadert.spec",
    "OutputOptions": "cascadert.jetson.outputs",
    "ParityOptions": "cascadert.calibration.parity",
    "Pipeline": "cascadert.runtime.pipeline",
    "RunOptions": "cascadert.jetson.run",
    "RuntimeOptions": "cascadert.runtime.options",
    "ThresholdPolicy": "cascadert.spec",
    "TopKPolicy": "cascadert.spec",
    "build_engine": "cascadert.engines.build",
    "check_parity": "cascadert.calibration.parity",
    "export_bundle": "cascadert.export.compile",
    "list_targets": "cascadert.engines.profiles",
    "load_spec": "cascadert.spec",
    "make_demo": "cascadert.jetson.demo",
    "open_artefact": "cascadert.deployment",
    "open_pipeline": "cascadert.runtime.open",
    "run": "cascadert.jetson.run",
    "run_bench": "cascadert.jetson.bench",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cascadert' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
