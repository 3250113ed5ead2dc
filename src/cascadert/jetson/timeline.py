"""A picture of what ran when: some frames of each run, one row a stage, one run above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascadert.errors import import_extra
from cascadert.jetson.sinks import write_atomically
from cascadert.runtime.profiling.passage import Passage, Traced
from cascadert.runtime.results import Span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0b6e4f", "#c2541d", "#33658a", "#8e6c8a", "#b8860b", "#7a828e")
"""Of frames, in turns: what belongs to one frame has one colour."""
_LABELLED, _WITH_N = 0.02, 0.07  # of the width: narrower bars have no text, or no n
_FIRST = 2  # frames that fill the pipeline


def save_timeline(path: Path, passages: Mapping[str, Passage], rows: Sequence[str], frames: int = 6) -> None:
    """Write a picture of frames of each passage, from where the pipeline is full.

    Args:
        path: the picture; its suffix tells the kind.
        passages: what to show, by name, from the top.
        rows: names of spans: stages, copies.
        frames: how many of the first passage to show; the others get the same time.

    Raises:
        MissingExtra: matplotlib is not installed.
        SourceError: the picture cannot be written.
    """
    import_extra("matplotlib", "report", "to draw a timeline")
    figure = draw_timeline(passages, rows, frames)
    write_atomically(path, lambda scratch: figure.savefig(scratch, dpi=150))


def draw_timeline(passages: Mapping[str, Passage], rows: Sequence[str], frames: int) -> Figure:
    """Draw it; see `save_timeline`."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(9, 0.7 + len(passages) * (0.55 + 0.36 * len(rows))), layout="constrained")
    width_ms = frames * next(iter(passages.values())).period_ms
    all_axes = figure.subplots(len(passages), sharex=True, squeeze=False)[:, 0]
    for axes, (name, passage) in zip(all_axes, passages.items(), strict=True):
        _draw(axes, passage, rows, width_ms)
        axes.set_title(f"{name}: {passage.period_ms:.1f} ms per frame", loc="left", fontsize=10)
    all_axes[-1].set_xlabel("ms; numbers and colours are frames")
    return figure


def _draw(axes: Any, passage: Passage, rows: Sequence[str], width_ms: float) -> None:
    shown = passage.frames[min(_FIRST, len(passage.frames) - 1) :]
    origin_ms = shown[0].start_ms
    for frame in passage.frames:
        for span in frame.spans:
            if span.name in rows and span.end_ms > origin_ms and span.start_ms < origin_ms + width_ms:
                _draw_span(axes, frame, span, rows.index(span.name), origin_ms, width_ms)
    axes.set_xlim(0, width_ms)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)


def _draw_span(axes: Any, frame: Traced, span: Span, row: int, origin_ms: float, width_ms: float) -> None:
    start, end = max(span.start_ms - origin_ms, 0.0), min(span.end_ms - origin_ms, width_ms)
    axes.barh(row, end - start, 0.72, start, color=_COLOURS[frame.number % len(_COLOURS)], edgecolor="white")
    if end - start > _LABELLED * width_ms:
        blocks = "" if span.n is None else f" (n = {span.n})"
        text = f"{frame.number}{blocks}" if end - start > _WITH_N * width_ms else str(frame.number)
        axes.text((start + end) / 2, row, text, color="white", fontsize=8, ha="center", va="center", clip_on=True)
