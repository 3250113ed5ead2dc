"""What the passes of a bench say: predicted periods, ratios between modes, and where the time went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cascadert.runtime.plan import Plan
from cascadert.runtime.profiling.bench import OVERLAPPED, SERIAL, Bench
from cascadert.runtime.profiling.passage import HOST, Passage
from cascadert.runtime.profiling.profile import BATCHED, Profile
from cascadert.runtime.profiling.times import Times
from cascadert.runtime.results import Span


def predicted_period_ms(bench: Bench) -> dict[str, float]:
    """Return the periods that the profile promises for the n that were decided.

    Serial: everything on a frame's path. Overlapped: the busiest stream, as if streams never met.
    """
    streams = _expected_ms(bench)
    hand_over = sum(times.median for times in bench.profile.hand_over.values())
    host = bench.profile.submit.median + sum(times.median for times in bench.profile.decide.values())
    return {SERIAL: sum(streams.values()) + hand_over, OVERLAPPED: max(*streams.values(), host)}


def _expected_ms(bench: Bench) -> dict[str, float]:
    """Return the mean time of each stage and each copy over the frames, by the profile."""
    frames = [frame for passage in bench.passes[OVERLAPPED] for frame in passage.frames]
    stages = {
        stage.name: float(np.mean([_stage_ms(bench.profile, stage.name, frame.by_name) for frame in frames]))
        for stage in bench.plan.stages
    }
    return {**stages, **{name: times.median for name, times in bench.profile.copies.items()}}


def _stage_ms(profile: Profile, stage: str, spans: Mapping[str, Span]) -> float:
    return profile.stage_ms(stage, spans[stage].n) if stage in spans else 0.0


def slow_down(bench: Bench, mode: str, against: str) -> dict[str, Times]:
    """Return the time of each stage in one mode over that in another, a ratio for each round."""
    return {
        stage.name: Times.of(
            a.mean_ms(stage.name) / b.mean_ms(stage.name)
            for a, b in zip(bench.passes[mode], bench.passes[against], strict=True)
        )
        for stage in bench.plan.stages
        if all(passage.mean_ms(stage.name) for passage in bench.passes[against])
    }


def gain(bench: Bench, over: str) -> Times:
    """Return the period of a mode over the overlapped one, a ratio for each round."""
    pairs = zip(bench.passes[over], bench.passes[OVERLAPPED], strict=True)
    return Times.of(other.period_ms / overlapped.period_ms for other, overlapped in pairs)


def batching(profile: Profile) -> dict[str, dict[int, float]]:
    """Return t_b(n) / n over t_b(1) for n up to 8, for each stage that refines."""
    found = {}
    for stage, by_n in profile.stages.items():
        measured = {n: times.median for n, times in by_n.items() if n is not None and n <= BATCHED}
        if 1 in measured:
            found[stage] = {n: milliseconds / n / measured[1] for n, milliseconds in measured.items()}
    return found


def typical_round(bench: Bench) -> int:
    """Return the round whose overlapped period is the median."""
    periods = [passage.period_ms for passage in bench.passes[OVERLAPPED]]
    return periods.index(sorted(periods)[len(periods) // 2])


def where_serial(passage: Passage, plan: Plan) -> dict[str, float]:
    """Return what a serial period is made of, per frame.

    "stages" and "copies" are the stream's work, "decide" is the host's; "hand_over" is the rest: from the end of one
    piece of work until the next begins.
    """
    spans = passage.span_ms()
    stages = sum(spans.get(stage.name, 0.0) for stage in plan.stages)
    copies = sum(spans.get(name, 0.0) for name in ("upload", "download"))
    decide = passage.busy_ms().get(HOST, 0.0)
    return {"stages": stages, "copies": copies, "decide": decide,
            "hand_over": passage.period_ms - stages - copies - decide}  # fmt: skip


@dataclass(frozen=True)
class Bottleneck:
    """What an overlapped period is made of, per frame: the busiest stream sets it. The parts add up to the period.

    Attributes:
        stream: the busiest.
        alone_ms: what its work takes where nothing runs beside it: in the serial passage of the same round.
        slow_down_ms: what it takes longer beside the others.
        input_ms: it waits for the stage before.
        hand_over_ms: its input is there, and it has not begun: notices, decisions, queueing.
    """

    stream: str
    alone_ms: float
    slow_down_ms: float
    input_ms: float
    hand_over_ms: float


def where_overlapped(passage: Passage, serial: Passage, plan: Plan) -> Bottleneck:
    """Return what the period of an overlapped passage is made of."""
    busy = {stream: milliseconds for stream, milliseconds in passage.busy_ms().items() if stream != HOST}
    stream = max(busy, key=lambda name: busy[name])
    spans = serial.span_ms()
    names = {span.name for frame in passage.frames for span in frame.spans if span.stream == stream}
    alone = sum(spans.get(name, 0.0) for name in names)
    waited = sum(_waits_for_input(passage, plan, stream)) / (len(passage.frames) - 1)
    idle = passage.period_ms - busy[stream]
    return Bottleneck(stream, alone, busy[stream] - alone, waited, idle - waited)


def _waits_for_input(passage: Passage, plan: Plan, stream: str) -> Iterator[float]:
    """Yield for how long a stream, idle since its last piece of work, waited for the stages before its next."""
    producers = {stage.name: stage.producers for stage in plan.stages}
    free_ms, end_ms = passage.window
    pairs = ((span, frame) for frame in passage.frames for span in frame.spans if span.stream == stream)
    for span, frame in sorted(pairs, key=lambda pair: pair[0].start_ms):
        before = [frame.by_name[name].end_ms for name in producers.get(span.name, ()) if name in frame.by_name]
        ready_ms = min(max(before, default=free_ms), span.start_ms, end_ms)
        yield max(0.0, ready_ms - free_ms)
        free_ms = max(free_ms, span.end_ms)
