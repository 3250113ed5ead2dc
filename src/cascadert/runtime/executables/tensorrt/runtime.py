"""One flavour of TensorRT: its module, its runtime, and its own words when it refuses something."""

from __future__ import annotations

from collections import deque
from types import ModuleType
from typing import Any, Literal

from cascadert.errors import DeploymentError, import_extra

Flavour = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[Flavour, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "rtx"),
}
_REMEMBERED = 8  # errors come in small groups, the cause among the first


def import_tensorrt(flavour: Flavour) -> ModuleType:
    """Import the module of a flavour.

    Raises:
        MissingExtra: it is not installed.
    """
    module, extra = _MODULES[flavour]
    return import_extra(module, extra, f"to run engines of {flavour}")


class TensorRT:
    """A flavour of TensorRT that is ready to load engines; one for all stages of a deployment.

    TensorRT keeps the first logger that a process gives it, so a logger of each stage would not hear its own errors.

    Args:
        module: `tensorrt` or `tensorrt_rtx`, see `import_tensorrt`.

    Raises:
        DeploymentError: TensorRT finds no GPU or no fitting driver.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self._errors: deque[str] = deque(maxlen=_REMEMBERED)
        self._logger = _make_logger(module, self._errors)
        try:
            self._runtime = self.module.Runtime(self._logger)
        except (RuntimeError, TypeError) as error:  # what pybind11 makes of a null pointer differs between versions
            found = f"cannot start: {self.take_words() or error}"
            raise DeploymentError(self.title, found, "check the GPU and its driver") from error

    @property
    def title(self) -> str:
        """Name and version of the module."""
        return f"{self.module.__name__} {self.module.__version__}"

    def take_words(self) -> str:
        """Return the errors that TensorRT told since this was last asked, on one line; empty where it told none."""
        return "; ".join(self._errors.popleft() for _ in range(len(self._errors)))

    def deserialize(self, stage: str, plan: bytes) -> Any:
        """Load an engine.

        Raises:
            DeploymentError: TensorRT refuses it, with its own words.
        """
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            found = f"{self.title} refuses its engine: {self.take_words() or 'it does not say why'}"
            raise DeploymentError(f"stage '{stage}'", found, "build it anew for this GPU and this version")
        return engine


def _make_logger(trt: Any, errors: deque[str]) -> Any:
    """Return a logger that keeps errors and prints nothing."""
    heard = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]  # a class of the extension module
        def log(self, severity: Any, text: str) -> None:  # called from any thread of TensorRT's
            if severity in heard:
                errors.append(text)

    return Logger()
