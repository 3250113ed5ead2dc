"""What a run writes for each frame: labels, and overlays with their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cascadert.bundle import BundleManifest
from cascadert.errors import InvalidRequest
from cascadert.geometry import Grid
from cascadert.jetson.images import Image8
from cascadert.jetson.overlay import OverlayOptions, draw_overlay
from cascadert.jetson.policies import show_policy
from cascadert.jetson.sinks import ImageFolder, Sink, claim_file, open_overlay
from cascadert.jetson.sources import Frame
from cascadert.runtime.results import Result, StageRun
from cascadert.spec import LatencyPolicy, SelectPolicy


@dataclass(frozen=True)
class OutputOptions:
    """What to write.

    Attributes:
        overlay: a video, GIF, image or folder.
        labels: a folder.
        stats: a JSON file.
        trace: a JSON file for ui.perfetto.dev.
        replace: whether to replace what is there.
        look: of overlays.
    """

    overlay: Path | None = None
    labels: Path | None = None
    stats: Path | None = None
    trace: Path | None = None
    replace: bool = False
    look: OverlayOptions = field(default_factory=OverlayOptions)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Everything that is written."""
        return tuple(path for path in (self.overlay, self.labels, self.stats, self.trace) if path is not None)


def refuse_overwriting(sources: Sequence[Path], options: OutputOptions) -> None:
    """Refuse outputs in the place of sources: labels have the names of their frames, and `replace` replaces.

    Raises:
        InvalidRequest: an output that is a source, or lies around or inside one.
    """
    for output in options.paths:
        if output.resolve() in {source.resolve() for source in sources}:
            raise InvalidRequest(str(output), "is both a source and an output", "choose another output")
    folders = [options.labels, options.overlay if options.overlay and not options.overlay.suffix else None]
    for folder in folders:
        if folder is not None and any(_writes_beside(folder, source) for source in sources):
            raise InvalidRequest(str(folder), "holds the frames of a source", "choose another output")


def _writes_beside(output: Path, source: Path) -> bool:
    """Whether a folder of outputs would lie around or inside a source, where names could meet."""
    folder, origin = output.resolve(), source.resolve()
    return folder == origin.parent or folder in origin.parents or origin in folder.parents


class Outputs:
    """The sinks of a run, opened into `stack`."""

    def __init__(
        self, stack: ExitStack, options: OutputOptions, manifest: BundleManifest, fps: float | None, frames: int | None
    ) -> None:
        self._spec, self._look = manifest.spec, options.look
        self._grid = manifest.spec.make_grid()
        cameras = manifest.spec.frame.cameras
        for file in filter(None, (options.stats, options.trace)):
            claim_file(file, replace=options.replace)
        self._labels: list[Sink] = []
        if options.labels is not None:
            folders = [options.labels] if cameras == 1 else [options.labels / f"camera{i}" for i in range(cameras)]
            self._labels = [stack.enter_context(ImageFolder(f, ".png", replace=options.replace)) for f in folders]
        self._overlay: Sink | None = None
        if options.overlay is not None:
            self._overlay = stack.enter_context(open_overlay(options.overlay, fps, frames, replace=options.replace))

    def write(self, frames: Sequence[Frame], result: Result, policies: Mapping[str, SelectPolicy]) -> None:
        """Write what was asked for of one frame of every camera."""
        for sink, frame, labels in zip(self._labels, frames, result.labels, strict=False):
            sink.write(frame.name, frame.fit.invert(labels))
        if self._overlay is not None:
            pictures = [self._draw(i, frame, result, policies) for i, frame in enumerate(frames)]
            self._overlay.write(frames[0].name, np.concatenate(pictures, axis=1))

    def _draw(self, camera: int, frame: Frame, result: Result, policies: Mapping[str, SelectPolicy]) -> Image8:
        refined = refined_blocks(result, self._grid, camera)
        caption = make_caption(frame.name, result, refined, self._grid, policies)
        return draw_overlay(
            frame.rgb, frame.fit.ignore_margins(result.labels[camera]), self._spec.classes,
            grid=self._grid, refined=refined, caption=caption, options=self._look,
        )  # fmt: skip


def refined_blocks(result: Result, grid: Grid, camera: int = 0) -> list[list[int]]:
    """Return, for each decision on a frame, which blocks of one camera were refined (index into its grid)."""
    counts = [run.n or 0 if run.outcome == "ran" else 0 for run in result.runs]
    orders = [run.order for run in result.runs]
    picked = [order[:n].tolist() for order, n in zip(orders, counts, strict=True) if order is not None]
    return [[index % grid.size for index in blocks if index // grid.size == camera] for blocks in picked]


def make_caption(
    name: str, result: Result, refined: Sequence[Sequence[int]], grid: Grid, policies: Mapping[str, SelectPolicy]
) -> str:
    """Return one line on a frame: its name, blocks refined by each stage and why, and its latency."""
    decided = [run for run in result.runs if run.order is not None]
    parts = [name]
    for run, blocks in zip(decided, refined, strict=True):
        did = f"{len(blocks)} of {grid.size} blocks" if grid.size > 1 else run.outcome
        parts.append(f"{run.stage}: {did}, {_show_decision(run, policies[run.stage])}")
    return "  ·  ".join([*parts, f"{result.latency_ms:.1f} ms"])


def _show_decision(run: StageRun, policy: SelectPolicy) -> str:
    """Return a policy and, where it follows the clock, what it came to on this frame."""
    found = [show_policy(policy)]
    if run.theta is not None:
        found.append(f"theta {run.theta:.3g}")
    if isinstance(policy, LatencyPolicy) and run.predicted_ms is not None:
        found.append(f"{run.predicted_ms:.1f} ms predicted")
    return ", ".join(found)
