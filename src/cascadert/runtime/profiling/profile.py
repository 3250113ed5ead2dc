"""Measure what stages, copies and decisions take: one frame at a time, nothing beside it.

A profile is measured on a serial pipeline with the threads that stages have in the mode it is to predict. Settings take
turns on each frame, so that a machine that changes its speed changes it for all of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from cascadert.bundle import BundleManifest
from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.observe import path_through, paths_before
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.placement import place
from cascadert.runtime.plan import Plan
from cascadert.runtime.profiling.times import Times
from cascadert.runtime.results import Planes, Policies, Result
from cascadert.spec import FrameRatePolicy, LatencyPolicy, TopKPolicy

LEAST_REPEATS = 5
BATCHED = 8  # t_b(n) / n is measured for every n up to this
WHOLE = None
"""In the place of n: a stage that runs on every frame."""

Progress = Callable[[int, int], None]
"""Called with measurements done and measurements in all."""

Policy = Mapping[str, TopKPolicy]


@dataclass(frozen=True)
class ProfileOptions:
    """How to measure.

    Attributes:
        repeats: measurements of each setting, at least 5.
        warm_up: rounds before, that do not count.
        batching: measure every n up to 8, not only powers of two.

    Raises:
        InvalidRequest: fewer repeats than a median with a spread needs.
    """

    repeats: int = 7
    warm_up: int = 1
    batching: bool = False

    def __post_init__(self) -> None:
        if self.repeats < LEAST_REPEATS:
            raise InvalidRequest("repeats", f"is {self.repeats}", f"give {LEAST_REPEATS} or more: medians need them")


@dataclass(frozen=True)
class Profile:
    """What was measured, in milliseconds.

    Attributes:
        stages: for each stage and n (`WHOLE` for one that runs on every frame).
        copies: "upload" and "download", as far as the device makes them.
        submit: the caller's share of a frame: checking and copying it.
        decide: making the decision before each stage.
        hand_over: from the end of the stage that scores until the one that refines begins, the decision included.
        costs: what decisions need to know, by stage; t_b(n) includes the stages that run only if that one does.
    """

    stages: Mapping[str, Mapping[int | None, Times]]
    copies: Mapping[str, Times]
    submit: Times
    decide: Mapping[str, Times]
    hand_over: Mapping[str, Times]
    costs: Mapping[str, StageCosts]

    def stage_ms(self, stage: str, n: int | None) -> float:
        """Return the time of a stage on a frame, interpolated where n was not measured."""
        if n is WHOLE:
            return self.stages[stage][WHOLE].median
        return _costs(0.0, self.stages[stage]).refine_ms(n)

    @property
    def copies_ms(self) -> float:
        """Both ways."""
        return sum(times.median for times in self.copies.values())


@dataclass(frozen=True)
class _Shot:
    """One frame that was measured; `decided` where the decisions were the cascade's own."""

    result: Result
    submit_ms: float
    decided: bool


def measure_profile(
    pipeline: Pipeline, frames: Sequence[Planes], options: ProfileOptions = ProfileOptions(),
    policies: Policies | None = None, progress: Progress | None = None,
) -> Profile:  # fmt: skip
    """Measure a serial pipeline.

    Args:
        pipeline: in serial mode, no frame in flight.
        frames: taken in turns.
        options: see `ProfileOptions`.
        policies: the decisions under which t_f of later decisions is measured; none: those of the manifest. Where one
            of them needs costs itself, every block is refined in its place.
        progress: told after every measurement.

    Raises:
        InvalidRequest: an overlapped pipeline, or no frame.
        ExecutionError: a stage failed.
    """
    return measure_profiles([pipeline], frames, options, policies, progress)[0]


