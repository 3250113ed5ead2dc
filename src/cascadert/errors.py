"""Every error that cascadert raises on purpose.

::

    CascadertError                 exit code
    ├── InvalidRequest             2   an option or argument that cannot be met as asked
    │   ├── SpecError              2   a cascade specification (TOML)
    │   ├── GridError              2   blocks that do not fit a frame
    │   ├── SceneError             2   options of the scene generator
    │   └── TargetError            2   a GPU target, or what was asked of it
    ├── NetworkError               3   a PyTorch network that cannot be imported, built or run
    │   └── WeightsError           3   weights that do not load into it
    ├── ExportError                3   PyTorch to ONNX
    │   ├── GraphError             3   an ONNX graph that is broken or not what its stage needs
    │   └── PassError              3   a graph pass whose contract does not hold
    ├── BundleError                4   a bundle or deployment on disk
    │   └── DeploymentError        4   a deployment that does not fit this machine
    ├── SourceError                5   an image, folder or video that cannot be read or written
    ├── BuildError                 6   an engine build
    ├── ExecutionError             7   a stage that failed while running
    │   ├── StageTimeout           7   a stage that does not finish a frame
    │   ├── PipelineBroken         7   a pipeline in which a stage hangs
    │   ├── FrameCancelled         7   a frame that was given up before its result was taken
    │   └── NoResultYet            7   no result within the time that was given
    ├── ParityError                1   a comparison that is vacuous, or beyond its limits
    └── MissingExtra               8   an optional dependency that is not installed

A message is one line and says what was asked, what was found and what to do, in this order.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, ClassVar


class CascadertError(Exception):
    """Base of all errors raised on purpose.

    Args:
        subject: what was asked: the path, field, target or node at fault.
        found: what was found there.
        remedy: what to do about it.
    """

    exit_code: ClassVar[int] = 1

    ticket: Any = None
    """Of the frame that failed (`runtime.results.Ticket`), where the error is that of a frame."""

    def __init__(self, subject: str, found: str, remedy: str) -> None:
        self.subject, self.found, self.remedy = (" ".join(part.split()) for part in (subject, found, remedy))
        super().__init__(f"{self.subject}: {self.found}; {self.remedy}")

    def again(self) -> CascadertError:
        """Return the same error as another object: one that is raised keeps its traceback."""
        again = type(self)(self.subject, self.found, self.remedy)
        again.__cause__ = self.__cause__
        return again

    def __reduce__(self) -> tuple[type[CascadertError], tuple[str, str, str]]:
        return type(self), (self.subject, self.found, self.remedy)


class InvalidRequest(CascadertError):
    """An option or argument that cannot be met as asked."""

    exit_code = 2


class SpecError(InvalidRequest):
    """A field of a cascade specification is missing, unknown or out of range."""


class GridError(InvalidRequest):
    """Blocks and strides that cannot cover the frame."""


class SceneError(InvalidRequest):
    """Options of the scene generator that make no scene."""


class TargetError(InvalidRequest):
    """An unknown target, or a request that contradicts the target's facts."""


class NetworkError(CascadertError):
    """A PyTorch network that cannot be imported, constructed or run."""

    exit_code = 3


class WeightsError(NetworkError):
    """Weights that are missing, unreadable, not finite, or of another network."""


class ExportError(CascadertError):
    """A stage that PyTorch could not turn into ONNX."""

    exit_code = 3


class GraphError(ExportError):
    """An ONNX graph that is truncated, invalid, or lacks what its stage needs."""


class PassError(ExportError):
    """A graph pass whose requirement or guarantee does not hold."""


class BundleError(CascadertError):
    """A bundle or deployment that is missing, changed, unknown or unsafe to read."""

    exit_code = 4


class DeploymentError(BundleError):
    """A deployment that does not fit the machine it was asked to run on."""


class SourceError(CascadertError):
    """An image, folder or video that cannot be read or written."""

    exit_code = 5


class BuildError(CascadertError):
    """An engine that the parser or builder refused, with their own words inside."""

    exit_code = 6


class ExecutionError(CascadertError):
    """A stage that failed on a frame."""

    exit_code = 7


class StageTimeout(ExecutionError):
    """A stage that does not finish a frame within `RuntimeOptions.timeout_s`."""


class PipelineBroken(ExecutionError):
    """A pipeline that takes no more frames, because a stage hangs or the scheduler failed."""


class FrameCancelled(ExecutionError):
    """A frame that was given up: its pipeline was closed, or its stream abandoned."""


class NoResultYet(ExecutionError):
    """No result, or no room for a frame, within the time that was given; ask again."""


class ParityError(CascadertError):
    """A comparison that shows nothing, or differences beyond the limits."""

    exit_code = 1


class MissingExtra(CascadertError):
    """An optional dependency that is not installed."""

    exit_code = 8


def import_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency at the place that needs it.

    Args:
        module: dotted name of the module.
        extra: the extra of this package that installs it.
        purpose: what it is needed for, as in "to read video".

    Raises:
        MissingExtra: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"the Python module '{error.name}' is not installed"
        raise MissingExtra(purpose, missing, f'pip install "cascadert[{extra}]"') from error
