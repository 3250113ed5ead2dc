"""`Target`: what is known about a kind of device, one TOML file each in `engines/targets/`."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from cascadert.deployment import Backend, Precision
from cascadert.errors import TargetError
from cascadert.spec import Strict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Target(Strict):
    """A kind of device to build for.

    `title` names devices of the kind, `precisions` are those that this version builds. A GPU has a compute capability,
    as in "8.6"; a CPU has none.
    """

    name: str
    title: str
    backend: Backend
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)]
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = None

    @model_validator(mode="after")
    def _gpu_has_a_compute_capability(self) -> Target:
        if (self.backend == "tensorrt-rtx") != (self.compute_capability is not None):
            raise ValueError(f"backend {self.backend} with compute_capability {self.compute_capability}")
        return self


def list_targets() -> tuple[Target, ...]:
    """Return every known target: GPUs by compute capability, CPUs last."""
    targets = [_read(file) for file in _files().values()]
    return tuple(sorted(targets, key=_order))


def load_target(name: str) -> Target:
    """Return the target called `name`.

    Raises:
        TargetError: there is none; the message names those that exist.
    """
    files = _files()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=1, cutoff=0.5)
        guess = f"did you mean '{close[0]}'? Known" if close else "known"
        known = ", ".join(target.name for target in list_targets())
        raise TargetError(f"target '{name}'", "is not known", f"{guess} are {known}")
    return _read(files[name])


def _files() -> dict[str, Path]:
    return {file.stem: file for file in Path(__file__).with_name("targets").glob("*.toml")}


def _read(file: Path) -> Target:
    try:
        return Target(name=file.stem, **tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, TypeError, ValidationError) as error:
        raise TargetError(f"target '{file.stem}': {file}", f"is broken: {error}", "mend that file") from error


def _order(target: Target) -> tuple[float, str]:
    capability = target.compute_capability
    return (float("inf") if capability is None else float(capability), target.name)
