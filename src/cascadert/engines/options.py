"""`BuildOptions`: what a build is asked for, and what of it makes sense for a cascade."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cascadert.deployment import Backend
from cascadert.engines.profiles import Target
from cascadert.errors import InvalidRequest, TargetError
from cascadert.precision import PRECISIONS, Precision

Blocks = tuple[int, int, int]
"""Smallest, typical and largest n of refinement engines."""


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        precision: what the networks compute in: one for all, or one for each stage by its name; none: fp32.
        devices: stages that run on a DLA core, as in {"fast": "dla0"}; the others run on the GPU.
        backend: the builder; none: the one that the target prefers.
        tensorrt: which version of TensorRT the device has, where engines are built on it; none: any that serves.
        workspace_bytes: scratch memory that an engine may use on the device; none: TensorRT's own limit.
        optimization_level: 0 (fast to build) to 5 (fast to run); none: TensorRT's own.
        aux_streams: streams that TensorRT may add within a stage; none: 0, so that only stages overlap.
        typical_blocks: the n that refinement engines are tuned for; none: a quarter of all blocks.
        max_blocks: the largest n they take; none: every block of every camera.
        refittable: whether engines can take other weights; those for a CPU always can, but for int8.
        cache: whether to take engines from the cache, and to put new ones there.
        timing_cache: whether to reuse measured times of kernels, where the builder measures any.
        replace: overwrite an older deployment or kit.
        timeout_s: seconds after which the build of one stage is given up.
    """

    precision: str | Mapping[str, str] | None = None
    devices: Mapping[str, str] = field(default_factory=dict)
    backend: Backend | None = None
    tensorrt: str | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    aux_streams: int | None = None
    typical_blocks: int | None = None
    max_blocks: int | None = None
    refittable: bool = False
    cache: bool = True
    timing_cache: bool = True
    replace: bool = False
    timeout_s: float = 3600.0


DEFAULTS = BuildOptions()

_FOR_TENSORRT = ("workspace_bytes", "optimization_level", "aux_streams", "typical_blocks", "max_blocks")


def check_options(target: Target, options: BuildOptions) -> None:
    """Check what can be checked without a bundle.

    Raises:
        TargetError: an option that means nothing to the target.
        InvalidRequest: an option out of range.
    """
    given = [name for name in _FOR_TENSORRT if getattr(options, name) is not None]
    if target.compute_capability is None and given:
        found = f"{given[0]} is an option of TensorRT; ONNX Runtime compiles the graph when it is loaded"
        raise TargetError(f"target '{target.name}'", found, "leave it out")
    if options.optimization_level not in (None, *range(6)):
        raise InvalidRequest("optimization_level", f"is {options.optimization_level}", "choose 0 to 5")
    if options.workspace_bytes is not None and options.workspace_bytes <= 0:
        raise InvalidRequest("workspace_bytes", f"is {options.workspace_bytes}", "give a positive number of bytes")
    if options.aux_streams is not None and options.aux_streams < 0:
        raise InvalidRequest("aux_streams", f"is {options.aux_streams}", "give 0 or more")
    if not 0 < options.timeout_s <= threading.TIMEOUT_MAX:
        limit = f"give a number of seconds up to {threading.TIMEOUT_MAX:g}"
        raise InvalidRequest("timeout_s", f"is {options.timeout_s:g}", limit)


def stage_precisions(asked: str | Mapping[str, str] | None, stages: Sequence[str]) -> dict[str, Precision]:
    """Return the precision of every stage, fp32 where nothing is asked; what is asked of "" is for all not named.

    Raises:
        InvalidRequest: an unknown precision or stage, or a stage that is left out.
    """
    wanted = dict(asked) if isinstance(asked, Mapping) else {"": asked or "fp32"}
    rest = wanted.pop("", None)
    _check_stages("precision", wanted, stages)
    if rest is not None:
        wanted = {stage: wanted.get(stage, rest) for stage in stages}
    missing = [stage for stage in stages if stage not in wanted]
    if missing:
        given = ",".join(f"{stage}={precision}" for stage, precision in wanted.items())
        raise InvalidRequest(f"precision {given}", f"says nothing of stage '{missing[0]}'", "give every stage one")
    known: dict[str, Precision] = {precision: precision for precision in PRECISIONS}
    for precision in wanted.values():
        if precision not in known:
            raise InvalidRequest(f"precision '{precision}'", "is not known", f"choose {', '.join(PRECISIONS)}")
    return {stage: known[wanted[stage]] for stage in stages}


def stage_devices(asked: Mapping[str, str], stages: Sequence[str], usual: str) -> dict[str, str]:
    """Return the device of every stage, `usual` for those that were not asked about.

    Raises:
        InvalidRequest: an unknown stage.
    """
    _check_stages("device", asked, stages)
    return {stage: asked.get(stage, usual) for stage in stages}


def block_profile(total: int, options: BuildOptions) -> Blocks:
    """Return what n the refinement engines take of `total` blocks; n = 0 never reaches one.

    Raises:
        InvalidRequest: more blocks than there are, fewer than one, or typical above the largest.
    """
    largest = total if options.max_blocks is None else options.max_blocks
    if not 1 <= largest <= total:
        raise InvalidRequest("max_blocks", f"is {largest} where there are {total} blocks", f"choose 1 to {total}")
    typical = min(largest, -(-total // 4)) if options.typical_blocks is None else options.typical_blocks
    if not 1 <= typical <= largest:
        raise InvalidRequest("typical_blocks", f"is {typical}", f"choose 1 to {largest}, the largest n")
    return 1, typical, largest


def _check_stages(what: str, asked: Mapping[str, str], stages: Sequence[str]) -> None:
    for stage, choice in asked.items():
        if stage not in stages:
            raise InvalidRequest(f"{what} {stage}={choice}", "names no stage", f"choose {', '.join(stages)}")