def measure_profiles(
    pipelines: Sequence[Pipeline], frames: Sequence[Planes], options: ProfileOptions = ProfileOptions(),
    policies: Policies | None = None, progress: Progress | None = None,
) -> list[Profile]:  # fmt: skip
    """Measure several serial pipelines on the same frames, in turns: each measurement of all of them, then the next.

    See `measure_profile`.
    """
    for pipeline in pipelines:
        _check(pipeline, frames)
    settings = [list(_all_settings(pipeline, options, policies or {})) for pipeline in pipelines]
    shots: list[list[_Shot]] = [[] for _ in pipelines]
    done, total = 0, (options.warm_up + options.repeats) * sum(map(len, settings))
    for turn in range(options.warm_up + options.repeats):
        for pipeline, wanted, taken in zip(pipelines, settings, shots, strict=True):
            for setting, decided in wanted:
                shot = _measure(pipeline, frames[turn % len(frames)], setting, decided)
                if turn >= options.warm_up:
                    taken.append(shot)
                done += 1
                if progress is not None:
                    progress(done, total)
    return [_profile(pipeline.plan, taken) for pipeline, taken in zip(pipelines, shots, strict=True)]


def _all_settings(pipeline: Pipeline, options: ProfileOptions, policies: Policies) -> Iterator[tuple[Policies, bool]]:
    """Yield the cascade's own decisions, and those that give each stage each n; and whether they are its own."""
    yield _untimed(pipeline, policies), True
    for setting in _settings(pipeline, options):
        yield setting, False


def _check(pipeline: Pipeline, frames: Sequence[Planes]) -> None:
    mode, deadline_ms = pipeline.options.mode, pipeline.options.deadline_ms
    if mode != "serial" or deadline_ms is not None or not frames:
        limit = "no deadline" if deadline_ms is None else f"a deadline of {deadline_ms:g} ms"
        found = f"was asked of {len(frames)} frame(s) with {limit} on a pipeline in {mode} mode"
        raise InvalidRequest("a profile", found, "give a serial pipeline without a deadline and at least one frame")


def profiling_options(manifest: BundleManifest, runtime: RuntimeOptions, cores: Sequence[int]) -> RuntimeOptions:
    """Return the options of a pipeline to profile: serial, each stage with the threads that it has in `runtime`."""
    threads = place(manifest, runtime, cores).threads
    return replace(runtime, mode="serial", threads=threads, slots=0, overflow="wait", deadline_ms=None)


def counts_of(pipeline: Pipeline, stage: str, batching: bool) -> list[int]:
    """Return the n to measure: powers of two and all blocks, as the stage's engine takes them."""
    blocks = pipeline.blocks
    wanted = {blocks, *(2**i for i in range(blocks.bit_length()))}
    if batching:
        wanted |= set(range(1, min(BATCHED, blocks) + 1))
    taken = set()
    for n in sorted(wanted):
        try:
            taken.add(pipeline.refined(stage, n))
        except ExecutionError:  # more than the engine was built for
            break
    return sorted(taken)


def _settings(pipeline: Pipeline, options: ProfileOptions) -> Iterator[Policy]:
    """Yield decisions that give each stage each n: the stages before it refine all blocks, those after it none."""
    deciding = [*scored_by(pipeline.plan)]
    for i, stage in enumerate(deciding):
        before, after = dict.fromkeys(deciding[:i], pipeline.blocks), dict.fromkeys(deciding[i + 1 :], 0)
        for n in counts_of(pipeline, stage, options.batching):
            yield {name: top_k(k) for name, k in {**before, stage: n, **after}.items()}


def _untimed(pipeline: Pipeline, policies: Policies) -> Policies:
    own = {stage.name: stage.entry.select.policy for stage in pipeline.plan.stages if stage.entry.select is not None}
    every = top_k(pipeline.blocks)
    return {
        stage: every if isinstance(policy, LatencyPolicy | FrameRatePolicy) else policy
        for stage, policy in {**own, **policies}.items()
    }


def top_k(k: int) -> TopKPolicy:
    """Return the decision for exactly k blocks."""
    return TopKPolicy(policy="top-k", k=k)


