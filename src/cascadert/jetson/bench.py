"""Measure a bundle or deployment on frames of a source, or on generated streets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from cascadert.bundle import Bundle
from cascadert.deployment import open_artefact
from cascadert.errors import InvalidRequest, SourceError
from cascadert.jetson.machine import machine, versions
from cascadert.jetson.policies import chosen_policies
from cascadert.jetson.sources import Cameras
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.profiling.bench import OVERLAPPED, SERIAL, Bench, BenchOptions, bench
from cascadert.runtime.profiling.footprint import Footprint, measure_footprint, predict_footprint
from cascadert.runtime.profiling.report import BenchReport, Memory, Origin
from cascadert.runtime.results import Planes
from cascadert.scenes import SceneOptions, render
from cascadert.spec import CascadeSpec, SelectPolicy

_PACKAGES = ("numpy", "onnxruntime", "tensorrt", "tensorrt-rtx")
_STREETS, _FIRST_STREET, _STRIDE = 8, 1000, 5  # rendering is slow: more frames repeat these
_LEAST_SIDE_PX = 64
_MEMORY_FRAMES = 6

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class BenchRequest:
    """What to measure of an artefact.

    Attributes:
        policy: replaces the bundle's decision before `stage` (needed where several stages decide).
        stage: see `policy` and `match`.
        match: decide for the fixed n for which t_b(n) is nearest to t_f.
        frames: frames of each pass; a source with fewer is repeated.
        rounds: passes through each pipeline, and measurements of each n.
        threads: of stages in the overlapped mode, as in `RuntimeOptions`.
        slots: of the overlapped mode.
        pattern: which files of a folder to take.
        command: what was typed, for the report.
    """

    policy: SelectPolicy | None = None
    stage: str | None = None
    match: bool = False
    frames: int = 24
    rounds: int = 7
    threads: int | Mapping[str, int] = 0
    slots: int = 0
    pattern: str | None = None
    command: str = ""


def run_bench(
    artefact: Path, sources: Sequence[Path] = (), request: BenchRequest = BenchRequest(),
    progress: Progress | None = None,
) -> BenchReport:  # fmt: skip
    """Measure the bundle or deployment at `artefact`: profile, predictions, runs in turns, and memory.

    Raises:
        BundleError, DeploymentError: the artefact cannot be read, or not be run here.
        InvalidRequest: options that contradict the artefact.
        SourceError: a source that cannot be read.
        ExecutionError: a stage failed.
    """
    opened = open_artefact(artefact)
    manifest = opened.manifest if isinstance(opened, Bundle) else opened.manifest.bundle
    policies = chosen_policies(manifest, request.policy, None if request.match else request.stage)
    matched = _matched(policies, request) if request.match else None
    told = progress or (lambda what, done, total: None)
    told("reading frames", 0, request.frames)
    frames = _frames(manifest.spec, sources, request)
    runtime = RuntimeOptions(threads=request.threads, slots=request.slots)
    options = BenchOptions(runtime, policies, matched, request.rounds)
    options = replace(options, profile=replace(options.profile, repeats=request.rounds))
    opener = partial(open_pipeline, opened)
    found = bench(manifest, opener, frames, options, told)
    told("memory", 0, 1)
    memory = Memory(predict_footprint(manifest, found.plan, found.slots), _memory(opened.path, found, frames))
    source = ", ".join(map(str, sources)) or "generated streets"
    return BenchReport(found, Origin(request.command, versions(_PACKAGES), machine(), source), memory)


def _matched(policies: Mapping[str, SelectPolicy], request: BenchRequest) -> str:
    """Return the stage whose n is to match."""
    if request.policy is not None:
        raise InvalidRequest("match", "is asked for beside another decision", "give one of them")
    if request.stage is None and len(policies) != 1:
        known = ", ".join(policies) or "none"
        raise InvalidRequest("match", f"{len(policies)} stages decide", f"name one of: {known}")
    return request.stage or next(iter(policies))


def _memory(artefact: Path, found: Bench, frames: Sequence[Planes]) -> dict[str, Footprint]:
    return {
        mode: measure_footprint(
            artefact, replace(found.settings[mode], costs=dict(found.profile.costs)), frames[:_MEMORY_FRAMES],
            found.policies,
        )
        for mode in (SERIAL, OVERLAPPED)
    }  # fmt: skip


def _frames(spec: CascadeSpec, sources: Sequence[Path], request: BenchRequest) -> list[Planes]:
    if request.frames < 1:
        raise InvalidRequest(f"frames = {request.frames}", "leaves no frame to run", "give some")
    found = _read(spec, sources, request) if sources else _streets(spec, min(request.frames, _STREETS))
    return list(islice(cycle(found), request.frames))


def _read(spec: CascadeSpec, sources: Sequence[Path], request: BenchRequest) -> list[Planes]:
    with Cameras(sources, spec.frame, pattern=request.pattern) as cameras:
        found: list[Planes] = [cameras.planes(frames) for frames in islice(cameras, request.frames)]
    if not found:
        raise SourceError(str(sources[0]), "holds no frame", "give a source with at least one frame")
    return found


def _streets(spec: CascadeSpec, count: int) -> list[Planes]:
    """Render frames of a street for each camera."""
    frame = spec.frame
    options = SceneOptions(max(frame.height, _LEAST_SIDE_PX), max(frame.width, _LEAST_SIDE_PX))
    found: list[Planes] = []
    for index in range(count):
        images = [render(_FIRST_STREET + i, _STRIDE * index, options).image for i in range(frame.cameras)]
        rgb = np.stack(images)[:, : frame.height, : frame.width]
        found.append(planes_from_rgb(rgb, frame.pixel_format))
    return found
