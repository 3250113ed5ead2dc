"""The report of a bench: figures with what made them, as values and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cascadert.runtime.profiling.bench import OVERLAPPED, SERIAL, SERIAL_ALL, Bench
from cascadert.runtime.profiling.figures import (
    Bottleneck,
    batching,
    gain,
    predicted_period_ms,
    slow_down,
    typical_round,
    where_overlapped,
    where_serial,
)
from cascadert.runtime.profiling.footprint import Footprint, PredictedFootprint
from cascadert.runtime.profiling.passage import Passage, Traced
from cascadert.runtime.profiling.profile import Profile, scored_by
from cascadert.runtime.profiling.times import Times
from cascadert.runtime.profiling.trace import trace_json

BENCH_SCHEMA = "cascadert-bench-1"
BEST_SERIAL = "best_serial"
WHOLE_FRAME = "frame"
_DIGITS = 4


@dataclass(frozen=True)
class Origin:
    """What made a report.

    Attributes:
        command: as it was typed.
        versions: of the software.
        machine: the processor.
        source: where frames came from.
    """

    command: str
    versions: Mapping[str, str]
    machine: str
    source: str


@dataclass(frozen=True)
class Memory:
    """Bytes as predicted, and as measured by mode, where it was."""

    predicted: PredictedFootprint
    measured: Mapping[str, Footprint]


@dataclass(frozen=True)
class BenchReport:
    """Everything that a bench found. Times are milliseconds per frame, and medians of rounds.

    Attributes:
        bench: what was measured.
        origin: what made it.
        memory: what it took.
    """

    bench: Bench
    origin: Origin
    memory: Memory

    @property
    def best_serial(self) -> str:
        """The mode that is the fastest of those that are not overlapped."""
        serial = [mode for mode in self.bench.passes if mode != OVERLAPPED]
        return min(serial, key=lambda mode: self.periods[mode].median)

    @property
    def periods(self) -> dict[str, Times]:
        """The period of each mode, one for each round."""
        return {mode: Times.of(p.period_ms for p in passes) for mode, passes in self.bench.passes.items()}

    @property
    def gains(self) -> dict[str, Times]:
        """What overlapping gains over the serial mode of the same threads, and over the best; paired by rounds."""
        return {SERIAL: gain(self.bench, SERIAL), BEST_SERIAL: gain(self.bench, self.best_serial)}

    @property
    def overlap_ratios(self) -> dict[str, Times]:
        """Sum of stage spans over wall time, by mode."""
        stages = [stage.name for stage in self.bench.plan.stages]
        return {mode: Times.of(p.overlap_ratio(stages) for p in passes) for mode, passes in self.bench.passes.items()}

    @property
    def slow_downs(self) -> dict[str, Times]:
        """Each stage beside the others, over the same alone with the same threads."""
        return slow_down(self.bench, OVERLAPPED, SERIAL)

    @property
    def scalings(self) -> dict[str, Times]:
        """Each stage with the threads that it has overlapped, over the same with all of them; none: they are equal."""
        return slow_down(self.bench, SERIAL, SERIAL_ALL) if SERIAL_ALL in self.bench.passes else {}

    @property
    def bottleneck(self) -> Bottleneck:
        """What the overlapped period is made of, in the round in which it is the median."""
        passages = self.typical_passages()
        return where_overlapped(passages[OVERLAPPED], passages[SERIAL], self.bench.plan)

    @property
    def serial_parts(self) -> dict[str, float]:
        """What the serial period is made of, in the same round."""
        return where_serial(self.typical_passages()[SERIAL], self.bench.plan)

    @property
    def mean_n(self) -> dict[str, float]:
        """Blocks that each stage refined in the overlapped mode."""
        passes = self.bench.passes[OVERLAPPED]
        return {stage: sum(p.mean_n(stage) for p in passes) / len(passes) for stage in scored_by(self.bench.plan)}

    def latency(self, mode: str) -> Times:
        """From submission to labels, frames submitted as fast as they are taken: they wait for their turn."""
        return _frames(self.bench.passes[mode], lambda frame: frame.latency_ms)

    def transit(self, mode: str) -> Times:
        """From the first piece of work on a frame to the end of the last."""
        return _frames(self.bench.passes[mode], lambda frame: frame.end_ms - frame.start_ms)

    def host_ms(self) -> dict[str, float]:
        """What the host does for a frame: the copy of it, each decision, and the way from scores to refinement."""
        profile = self.bench.profile
        decide = {f"decide {stage}": times.median for stage, times in profile.decide.items()}
        hand_over = {f"hand over to {stage}": times.median for stage, times in profile.hand_over.items()}
        return {"submit": profile.submit.median, **decide, **hand_over}

    def typical_passages(self) -> dict[str, Passage]:
        """The serial and the overlapped passage of the round in which the overlapped period is the median."""
        i = typical_round(self.bench)
        return {mode: self.bench.passes[mode][i] for mode in (SERIAL, OVERLAPPED)}

    def trace_json(self) -> str:
        """Return a trace of these two passages."""
        runs = {mode: passage.frames for mode, passage in self.typical_passages().items()}
        return trace_json(runs, scored_by(self.bench.plan))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        bench = self.bench
        medians = {mode: times.median for mode, times in self.periods.items()}
        return {
            "schema": BENCH_SCHEMA,
            "name": bench.manifest.spec.name,
            "command": self.origin.command,
            "device": bench.device,
            "machine": self.origin.machine,
            "versions": self.origin.versions,
            "settings": self._settings(),
            "period_ms": {**medians, BEST_SERIAL: medians[self.best_serial]},
            "predicted_period_ms": predicted_period_ms(bench),
            "gain": {f"over_{name}": _medians_and_spread(times) for name, times in self.gains.items()},
            "overlap_ratio": self.overlap_ratios[OVERLAPPED].median,
            "overlap_ratio_serial": self.overlap_ratios[SERIAL].median,
            "stage_ms": _stage_ms(bench.profile, lambda times: times.median),
            "batching": batching(bench.profile),
            "copy_ms": {name: times.median for name, times in bench.profile.copies.items()},
            "host_ms": self.host_ms(),
            "costs": {stage: asdict(costs) for stage, costs in bench.profile.costs.items()},
            "mean_n": self.mean_n,
            "slow_down": {stage: times.median for stage, times in self.slow_downs.items()},
            "thread_scaling": {stage: times.median for stage, times in self.scalings.items()},
            "where_ms": {SERIAL: self.serial_parts, OVERLAPPED: asdict(self.bottleneck)},
            "latency_ms": {mode: _percentiles(self.latency(mode)) for mode in bench.passes},
            "transit_ms": {mode: _percentiles(self.transit(mode)) for mode in bench.passes},
            "memory_bytes": {
                "predicted": {**asdict(self.memory.predicted), "total_bytes": self.memory.predicted.total_bytes},
                **{mode: asdict(found) for mode, found in self.memory.measured.items()},
            },
            "spread": self._spread(),
            "same_labels": bench.same_labels,
        }

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(_rounded(self.to_dict()), indent=1, allow_nan=False)

    def _settings(self) -> dict[str, Any]:
        bench = self.bench
        overlapped = bench.passes[OVERLAPPED]
        return {
            "source": self.origin.source,
            "frames": len(overlapped[0].frames),
            "rounds": len(overlapped),
            "repeats": min(len(times.samples) for by_n in bench.profile.stages.values() for times in by_n.values()),
            "threads": {mode: setting.threads for mode, setting in bench.settings.items()},
            "best_serial": self.best_serial,
            "slots": bench.slots,
            "queue": bench.settings[OVERLAPPED].queue,
            "policies": {stage: policy.model_dump() for stage, policy in bench.policies.items()},
        }

    def _spread(self) -> dict[str, Any]:
        return {
            "period_ms": {mode: times.spread for mode, times in self.periods.items()},
            "stage_ms": _stage_ms(self.bench.profile, lambda times: times.spread),
            "overlap_ratio": self.overlap_ratios[OVERLAPPED].spread,
            "slow_down": {stage: times.spread for stage, times in self.slow_downs.items()},
            "thread_scaling": {stage: times.spread for stage, times in self.scalings.items()},
        }


def _medians_and_spread(times: Times) -> dict[str, float]:
    low, high = times.spread
    return {"median": times.median, "q10": low, "q90": high}


def _stage_ms(profile: Profile, figure: Callable[[Times], Any]) -> dict[str, dict[str, Any]]:
    return {
        stage: {WHOLE_FRAME if n is None else str(n): figure(times) for n, times in by_n.items()}
        for stage, by_n in profile.stages.items()
    }


def _frames(passes: Sequence[Passage], figure: Callable[[Traced], float]) -> Times:
    return Times.of(figure(frame) for passage in passes for frame in passage.frames)


def _percentiles(times: Times) -> dict[str, float]:
    return {"p50": times.median, "p90": times.spread[1]}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, Mapping):
        return {str(name): _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
