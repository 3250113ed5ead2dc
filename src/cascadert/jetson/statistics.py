"""What a run did: per frame and in all, as values and as JSON."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest
from cascadert.classes import IGNORE_LABEL
from cascadert.errors import CascadertError, ExecutionError, SourceError
from cascadert.jetson.policies import exit_confidences, refining_stages
from cascadert.jetson.sources import Frame
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.profiling.passage import HOST, Traced
from cascadert.runtime.profiling.times import Times
from cascadert.runtime.results import Outcome, Result, StageRun
from cascadert.spec import SelectPolicy
from cascadert.stage_spec import LABELS

STATS_SCHEMA = "cascadert-run-3"
_SCORE_DIGITS, _MS_DIGITS = 4, 3


@dataclass(frozen=True)
class StageStatistics:
    """One stage on one frame; 0 milliseconds where its outcome is not "ran".

    `n` and `scores` (sorted, in the manifest's unit) are the decision before it; `predicted_ms` is what the decision
    expected of t_f + t_b(n), where it knows costs, and `theta` what a controller chose.
    """

    stage: str
    outcome: Outcome
    milliseconds: float
    n: int | None
    scores: tuple[float | None, ...] | None
    predicted_ms: float | None
    theta: float | None


@dataclass(frozen=True)
class FrameStatistics:
    """One frame (of all cameras).

    `latency_ms` is from handing it over until its labels are on the host; `queue_ms` is the part of it in which nothing
    had begun, or the labels waited to be noticed. `dropped` counts frames that were dropped just before it.
    `labels_from` is the stage whose labels they are; `expired` says that its deadline passed before every
    stage had ended.
    """

    name: str
    timestamp_s: float | None
    latency_ms: float
    queue_ms: float
    dropped: int
    labels_from: str
    expired: bool
    stages: tuple[StageStatistics, ...]


@dataclass(frozen=True)
class FrameFailure:
    """A frame without a result, and why."""

    name: str
    error: str


@dataclass(frozen=True)
class DeadlineStatistics:
    """How frames did with a deadline: those `in_time`, those `late`, and by how much the latest of them was."""

    deadline_ms: float
    in_time: int
    late: int
    latest_by_ms: float

    @classmethod
    def of(cls, frames: Sequence[FrameStatistics], deadline_ms: float) -> DeadlineStatistics:
        """Count frames by when their labels were on the host."""
        over_ms = [frame.latency_ms - deadline_ms for frame in frames if frame.latency_ms > deadline_ms]
        latest_by_ms = round(max(over_ms, default=0.0), _MS_DIGITS)
        return cls(deadline_ms, len(frames) - len(over_ms), len(over_ms), latest_by_ms)


@dataclass(frozen=True)
class RunSummary:
    """A whole run.

    Attributes:
        name: of the cascade.
        mode: "overlapped" or "serial".
        blocks: of a frame, of all cameras.
        policies: the decision of each stage.
        confidences: of each stage that exits lead to: it runs where the exit before is less confident.
        frames: those with a result.
        dropped: how many frames a live source gave that were never run.
        failures: frames that failed in a run that goes on.
        wall_s: from the first frame that was read to the last that was written.
        fps: frames with a result per second of that: what the run sustained, reading and writing included.
        latency_ms: "mean", "p50" and "p90" over frames.
        answered: frames by the stage whose labels they have, for every stage that labels.
        deadline: how many frames were in time; none where they had no deadline.
        expired: frames whose deadline passed before every stage had ended.
        ran: frames on which each stage ran.
        mean_n: blocks refined per frame, by stage that refines any.
        stage_ms: milliseconds of each stage, the mean over frames on which it ran; none where it never did.
        busy: share of the wall time in which each stream was at work: 1 for the one that sets the pace.
        class_shares: parts of all pixels but letterbox margins.
    """

    name: str
    mode: str
    blocks: int
    policies: Mapping[str, SelectPolicy]
    confidences: Mapping[str, float]
    frames: tuple[FrameStatistics, ...]
    dropped: int
    failures: tuple[FrameFailure, ...]
    wall_s: float
    fps: float
    latency_ms: Mapping[str, float]
    answered: Mapping[str, int]
    deadline: DeadlineStatistics | None
    expired: int
    ran: Mapping[str, int]
    mean_n: Mapping[str, float]
    stage_ms: Mapping[str, float | None]
    busy: Mapping[str, float]
    class_shares: Mapping[str, float]

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        policies = {stage: policy.model_dump() for stage, policy in self.policies.items()}
        values = {name: value for name, value in vars(self).items() if name not in ("frames", "policies", "failures")}
        frames, failures = [asdict(frame) for frame in self.frames], [asdict(failure) for failure in self.failures]
        lists = {"failures": failures, "frame_count": len(frames), "frames": frames}
        deadline = None if self.deadline is None else asdict(self.deadline)
        return {"schema": STATS_SCHEMA, **values, "policies": policies, "deadline": deadline, **lists}

    def to_json(self) -> str:
        """Return everything as JSON, a line for each frame."""
        values = self.to_dict()
        frames = ",\n".join(json.dumps(frame, allow_nan=False) for frame in map(asdict, self.frames))
        head = json.dumps({**values, "frames": []}, indent=1, allow_nan=False)
        return head.removesuffix("[]\n}") + f"[\n{frames}\n]\n}}\n"

    def check(self) -> None:
        """Refuse a run with failures.

        Raises:
            ExecutionError: frames failed; the first says why.
        """
        if self.failures:
            first = self.failures[0]
            subject = f"{len(self.failures)} of {len(self.frames) + len(self.failures)} frames"
            found = f"failed, the first of them {first.name}: {first.error}"
            raise ExecutionError(subject, found, "the statistics list all of them")


class Recorder:
    """Takes down what a run does; with `trace`, also when every piece of work ran."""

    def __init__(
        self, manifest: BundleManifest, policies: Mapping[str, SelectPolicy], options: RuntimeOptions,
        *, trace: bool = False,
    ) -> None:  # fmt: skip
        self._manifest, self._policies, self._options, self._trace = manifest, policies, options, trace
        self._frames: list[FrameStatistics] = []
        self._failures: list[FrameFailure] = []
        self._errors: list[CascadertError] = []
        self._pixels = np.zeros(256, np.int64)
        self._busy_ms: dict[str, float] = defaultdict(float)
        self._started_s = self._wall_s = 0.0
        self._dropped = 0
        self.traced: list[Traced] = []

    @property
    def seen(self) -> int:
        """Frames whose fate is known."""
        return len(self._frames) + len(self._failures) + sum(frame.dropped for frame in self._frames)

    def start(self) -> None:
        """Start the clock."""
        self._started_s = time.perf_counter()

    def add(self, result: Result) -> None:
        """Take down a frame."""
        frames: tuple[Frame, ...] = result.ticket.context
        traced = Traced.of(result)
        if self._trace:
            self.traced.append(traced)
        self._frames.append(frame_statistics(frames[0], result, traced))
        for span in result.spans:
            self._busy_ms[span.stream] += span.milliseconds
        for frame, labels in zip(frames, result.labels, strict=True):
            self._pixels += np.bincount(frame.fit.ignore_margins(labels).reshape(-1), minlength=256)

    def fail(self, error: CascadertError) -> None:
        """Take down a frame that failed."""
        name = "" if error.ticket is None else error.ticket.context[0].name
        self._failures.append(FrameFailure(name, str(error)))
        self._errors.append(error)

    def stop(self, dropped: int) -> None:
        """Stop the clock; `dropped` frames were never run."""
        self._wall_s, self._dropped = time.perf_counter() - self._started_s, dropped

    def check(self, source: Path) -> None:
        """Refuse a run without any result.

        Raises:
            SourceError: the source holds no frame.
            CascadertError: every frame failed; why the first did.
        """
        if self._frames:
            return
        if self._errors:
            raise self._errors[0]
        raise SourceError(str(source), "holds no frame", "give a source with at least one frame")

    def summary(self) -> RunSummary:
        """Sum up a run of at least one frame."""
        spec, deadline_ms = self._manifest.spec, self._options.deadline_ms
        latencies = Times.of(frame.latency_ms for frame in self._frames)
        labelled = max(1, int(self._pixels[:IGNORE_LABEL].sum()))
        return RunSummary(
            name=spec.name,
            mode=self._options.mode,
            blocks=spec.blocks,
            policies=dict(self._policies),
            confidences=exit_confidences(self._manifest, self._policies),
            frames=tuple(self._frames),
            dropped=self._dropped,
            failures=tuple(self._failures),
            wall_s=round(self._wall_s, 6),
            fps=round(len(self._frames) / self._wall_s, 3),
            latency_ms={
                name: round(value, _MS_DIGITS)
                for name, value in (("mean", latencies.mean), ("p50", latencies.median), ("p90", latencies.spread[1]))
            },
            answered=self._answered(),
            deadline=None if deadline_ms is None else DeadlineStatistics.of(self._frames, deadline_ms),
            expired=sum(frame.expired for frame in self._frames),
            ran={stage.name: len(self._ran(stage.name)) for stage in self._manifest.stages},
            mean_n={stage: round(self._mean_n(stage), 4) for stage in refining_stages(self._manifest)},
            stage_ms={stage.name: self._mean_ms(stage.name) for stage in self._manifest.stages},
            busy={
                stream: round(busy / self._wall_s / 1e3, 4) for stream, busy in self._busy_ms.items() if stream != HOST
            },
            class_shares={name: round(int(self._pixels[i]) / labelled, 6) for i, name in enumerate(spec.classes.names)},
        )

    def _answered(self) -> dict[str, int]:
        answered = [frame.labels_from for frame in self._frames]
        labelled = [s.name for s in self._manifest.stages if any(output.name == LABELS for output in s.outputs)]
        return {stage: answered.count(stage) for stage in labelled}

    def _ran(self, stage: str) -> list[StageStatistics]:
        runs = (run for frame in self._frames for run in frame.stages if run.stage == stage)
        return [run for run in runs if run.outcome == "ran"]

    def _mean_n(self, stage: str) -> float:
        return sum(run.n or 0 for run in self._ran(stage)) / len(self._frames)

    def _mean_ms(self, stage: str) -> float | None:
        ran = self._ran(stage)
        return round(float(np.mean([run.milliseconds for run in ran])), _MS_DIGITS) if ran else None


def frame_statistics(frame: Frame, result: Result, traced: Traced) -> FrameStatistics:
    """Keep what a frame's statistics need of its result."""
    return FrameStatistics(
        name=frame.name,
        timestamp_s=frame.timestamp_s,
        latency_ms=round(result.latency_ms, _MS_DIGITS),
        queue_ms=round(result.latency_ms - (traced.end_ms - traced.start_ms), _MS_DIGITS),
        dropped=result.dropped,
        labels_from=result.labels_from,
        expired=result.expired,
        stages=tuple(_stage_statistics(run) for run in result.runs),
    )


def _stage_statistics(run: StageRun) -> StageStatistics:
    return StageStatistics(
        stage=run.stage,
        outcome=run.outcome,
        milliseconds=round(run.milliseconds, _MS_DIGITS),
        n=run.n,
        scores=_plain(run.scores),
        predicted_ms=None if run.predicted_ms is None else round(run.predicted_ms, _MS_DIGITS),
        theta=None if run.theta is None or not np.isfinite(run.theta) else round(run.theta, _SCORE_DIGITS),
    )


def _plain(scores: NDArray[np.float32] | None) -> tuple[float | None, ...] | None:
    """JSON has no minus infinity: a block without a score is null."""
    if scores is None:
        return None
    return tuple(round(score, _SCORE_DIGITS) if np.isfinite(score) else None for score in scores.tolist())
