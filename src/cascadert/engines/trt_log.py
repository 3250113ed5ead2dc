"""What TensorRT says while it builds, without what is only noise on a machine that has no GPU."""

from __future__ import annotations

import re
from typing import Any

# Without a driver, TensorRT-RTX complains of CUDA in passing while it builds for a named compute capability.
DRIVER_NOISE = re.compile("CUDA driver version is insufficient|CUDA initialization failure|Error Code 9: .*CUDA")


def without_driver_noise(text: str) -> str:
    """Drop the lines of a TensorRT message that only say that this machine has no CUDA driver."""
    return "\n".join(line for line in text.splitlines() if not DRIVER_NOISE.search(line))


def make_log(trt: Any) -> Any:
    """Return a TensorRT logger that keeps `errors`, `warnings` and `driver_errors` apart and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]  # a class of the extension module
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.driver_errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            levels = trt.ILogger.Severity
            kept = {levels.INTERNAL_ERROR: self.errors, levels.ERROR: self.errors, levels.WARNING: self.warnings}
            if severity not in kept:
                return
            heard = without_driver_noise(text)
            if heard:
                kept[severity].append(heard)
            elif text:
                self.driver_errors.append(text)

    return Log()
