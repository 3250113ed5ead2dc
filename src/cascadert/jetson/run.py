"""Run a cascade over a source, write what was asked for, and say what it did."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from cascadert.bundle import Bundle, BundleManifest
from cascadert.deployment import Deployment, open_artefact
from cascadert.errors import CascadertError, ExecutionError, InvalidRequest
from cascadert.jetson.live import paced
from cascadert.jetson.outputs import OutputOptions, Outputs, refuse_overwriting
from cascadert.jetson.policies import chosen_policies, exit_policies
from cascadert.jetson.sinks import write_atomically
from cascadert.jetson.sources import Cameras
from cascadert.jetson.statistics import Recorder, RunSummary
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.profiling.profile import ProfileOptions, measure_profile, profiling_options, scored_by
from cascadert.runtime.profiling.profile_file import read_profile
from cascadert.runtime.profiling.trace import trace_json
from cascadert.runtime.results import Policies, Result, Submission
from cascadert.spec import LatencyPolicy, SelectPolicy

_PROFILED_FRAMES = 3
_PROFILE = ProfileOptions(repeats=5)

Progress = Callable[[int, int | None], None]
"""Called with frames done and frames in all, where that is known."""

Say = Callable[[str], None]
"""Called with what a run does before its first frame, where that takes time or was not asked for in so many words."""


@dataclass(frozen=True)
class RunOptions:
    """What to do with a source.

    Attributes:
        policy: replaces the bundle's decision before `stage` (needed where several stages decide).
        stage: see `policy`.
        exit_threshold: the confidence at which a frame leaves at any exit, in the place of the bundle's own; with
            `stage`, at the exit before that stage.
        deadline_ms: a frame is answered so long after it was handed over, with the last labels that were finished
            then, or the first that come. Frames are handed over one by one, not ahead, where they do not come at a
            rate of their own.
        outputs: what to write.
        pattern: picks files of a folder.
        limit: ends after so many frames.
        threads: of each stage on the CPU, as in `RuntimeOptions`.
        slots: frames in flight on the device, as there.
        serial: runs stage after stage in place of side by side; labels are the same.
        live: frames come at their own rate, and the oldest that waits is dropped where the cascade does not keep up.
        keep_going: a frame that fails is noted, and the run goes on.
        profile: measured costs for a latency budget; without one they are measured on the first frames.
    """

    policy: SelectPolicy | None = None
    stage: str | None = None
    exit_threshold: float | None = None
    deadline_ms: float | None = None
    outputs: OutputOptions = field(default_factory=OutputOptions)
    pattern: str | None = None
    limit: int | None = None
    threads: int | Mapping[str, int] = 0
    slots: int = 0
    serial: bool = False
    live: bool = False
    keep_going: bool = False
    profile: Path | None = None

    def runtime(self) -> RuntimeOptions:
        """Return how the pipeline runs."""
        return RuntimeOptions(
            mode="serial" if self.serial else "overlapped", threads=self.threads, slots=self.slots,
            overflow="drop-oldest" if self.live else "wait", deadline_ms=self.deadline_ms,
        )  # fmt: skip


def run(
    artefact: Path, source: Path | Sequence[Path], options: RunOptions = RunOptions(),
    progress: Progress | None = None, say: Say | None = None,
) -> RunSummary:  # fmt: skip
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
    costs = _costs(opened, sources, options, say or (lambda text: None))
    with open_pipeline(opened, replace(options.runtime(), costs=costs)) as pipeline:
        return run_pipeline(pipeline, sources, options, progress)


def _costs(
    opened: Bundle | Deployment, sources: Sequence[Path], options: RunOptions, say: Say
) -> Mapping[str, StageCosts]:
    """Return the costs that decisions need: of the profile that was given, or measured now."""
    manifest = opened.manifest if isinstance(opened, Bundle) else opened.manifest.bundle
    policies = _policies(manifest, options)
    if options.profile is not None:
        return read_profile(options.profile, manifest)
    if not any(isinstance(policy, LatencyPolicy) for policy in policies.values()):
        return {}
    say(f"no profile was given: measuring one on the first {_PROFILED_FRAMES} frames at most")
    with Cameras(sources, manifest.spec.frame, pattern=options.pattern) as cameras:
        frames = [cameras.planes(frames) for frames in islice(cameras, _PROFILED_FRAMES)]
    setting = profiling_options(manifest, options.runtime(), sorted(os.sched_getaffinity(0)))
    with open_pipeline(opened, setting) as pipeline:
        return measure_profile(pipeline, frames, _PROFILE, policies).costs


def run_pipeline(
    pipeline: Pipeline, sources: Sequence[Path], options: RunOptions, progress: Progress | None = None
) -> RunSummary:
    """Do what `run` does with a pipeline that is open; see there."""
    manifest, written = pipeline.manifest, options.outputs
    policies = _policies(manifest, options)
    if options.limit is not None and options.limit < 1:
        raise InvalidRequest(f"limit = {options.limit}", "leaves no frame to run", "give 1 or more")
    refuse_overwriting(sources, written)
    recorder = Recorder(manifest, policies, pipeline.options, trace=written.trace is not None)
    with ExitStack() as stack:
        cameras = stack.enter_context(Cameras(sources, manifest.spec.frame, pattern=options.pattern))
        total = min((count for count in (cameras.length, options.limit) if count is not None), default=None)
        outputs = Outputs(stack, written, manifest, cameras.fps, None if cameras.length is None else total)
        recorder.start()
        for result in _results(pipeline, cameras, options, policies, recorder):
            outputs.write(result.ticket.context, result, policies)
            recorder.add(result)
            if progress is not None:
                progress(recorder.seen, total)
        recorder.stop(pipeline.counts.dropped)
        recorder.check(sources[0])
    summary = recorder.summary()
    if written.stats is not None:
        write_atomically(written.stats, lambda path: path.write_text(summary.to_json(), encoding="utf-8"))
    if written.trace is not None:
        trace = trace_json({pipeline.options.mode: recorder.traced}, scored_by(pipeline.plan))
        write_atomically(written.trace, lambda path: path.write_text(trace, encoding="utf-8"))
    return summary


def _policies(manifest: BundleManifest, options: RunOptions) -> dict[str, SelectPolicy]:
    """Return the decision of every stage that makes one."""
    if options.exit_threshold is None:
        return chosen_policies(manifest, options.policy, options.stage)
    if options.policy is not None:
        raise InvalidRequest("exit_threshold and a policy", "both say what is decided", "give one of them")
    return exit_policies(manifest, options.exit_threshold, options.stage)


def _results(
    pipeline: Pipeline, cameras: Cameras, options: RunOptions, policies: Policies, recorder: Recorder
) -> Iterator[Result]:
    """Yield results in order; failures name their frame, and are recorded where the run goes on."""
    source = paced(cameras, cameras.fps) if options.live else iter(cameras)
    submissions = (
        Submission(cameras.planes(frames), frames[0].timestamp_s, policies, context=frames)
        for frames in islice(source, options.limit)
    )
    failed = recorder.fail if options.keep_going else None
    ahead = options.live or options.deadline_ms is None
    try:
        yield from pipeline.stream(submissions, failed=failed) if ahead else _one_by_one(pipeline, submissions, failed)
    except ExecutionError as error:
        if error.ticket is None:
            raise
        name = error.ticket.context[0].name
        raise ExecutionError(f"frame {name}: {error.subject}", error.found, error.remedy) from error


def _one_by_one(
    pipeline: Pipeline, submissions: Iterable[Submission], failed: Callable[[CascadertError], None] | None
) -> Iterator[Result]:
    """Yield results as `Pipeline.stream` does, no frame waiting for another: that would count for its deadline."""
    for one in submissions:
        pipeline.submit(one.frame, one.timestamp_s, policies=one.policies, context=one.context)
        try:
            result = pipeline.next()
        except CascadertError as error:
            if failed is None:
                raise
            failed(error)
        else:
            yield result
