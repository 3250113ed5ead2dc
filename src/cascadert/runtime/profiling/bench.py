"""Run one cascade serial and overlapped on the same frames, in turns, beside what its profile predicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from cascadert.bundle import BundleManifest
from cascadert.errors import InvalidRequest
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.placement import place
from cascadert.runtime.plan import Plan
from cascadert.runtime.profiling.passage import LEAST_FRAMES, Passage, run_through
from cascadert.runtime.profiling.profile import Profile, ProfileOptions, measure_profile, profiling_options, top_k
from cascadert.runtime.results import Planes, Policies
from cascadert.spec import FrameRatePolicy, LatencyPolicy, SelectPolicy

SERIAL, SERIAL_ALL, OVERLAPPED = "serial", "serial_all_threads", "overlapped"
LEAST_ROUNDS = 5

Opener = Callable[[RuntimeOptions], Pipeline]
"""Opens the cascade that is to be measured; called several times."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure.

    Attributes:
        runtime: of the overlapped pipeline; the serial ones follow from it.
        policies: decisions in place of the manifest's, by stage.
        match: of this stage, in place of its decision: the fixed n for which t_b(n) is nearest to t_f.
        rounds: passes through each pipeline, at least 5.
        profile: how costs are measured.

    Raises:
        InvalidRequest: fewer rounds, or a runtime that is not overlapped, drops frames or has a deadline.
    """

    runtime: RuntimeOptions = RuntimeOptions()
    policies: Policies = field(default_factory=dict)
    match: str | None = None
    rounds: int = 7
    profile: ProfileOptions = field(default_factory=lambda: ProfileOptions(batching=True))

    def __post_init__(self) -> None:
        if self.rounds < LEAST_ROUNDS:
            raise InvalidRequest("rounds", f"is {self.rounds}", f"give {LEAST_ROUNDS} or more: medians need them")
        mode, overflow, deadline_ms = self.runtime.mode, self.runtime.overflow, self.runtime.deadline_ms
        if mode != "overlapped" or overflow != "wait" or deadline_ms is not None:
            found = f"is {mode}, overflow {overflow}, deadline {deadline_ms}"
            raise InvalidRequest(
                "runtime of a bench", found, "give one that is overlapped and waits for all: frames are paired"
            )


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        manifest, plan: of the cascade.
        device: its name.
        settings: options of each mode. "serial" has the threads of "overlapped"; "serial_all_threads" gives all cores
            to each stage, where that is not the same.
        slots: of the overlapped pipeline.
        policies: the decisions that were made.
        profile: what stages take, alone, with the threads of the overlapped mode.
        passes: one passage a round, by mode.
        same_labels: whether all modes gave the same labels, bit for bit; none where decisions follow the clock.
    """

    manifest: BundleManifest
    plan: Plan
    device: str
    settings: Mapping[str, RuntimeOptions]
    slots: int
    policies: Mapping[str, SelectPolicy]
    profile: Profile
    passes: Mapping[str, tuple[Passage, ...]]
    same_labels: bool | None


def bench(
    manifest: BundleManifest, opener: Opener, frames: Sequence[Planes], options: BenchOptions = BenchOptions(),
    progress: Progress | None = None,
) -> Bench:  # fmt: skip
    """Measure a cascade; see `Bench`. Pipelines stay open while others run: threads that wait cost nothing.

    Raises:
        InvalidRequest: too few frames, or options that do not fit the cascade.
        ExecutionError: a stage failed.
    """
    if len(frames) < LEAST_FRAMES:
        raise InvalidRequest("frames", f"are {len(frames)}", f"give {LEAST_FRAMES} or more")
    told = progress or (lambda what, done, total: None)
    settings = _settings(manifest, options.runtime)
    with opener(settings[SERIAL]) as pipeline:
        profile = measure_profile(
            pipeline, frames, options.profile, options.policies, lambda done, total: told("profile", done, total)
        )
        policies = _policies(pipeline, profile, options)
        if pipeline.device.takes_device_arrays:  # it runs the same work whatever the threads of the host
            settings.pop(SERIAL_ALL, None)
    with ExitStack() as stack:
        pipelines = {
            mode: stack.enter_context(opener(replace(setting, costs=profile.costs)))
            for mode, setting in settings.items()
        }
        same_labels = _same_labels(pipelines, frames, policies)
        overlapped = pipelines[OVERLAPPED]
        return Bench(
            manifest, overlapped.plan, overlapped.device.name, settings, overlapped.slots, policies, profile,
            _passes(pipelines, frames, policies, options.rounds, told), same_labels,
        )  # fmt: skip


def _settings(manifest: BundleManifest, runtime: RuntimeOptions) -> dict[str, RuntimeOptions]:
    """Return the options of each mode, with the threads of each stage written out."""
    cores = sorted(os.sched_getaffinity(0))
    serial = profiling_options(manifest, runtime, cores)
    overlapped = replace(runtime, threads=serial.threads)
    every = replace(serial, threads=place(manifest, replace(serial, threads=0), cores).threads)
    if every.threads == serial.threads:
        return {SERIAL: serial, OVERLAPPED: overlapped}
    return {SERIAL: serial, SERIAL_ALL: every, OVERLAPPED: overlapped}


def _policies(pipeline: Pipeline, profile: Profile, options: BenchOptions) -> dict[str, SelectPolicy]:
    """Return the decision of every stage that makes one."""
    own = {stage.name: stage.entry.select.policy for stage in pipeline.plan.stages if stage.entry.select is not None}
    unknown = sorted({*options.policies, *([] if options.match is None else [options.match])} - own.keys())
    if unknown:
        raise InvalidRequest(
            f"stage '{unknown[0]}'", "makes no decision", f"stages that do: {', '.join(own) or 'none'}"
        )
    matched = {} if options.match is None else {options.match: top_k(matching_n(profile, options.match))}
    return {**own, **options.policies, **matched}


def matching_n(profile: Profile, stage: str) -> int:
    """Return the n for which t_b(n) is nearest to t_f, among those that the stage was measured to take."""
    costs = profile.costs[stage]
    return min(range(1, costs.points[-1][0] + 1), key=lambda n: abs(costs.refine_ms(n) - costs.before_ms))


def _same_labels(pipelines: Mapping[str, Pipeline], frames: Sequence[Planes], policies: Policies) -> bool | None:
    """Run all frames through every pipeline once: a warm-up, and a comparison."""
    labels = [
        [result.labels for result in pipeline.stream(frames, policies)] for pipeline in pipelines.values()
    ]  # fmt: skip
    if any(isinstance(policy, LatencyPolicy | FrameRatePolicy) for policy in policies.values()):
        return None
    return all(np.array_equal(a, b) for others in labels[1:] for a, b in zip(labels[0], others, strict=True))


def _passes(
    pipelines: Mapping[str, Pipeline], frames: Sequence[Planes], policies: Policies, rounds: int, told: Progress
) -> dict[str, tuple[Passage, ...]]:
    """Run every pipeline once a round; in each round another one is the first."""
    modes, passes = list(pipelines), [dict[str, Passage]() for _ in range(rounds)]
    for i, done in enumerate(passes):
        for mode in modes[i % len(modes) :] + modes[: i % len(modes)]:
            told("runs in turns", i, rounds)
            done[mode] = run_through(pipelines[mode], frames, policies)
    told("runs in turns", rounds, rounds)
    return {mode: tuple(done[mode] for done in passes) for mode in modes}
