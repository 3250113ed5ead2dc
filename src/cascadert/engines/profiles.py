"""`Target`: what is known about a kind of device, one TOML file each in `engines/targets/`."""

from __future__ import annotations

import difflib
import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import Field, ValidationError, model_validator

from cascadert.engines.facts import BackendFacts
from cascadert.errors import TargetError
from cascadert.precision import PRECISIONS, Precision
from cascadert.spec import Strict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Speed = Literal["fast", "works", "refused"]
Tier = Literal["A", "B", "C"]
GIB = 2**30


class PrecisionFact(Strict):
    """What a target makes of one precision.

    `fast`: the hardware has units for it. `works`: it is built, but nothing shows that it gains. `refused`: it is not
    built. `why` is the reason, which only `fast` may leave out.
    """

    speed: Speed
    why: str = ""

    @model_validator(mode="after")
    def _says_why(self) -> PrecisionFact:
        if self.speed != "fast" and not self.why:
            raise ValueError(f"speed '{self.speed}' without a reason")
        return self


class Dla(Strict):
    """Deep learning accelerators beside the GPU, and the versions of TensorRT that can use them."""

    cores: Annotated[int, Field(gt=0)]
    tensorrt: Annotated[tuple[str, ...], Field(min_length=1)]

    def takes(self, version: str) -> bool:
        """Return whether a version of TensorRT builds for it."""
        return any(serves(versions, version) for versions in self.tensorrt)


class Target(Strict):
    """A kind of device to build for.

    Attributes:
        name: what `--target` calls it: the name of its file.
        title: names of such devices.
        tier: A for TensorRT-RTX and TensorRT 10 and 11, B for TensorRT 8.5 and 8.6 alone, C for what is refused.
        compute_capability: of the GPU, as in "8.6"; none for a CPU.
        names: patterns of what CUDA calls its GPUs, as regular expressions.
        boards: the device tree's names of its modules, where CUDA calls several kinds by one name.
        memory_gib: sizes of the devices of the family, smallest first, in GiB; none for a CPU.
        integrated: whether the GPU shares its memory with the CPU.
        dla: its deep learning accelerators, if any.
        precisions: every precision.
        backends: its builders, in order of preference.
        refused: why nothing is built for it.
        notes: what else a user should know.
        unsure: the facts above that no source was found for or nobody measured, as in "precisions.int8".
    """

    name: str
    title: str
    tier: Tier
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = None
    names: tuple[str, ...] = ()
    boards: tuple[str, ...] = ()
    memory_gib: tuple[Annotated[float, Field(gt=0)], ...] = ()
    integrated: bool = False
    dla: Dla | None = None
    precisions: dict[Precision, PrecisionFact]
    backends: Annotated[tuple[BackendFacts, ...], Field(min_length=1)]
    refused: str | None = None
    notes: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()

    @property
    def dla_cores(self) -> int:
        """How many deep learning accelerators the largest of these devices has."""
        return 0 if self.dla is None else self.dla.cores

    @property
    def memory_bytes(self) -> tuple[int, ...]:
        """Memory of the devices of the family in bytes, smallest first; none for a CPU."""
        return tuple(round(size * GIB) for size in self.memory_gib)

    def with_speed(self, *speeds: Speed) -> tuple[Precision, ...]:
        """Return the precisions of some speeds, in the order of `PRECISIONS`."""
        return tuple(precision for precision in PRECISIONS if self.precisions[precision].speed in speeds)

    def require_built_for(self) -> None:
        """Check that anything is built for this target.

        Raises:
            TargetError: it is known, and refused.
        """
        if self.refused is not None:
            raise TargetError(f"target '{self.name}'", f"is refused: {self.refused}", "use a newer board")

    def backend(self, name: str | None = None, version: str | None = None) -> BackendFacts:
        """Return the preferred builder; `name` and `version` (of the builder) narrow the choice.

        Raises:
            TargetError: the target is refused, or has no such builder.
        """
        self.require_built_for()
        for facts in self.backends:
            if name in (None, facts.name) and (version is None or serves(facts.versions, version)):
                return facts
        asked = " ".join(filter(None, (name or "TensorRT", version)))
        there = " or ".join(f"{facts.name} {facts.versions}" for facts in self.backends)
        raise TargetError(f"target '{self.name}'", f"{asked} does not build for it", f"use {there}")

    @model_validator(mode="after")
    def _is_complete(self) -> Target:
        if set(self.precisions) != set(PRECISIONS) or self.precisions["fp32"].speed == "refused":
            raise ValueError(f"precisions must be {', '.join(PRECISIONS)} with fp32 not refused")
        if list(self.memory_gib) != sorted(set(self.memory_gib)):
            raise ValueError(f"memory_gib {self.memory_gib} is not in order")
        if (self.tier == "C") != (self.refused is not None):
            raise ValueError("tier C is that of refused targets, with the reason")
        facts = {*type(self).model_fields, *(f"precisions.{precision}" for precision in PRECISIONS)}
        if not set(self.unsure) <= facts:
            raise ValueError(f"unsure names no facts: {sorted(set(self.unsure) - facts)}")
        return self

    @model_validator(mode="after")
    def _is_a_gpu_or_a_cpu(self) -> Target:
        gpu = self.compute_capability is not None
        if {facts.name == "onnxruntime" for facts in self.backends} != {not gpu}:
            built_by = ", ".join(facts.name for facts in self.backends)
            raise ValueError(f"built by {built_by} with compute_capability {self.compute_capability}")
        if {bool(self.names), bool(self.memory_gib)} != {gpu}:
            raise ValueError("names and memory_gib belong to every GPU, and to nothing else")
        return self

    @model_validator(mode="after")
    def _has_versions(self) -> Target:
        ranges = [*(facts.versions for facts in self.backends), *(self.dla.tensorrt if self.dla else ())]
        for versions in ranges:
            try:
                SpecifierSet(versions)
            except InvalidSpecifier as error:
                raise ValueError(f"'{versions}' is no range of versions") from error
        return self


def serves(versions: str, version: str) -> bool:
    """Return whether a version is in a range such as ">=8.5,<8.7".

    Raises:
        TargetError: `version` is no version.
    """
    try:
        return SpecifierSet(versions).contains(Version(version), prereleases=True)
    except InvalidVersion as error:
        raise TargetError(f"version '{version}'", "is no version", "give numbers, as in 10.3.0") from error


@cache
def list_targets() -> tuple[Target, ...]:
    """Return every known target: GPUs by compute capability, then CPUs, and last what is refused."""
    targets = [_read(file) for file in _files().values()]
    return tuple(sorted(targets, key=_order))


def load_target(name: str) -> Target:
    """Return the target called `name`, refused or not.

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


def _order(target: Target) -> tuple[bool, float, float, str]:
    capability = float(target.compute_capability or "inf")
    return (target.refused is not None, capability, min(target.memory_gib, default=0), target.name)
