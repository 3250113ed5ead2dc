"""One pass of frames through a pipeline, and where its time went."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from cascadert.errors import InvalidRequest
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Planes, Policies, Result, Span

HOST = "host"
LEAST_FRAMES = 3


@dataclass(frozen=True)
class Traced:
    """What ran for one frame, and when."""

    number: int
    spans: tuple[Span, ...]
    latency_ms: float

    @staticmethod
    def of(result: Result) -> Traced:
        """Keep what a result says of time."""
        return Traced(result.ticket.number, result.spans, result.latency_ms)

    @cached_property
    def by_name(self) -> Mapping[str, Span]:
        """Each span under its name."""
        return {span.name: span for span in self.spans}

    @property
    def start_ms(self) -> float:
        """When its first piece of work began; decisions that need no scores may have been made long before."""
        return min(span.start_ms for span in self.spans if span.stream != HOST)

    @property
    def end_ms(self) -> float:
        """When its last piece of work ended."""
        return max(span.end_ms for span in self.spans)


@dataclass(frozen=True)
class Passage:
    """Frames that went through a pipeline one after the other, without a pause from outside.

    All figures are of the window from the end of the first frame to the end of the last: the pipeline is full there.
    They are per frame, in milliseconds.
    """

    frames: tuple[Traced, ...]

    @cached_property
    def window(self) -> tuple[float, float]:
        """Where figures are taken."""
        return self.frames[0].end_ms, max(frame.end_ms for frame in self.frames)

    @property
    def period_ms(self) -> float:
        """Time from one result to the next, in the mean."""
        start, end = self.window
        return (end - start) / (len(self.frames) - 1)

    def busy_ms(self) -> dict[str, float]:
        """Return how long each stream was at work."""
        return self._clipped((span.stream, span) for frame in self.frames for span in frame.spans)

    def span_ms(self) -> dict[str, float]:
        """Return how long each kind of work took: stages by their names, "upload", "download", decisions."""
        return self._clipped((span.name, span) for frame in self.frames for span in frame.spans)

    def mean_ms(self, name: str) -> float:
        """Return how long one kind of work took on those frames that had it, inside the window or not; 0: none had."""
        found = [frame.by_name[name].milliseconds for frame in self.frames if name in frame.by_name]
        return sum(found) / len(found) if found else 0.0

    def overlap_ratio(self, stages: Iterable[str]) -> float:
        """Return the sum of stage spans over wall time: 1 is one stage at any time, 2 is two."""
        spans = self.span_ms()
        return sum(spans.get(stage, 0.0) for stage in stages) / self.period_ms

    def mean_n(self, stage: str) -> float:
        """Return the mean number of blocks that a stage refined."""
        found = (frame.by_name.get(stage) for frame in self.frames)
        return sum(span.n or 0 for span in found if span is not None and not span.dropped) / len(self.frames)

    def _clipped(self, named: Iterable[tuple[str, Span]]) -> dict[str, float]:
        start, end = self.window
        sums: dict[str, float] = defaultdict(float)
        for name, span in named:
            sums[name] += max(0.0, min(span.end_ms, end) - max(span.start_ms, start))
        return {name: total / (len(self.frames) - 1) for name, total in sums.items()}


def run_through(pipeline: Pipeline, frames: Sequence[Planes], policies: Policies) -> Passage:
    """Send frames through a pipeline as fast as it takes them.

    Raises:
        InvalidRequest: fewer than 3 frames: there would be no time at which the pipeline is full.
        ExecutionError: a stage failed.
    """
    if len(frames) < LEAST_FRAMES:
        raise InvalidRequest("a passage", f"has {len(frames)} frame(s)", f"give {LEAST_FRAMES} or more")
    return Passage(tuple(Traced.of(result) for result in pipeline.stream(frames, policies)))
