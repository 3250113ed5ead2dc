"""Traces for chrome://tracing and ui.perfetto.dev: one process a run, one row a stream.

The format is the Trace Event Format of Chromium: complete events ("X") in microseconds, arrows as pairs of flow events
("s" and "f"), names as metadata ("M").
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cascadert.runtime.profiling.passage import HOST, Traced
from cascadert.runtime.results import Span

Event = dict[str, Any]

_CATEGORY = "cascadert"
_WITHIN_MS = 0.001


def trace_json(runs: Mapping[str, Sequence[Traced]], scored_by: Mapping[str, str]) -> str:
    """Return a trace as JSON.

    Args:
        runs: frames of each run by its name, as in "serial" and "overlapped".
        scored_by: for each stage that decides, the stage whose scores it reads: arrows go from there.
    """
    events = [event for i, name in enumerate(runs, 1) for event in trace_events(i, name, runs[name], scored_by)]
    return json.dumps({"displayTimeUnit": "ms", "traceEvents": events})


def trace_events(pid: int, name: str, frames: Sequence[Traced], scored_by: Mapping[str, str]) -> list[Event]:
    """Return the events of one run: names of rows first, then everything in the order of time, which begins at 0."""
    rows = {stream: tid for tid, stream in enumerate(streams_of(frames), 1)}
    events = [event for frame in frames for event in _frame_events(pid, rows, frame, scored_by)]
    origin = min((event["ts"] for event in events), default=0.0)
    shifted = ({**event, "ts": round(event["ts"] - origin, 3)} for event in events)
    return [*_names(pid, name, rows), *sorted(shifted, key=lambda event: event["ts"])]


def streams_of(frames: Iterable[Traced]) -> list[str]:
    """Return streams in the order in which a frame passes through them; the host is the first."""
    first: dict[str, float] = {}
    for frame in frames:
        for span in sorted(frame.spans, key=lambda span: span.start_ms):
            first.setdefault(span.stream, span.start_ms)
    return sorted(first, key=lambda stream: (stream != HOST, first[stream]))


def _names(pid: int, name: str, rows: Mapping[str, int]) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "args": {"sort_index": pid}}
    for stream, tid in rows.items():
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": stream}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}}


def _frame_events(pid: int, rows: Mapping[str, int], frame: Traced, scored_by: Mapping[str, str]) -> Iterator[Event]:
    for span in frame.spans:
        arguments: Event = {"frame": frame.number} | ({} if span.n is None else {"n": span.n})
        if span.dropped:
            arguments["dropped"] = True
        times = {"ts": _us(span.start_ms), "dur": _us(span.milliseconds)}
        yield {"ph": "X", "name": span.name, "cat": _CATEGORY, "pid": pid, "tid": rows[span.stream], **times,
               "args": arguments}  # fmt: skip
    for i, (stage, producer) in enumerate(scored_by.items()):
        if {stage, producer} <= frame.by_name.keys() and _waited(frame.by_name[stage], frame.by_name[producer]):
            number = frame.number * len(scored_by) + i  # the same at both ends
            yield from _arrow(pid, rows, number, frame.by_name[producer], frame.by_name[stage])


def _waited(stage: Span, producer: Span) -> bool:
    """Whether a stage began after its scores were there: not where it was queued before it was decided about."""
    return stage.start_ms >= producer.end_ms


def _arrow(pid: int, rows: Mapping[str, int], number: int, source: Span, target: Span) -> Iterator[Event]:
    """Yield an arrow from the end of a slice to the beginning of another; it must leave while the slice is there."""
    common = {"name": "scores", "cat": _CATEGORY, "pid": pid, "id": f"{pid}.{number}"}
    leaves_ms = source.end_ms - min(_WITHIN_MS, source.milliseconds / 2)
    yield {"ph": "s", **common, "tid": rows[source.stream], "ts": _us(leaves_ms)}
    yield {"ph": "f", **common, "tid": rows[target.stream], "ts": _us(target.start_ms), "bp": "e"}


def _us(milliseconds: float) -> float:
    return round(milliseconds * 1e3, 3)