def _measure(pipeline: Pipeline, frame: Planes, policies: Policies, decided: bool) -> _Shot:
    started = time.perf_counter()
    pipeline.submit(frame, policies=policies)
    submit_ms = (time.perf_counter() - started) * 1e3
    return _Shot(pipeline.next(), submit_ms, decided)


def _profile(plan: Plan, shots: Sequence[_Shot]) -> Profile:
    stages, because = _by_n(plan, shots), _because(plan, shots)
    copies, before, decide, hand_over = (defaultdict[str, list[float]](list) for _ in range(4))
    for shot in shots:
        spans = {span.name: span for span in shot.result.spans}
        for name in {"upload", "download"} & spans.keys():
            copies[name].append(spans[name].milliseconds)
        if not shot.decided:
            continue
        paths = paths_before(plan, {name: span.milliseconds for name, span in spans.items()})
        for stage, producer in scored_by(plan).items():
            before[stage].append(paths[stage])
            if f"decide {stage}" in spans:
                decide[stage].append(spans[f"decide {stage}"].milliseconds)
            if {stage, producer} <= spans.keys():
                hand_over[stage].append(spans[stage].start_ms - spans[producer].end_ms)
    return Profile(
        stages=stages,
        copies=_times(copies),
        submit=Times.of(shot.submit_ms for shot in shots),
        decide=_times(decide),
        hand_over=_times(hand_over),
        costs={
            stage: _costs(Times.of(before[stage]).median, because[stage], _spread(before[stage], because[stage]))
            for stage in before
        },
    )


def scored_by(plan: Plan) -> dict[str, str]:
    """Return, for each stage that decides, the stage whose scores it reads."""
    return {
        stage.name: stage.entry.select.scores.split(".", 1)[0]
        for stage in plan.stages
        if stage.entry.select is not None
    }


def _by_n(plan: Plan, shots: Sequence[_Shot]) -> dict[str, dict[int | None, Times]]:
    """Return the times of each stage; what the cascade's own decisions add now and then is no n that was asked for."""
    samples: dict[str, dict[int | None, list[float]]] = {stage.name: defaultdict(list) for stage in plan.stages}
    for shot in shots:
        for span in shot.result.spans:
            if span.name in samples and (span.n is WHOLE or not shot.decided):
                samples[span.name][span.n].append(span.milliseconds)
    return {stage: _sorted(by_n) for stage, by_n in samples.items()}


def _because(plan: Plan, shots: Sequence[_Shot]) -> dict[str, dict[int | None, Times]]:
    """Return what runs because of each decision, by n: the longest path through its dependants."""
    samples: dict[str, dict[int | None, list[float]]] = {name: defaultdict(list) for name in plan.dependants}
    for shot in shots:
        times = {span.name: span.milliseconds for span in shot.result.spans}
        for run in shot.result.runs:
            if run.stage in samples and run.outcome == "ran" and not shot.decided:
                samples[run.stage][run.n].append(path_through(plan, times, plan.dependants[run.stage]))
    return {stage: _sorted(by_n) for stage, by_n in samples.items()}


def _sorted(by_n: Mapping[int | None, list[float]]) -> dict[int | None, Times]:
    return {n: Times.of(by_n[n]) for n in sorted(by_n, key=lambda n: n or 0)}


def _times(samples: Mapping[str, list[float]]) -> dict[str, Times]:
    return {name: Times.of(values) for name, values in samples.items()}


def _spread(before: Sequence[float], refine: Mapping[int | None, Times]) -> float:
    return median(times.relative_spread for times in (Times.of(before), *refine.values()))


def _costs(before_ms: float, refine: Mapping[int | None, Times], spread: float = 0.0) -> StageCosts:
    return StageCosts(before_ms, tuple((n, times.median) for n, times in refine.items() if n is not None), spread)
