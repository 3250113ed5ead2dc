"""What a run did: per frame and in all, as values and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest
from cascadert.classes import IGNORE_LABEL
from cascadert.jetson.sources import Frame
from cascadert.runtime.results import Result
from cascadert.spec import SelectPolicy

STATS_SCHEMA = "cascadert-run-1"
_SCORE_DIGITS = 4


@dataclass(frozen=True)
class StageStatistics:
    """One stage on one frame. `n` and `scores` (sorted, in the manifest's unit) are the decision before it."""

    stage: str
    milliseconds: float
    n: int | None
    scores: tuple[float | None, ...] | None


@dataclass(frozen=True)
class FrameStatistics:
    """One frame (of all cameras). `latency_ms` is from handing it over until its labels are on the host."""

    name: str
    timestamp_s: float | None
    latency_ms: float
    stages: tuple[StageStatistics, ...]


@dataclass(frozen=True)
class RunSummary:
    """A whole run.

    `fps` is what the cascade alone would reach (1000 / mean latency); `wall_fps` includes reading and writing. Class
    shares are parts of all pixels but letterbox margins.
    """

    name: str
    blocks: int
    policies: Mapping[str, SelectPolicy]
    frames: tuple[FrameStatistics, ...]
    mean_ms: float
    median_ms: float
    mean_n: Mapping[str, float]
    stage_ms: Mapping[str, float]
    fps: float
    wall_fps: float
    class_shares: Mapping[str, float]

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        policies = {stage: policy.model_dump() for stage, policy in self.policies.items()}
        values = {name: value for name, value in vars(self).items() if name not in ("frames", "policies")}
        frames = [asdict(frame) for frame in self.frames]
        return {"schema": STATS_SCHEMA, **values, "policies": policies, "frame_count": len(frames), "frames": frames}

    def to_json(self) -> str:
        """Return everything as JSON, a line for each frame."""
        values = self.to_dict()
        frames = ",\n".join(json.dumps(frame, allow_nan=False) for frame in map(asdict, self.frames))
        head = json.dumps({**values, "frames": []}, indent=1, allow_nan=False)
        return head.removesuffix("[]\n}") + f"[\n{frames}\n]\n}}\n"


def frame_statistics(frame: Frame, result: Result) -> FrameStatistics:
    """Keep what a frame's statistics need of its result."""
    stages = tuple(
        StageStatistics(run.stage, round(run.milliseconds, 3), run.n, _plain(run.scores)) for run in result.runs
    )
    return FrameStatistics(frame.name, frame.timestamp_s, round(result.latency_ms, 3), stages)


def _plain(scores: NDArray[np.float32] | None) -> tuple[float | None, ...] | None:
    """JSON has no minus infinity: a block without a score is null."""
    if scores is None:
        return None
    return tuple(round(score, _SCORE_DIGITS) if np.isfinite(score) else None for score in scores.tolist())


def summarise(
    frames: Sequence[FrameStatistics],
    pixels: NDArray[np.int64],
    manifest: BundleManifest,
    policies: Mapping[str, SelectPolicy],
    wall_s: float,
) -> RunSummary:
    """Sum up a run of at least one frame; `pixels` counts the pixels of each label 0..255."""
    latencies = [frame.latency_ms for frame in frames]
    names = manifest.spec.classes.names
    labelled = max(1, int(pixels[:IGNORE_LABEL].sum()))
    mean_ms = statistics.fmean(latencies)
    return RunSummary(
        name=manifest.spec.name,
        blocks=manifest.spec.make_grid().size * manifest.spec.frame.cameras,
        policies=dict(policies),
        frames=tuple(frames),
        mean_ms=round(mean_ms, 3),
        median_ms=round(statistics.median(latencies), 3),
        mean_n={stage: _mean_n(frames, stage) for stage in policies},
        stage_ms={entry.name: _mean_stage_ms(frames, entry.name) for entry in manifest.stages},
        fps=round(1e3 / mean_ms, 3),
        wall_fps=round(len(frames) / wall_s, 3),
        class_shares={name: round(int(pixels[i]) / labelled, 6) for i, name in enumerate(names)},
    )


def _mean_n(frames: Sequence[FrameStatistics], stage: str) -> float:
    counts = [run.n for frame in frames for run in frame.stages if run.stage == stage and run.n is not None]
    return round(statistics.fmean(counts), 4) if counts else 0.0


def _mean_stage_ms(frames: Sequence[FrameStatistics], stage: str) -> float:
    """Mean over all frames; a frame on which the stage was skipped counts with the little that skipping takes."""
    times = [run.milliseconds for frame in frames for run in frame.stages if run.stage == stage]
    return round(statistics.fmean(times), 3) if times else 0.0
