"""The demo's video: every frame through the cascade, drawn and compared with its exact labels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.jetson.demo.folder import DemoFolder
from cascadert.jetson.demo.measure import infer, refined
from cascadert.jetson.demo.pictures import Shown, draw_contact_sheet, draw_panels, draw_side_by_side
from cascadert.jetson.sinks import GifFile, VideoFile
from cascadert.runtime.pipeline import Pipeline
from cascadert.scenes import FRAMES_PER_S, Scene
from cascadert.spec import ThresholdPolicy

_VIDEO_PANEL_PX, _GIF_PANEL_PX, _SHEET_PANEL_PX = 768, 320, 384
_SHEET_ROWS, _GIF_EVERY = 6, 3


@dataclass(frozen=True)
class VideoRun:
    """The cascade on the whole video, under the specification's own decision."""

    frames: int
    theta: float
    fast_mean_iou: float
    cascade_mean_iou: float
    mean_n: float
    median_ms: float


def run_video(
    folder: DemoFolder,
    pipeline: Pipeline,
    scenes: Mapping[str, Scene],
    theta: float,
    progress: Callable[[int, int], None],
) -> VideoRun:
    """Run and draw every frame; leaves `demo.mp4`, a smaller `demo.gif` and `contact_sheet.png`."""
    spec = pipeline.manifest.spec
    fast, cascade = ConfusionMatrix(spec.num_classes), ConfusionMatrix(spec.num_classes)
    counts: list[int] = []
    times: list[float] = []
    sheet: list[Shown] = []
    picked = set(spread(len(scenes), _SHEET_ROWS))
    with ExitStack() as stack:
        film = stack.enter_context(VideoFile(folder.claim("demo.mp4"), FRAMES_PER_S, replace=False))
        gif = stack.enter_context(GifFile(folder.claim("demo.gif"), FRAMES_PER_S / _GIF_EVERY, replace=False))
        for index, (name, scene) in enumerate(scenes.items()):
            result = infer(pipeline, scene.image, ThresholdPolicy(theta=theta))
            fast.add(result.tensors[f"{spec.stages[0].name}.labels"][0], scene.labels)
            cascade.add(result.labels[0], scene.labels)
            counts.append(refined(result))
            times.append(result.latency_ms)
            shown = draw_panels(name, scene.image, scene.labels, result, spec)
            film.write(name, draw_side_by_side(shown, _VIDEO_PANEL_PX))
            if index % _GIF_EVERY == 0:
                gif.write(name, draw_side_by_side(shown, _GIF_PANEL_PX))
            if index in picked:
                sheet.append(shown)
            progress(index + 1, len(scenes))
    _write_sheet(folder.claim("contact_sheet.png"), sheet)
    n, latency_ms = statistics.mean(counts), statistics.median(times)
    return VideoRun(len(scenes), theta, fast.mean_iou(), cascade.mean_iou(), n, latency_ms)


def spread(count: int, wanted: int) -> Sequence[int]:
    """Pick up to `wanted` numbers below `count`, evenly."""
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)] if count > wanted else range(count)


def _write_sheet(path: Path, sheet: Sequence[Shown]) -> None:
    Image.fromarray(draw_contact_sheet(sheet, _SHEET_PANEL_PX)).save(path, optimize=True)
