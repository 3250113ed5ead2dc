"""Run a cascade over a source, write what was asked for, and say what it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from cascadert.bundle import BundleManifest
from cascadert.deployment import open_artefact
from cascadert.errors import ExecutionError, InvalidRequest, SourceError
from cascadert.geometry import Grid
from cascadert.jetson.images import Image8
from cascadert.jetson.overlay import OverlayOptions, draw_overlay
from cascadert.jetson.sinks import ImageFolder, Sink, claim_file, open_overlay, write_atomically
from cascadert.jetson.sources import Cameras, Frame
from cascadert.jetson.statistics import FrameStatistics, RunSummary, frame_statistics, summarise
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Result, Submission
from cascadert.spec import LatencyPolicy, SelectPolicy, ThresholdPolicy, TopKPolicy

Progress = Callable[[int, int | None], None]
"""Called with frames done and frames in all, where that is known."""


@dataclass(frozen=True)
class RunOptions:
    """What to do with a source.

    `policy` replaces the bundle's decision before `stage` (needed where several stages decide). `overlay` (a video,
    GIF, image or folder), `labels` (a folder) and `stats` (a JSON file) are the outputs. `pattern` picks files of a
    folder, `limit` ends after so many frames, `threads` are those of each stage on the CPU (0: a share of all cores).
    `serial` runs stage after stage in place of side by side; labels are the same.
    """

    policy: SelectPolicy | None = None
    stage: str | None = None
    overlay: Path | None = None
    labels: Path | None = None
    stats: Path | None = None
    pattern: str | None = None
    limit: int | None = None
    threads: int = 0
    serial: bool = False
    replace: bool = False
    look: OverlayOptions = field(default_factory=OverlayOptions)


def run(
    artefact: Path, source: Path | Sequence[Path], options: RunOptions = RunOptions(), progress: Progress | None = None
) -> RunSummary:
    """Run the bundle or deployment at `artefact` over a source: an image, a folder of images or a video.

    A cascade of N cameras takes N sources, in step; labels then go to a folder `camera<i>` each, and overlays show the
    cameras side by side.

    Raises:
        BundleError, DeploymentError: the artefact cannot be read, or not be run here.
        InvalidRequest: options that contradict the artefact or what is on disk.
        SourceError: a source that cannot be read, or an output that cannot be written.
        ExecutionError: a stage failed.
        MissingExtra: ONNX Runtime or PyAV is needed and not installed.
    """
    opened = open_artefact(artefact)
    sources = (source,) if isinstance(source, Path) else tuple(source)
    runtime = RuntimeOptions("serial" if options.serial else "overlapped", options.threads)
    with open_pipeline(opened, runtime) as pipeline:
        return run_pipeline(pipeline, sources, options, progress)


def run_pipeline(
    pipeline: Pipeline, sources: Sequence[Path], options: RunOptions, progress: Progress | None = None
) -> RunSummary:
    """Do what `run` does with a pipeline that is open; see there."""
    manifest = pipeline.manifest
    policies = chosen_policies(manifest, options.policy, options.stage)
    if options.limit is not None and options.limit < 1:
        raise InvalidRequest(f"limit = {options.limit}", "leaves no frame to run", "give 1 or more")
    _refuse_overwriting(sources, options)
    with ExitStack() as stack:
        cameras = stack.enter_context(Cameras(sources, manifest.spec.frame, pattern=options.pattern))
        total = min((count for count in (cameras.length, options.limit) if count is not None), default=None)
        outputs = _Outputs(stack, options, manifest, cameras.fps, None if cameras.length is None else total)
        records: list[FrameStatistics] = []
        pixels = np.zeros(256, np.int64)
        started = time.perf_counter()
        submissions = (
            Submission(cameras.planes(frames), frames[0].timestamp_s, policies, context=frames)
            for frames in islice(cameras, options.limit)
        )
        for result in _named(pipeline.stream(submissions)):
            frames = result.ticket.context
            outputs.write(frames, result, policies)
            records.append(frame_statistics(frames[0], result))
            for frame, labels in zip(frames, result.labels, strict=True):
                pixels += np.bincount(frame.fit.ignore_margins(labels).reshape(-1), minlength=256)
            if progress is not None:
                progress(len(records), total)
        wall_s = time.perf_counter() - started
        if not records:
            raise SourceError(str(sources[0]), "holds no frame", "give a source with at least one frame")
    summary = summarise(records, pixels, manifest, policies, wall_s)
    if options.stats is not None:
        write_atomically(options.stats, lambda path: path.write_text(summary.to_json(), encoding="utf-8"))
    return summary


def _refuse_overwriting(sources: Sequence[Path], options: RunOptions) -> None:
    """Labels have the names of their frames: with `replace` they would take their place."""
    for output in (options.overlay, options.labels, options.stats):
        if output is not None and output.resolve() in {source.resolve() for source in sources}:
            raise InvalidRequest(str(output), "is both a source and an output", "choose another output")
    folders = [options.labels, options.overlay if options.overlay and not options.overlay.suffix else None]
    for output in folders:
        if output is not None and any(_writes_beside(output, source) for source in sources):
            raise InvalidRequest(str(output), "holds the frames of a source", "choose another output")


def _writes_beside(output: Path, source: Path) -> bool:
    """Whether a folder of outputs would lie around or inside a source, where names could meet."""
    folder, origin = output.resolve(), source.resolve()
    return folder == origin.parent or folder in origin.parents or origin in folder.parents


def chosen_policies(
    manifest: BundleManifest, policy: SelectPolicy | None, stage: str | None
) -> dict[str, SelectPolicy]:
    """Return the decision of every stage that makes one, with `policy` in the place of that of `stage`.

    Raises:
        InvalidRequest: `stage` makes no decision, or several stages do and none is named.
    """
    policies = {entry.name: entry.select.policy for entry in manifest.stages if entry.select is not None}
    known = ", ".join(policies) or "none"
    if stage is not None and (policy is None or stage not in policies):
        found = "is named, but no decision for it" if policy is None else "makes no decision"
        remedy = "give theta or k too" if policy is None else f"stages that do: {known}"
        raise InvalidRequest(f"stage '{stage}'", found, remedy)
    if policy is None:
        return policies
    if stage is None and len(policies) != 1:
        raise InvalidRequest(f"policy {policy.policy}", f"{len(policies)} stages decide", f"name one of: {known}")
    return {**policies, stage or next(iter(policies)): policy}


def _named(results: Iterator[Result]) -> Iterator[Result]:
    """Name the frame in the errors of frames."""
    try:
        yield from results
    except ExecutionError as error:
        if error.ticket is None:
            raise
        name = error.ticket.context[0].name
        raise ExecutionError(f"frame {name}: {error.subject}", error.found, error.remedy) from error


def refined_blocks(result: Result, grid: Grid, camera: int = 0) -> list[list[int]]:
    """Return, for each decision on a frame, which blocks of one camera were refined (index into its grid)."""
    picked = [[] if run.order is None else run.order[: run.n or 0].tolist() for run in result.runs if run.n is not None]
    return [[index % grid.size for index in blocks if index // grid.size == camera] for blocks in picked]


class _Outputs:
    """The sinks of a run."""

    def __init__(
        self, stack: ExitStack, options: RunOptions, manifest: BundleManifest, fps: float | None, frames: int | None
    ) -> None:
        self._spec, self._look = manifest.spec, options.look
        self._grid = manifest.spec.make_grid()
        cameras = manifest.spec.frame.cameras
        if options.stats is not None:
            claim_file(options.stats, replace=options.replace)
        self._labels: list[Sink] = []
        if options.labels is not None:
            folders = [options.labels] if cameras == 1 else [options.labels / f"camera{i}" for i in range(cameras)]
            self._labels = [stack.enter_context(ImageFolder(f, ".png", replace=options.replace)) for f in folders]
        self._overlay: Sink | None = None
        if options.overlay is not None:
            self._overlay = stack.enter_context(open_overlay(options.overlay, fps, frames, replace=options.replace))

    def write(self, frames: Sequence[Frame], result: Result, policies: dict[str, SelectPolicy]) -> None:
        """Write what was asked for of one frame of every camera."""
        for sink, frame, labels in zip(self._labels, frames, result.labels, strict=False):
            sink.write(frame.name, frame.fit.invert(labels))
        if self._overlay is not None:
            pictures = [self._draw(i, frame, result, policies) for i, frame in enumerate(frames)]
            self._overlay.write(frames[0].name, np.concatenate(pictures, axis=1))

    def _draw(self, camera: int, frame: Frame, result: Result, policies: dict[str, SelectPolicy]) -> Image8:
        refined = refined_blocks(result, self._grid, camera)
        caption = make_caption(frame.name, result, refined, self._grid, policies)
        return draw_overlay(
            frame.rgb, frame.fit.ignore_margins(result.labels[camera]), self._spec.classes,
            grid=self._grid, refined=refined, caption=caption, options=self._look,
        )  # fmt: skip


def make_caption(
    name: str, result: Result, refined: Sequence[Sequence[int]], grid: Grid, policies: dict[str, SelectPolicy]
) -> str:
    """Return one line on a frame: its name, blocks refined by each stage and why, and the time it took."""
    decided = [run.stage for run in result.runs if run.n is not None]
    parts = [name]
    for stage, blocks in zip(decided, refined, strict=True):
        parts.append(f"{stage}: {len(blocks)} of {grid.size} blocks, {show_policy(policies[stage])}")
    return "  ·  ".join([*parts, f"{result.latency_ms:.1f} ms"])


def show_policy(policy: SelectPolicy) -> str:
    """Return a policy as people say it."""
    if isinstance(policy, ThresholdPolicy):
        return f"theta {policy.theta:g}"
    if isinstance(policy, TopKPolicy):
        return f"top {policy.k}"
    return f"{policy.budget_ms:g} ms" if isinstance(policy, LatencyPolicy) else f"{policy.fps:g} frames/s"
