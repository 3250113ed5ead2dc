"""Which frames of an evaluation are drawn: all of them into a folder, the worst for a page."""

from __future__ import annotations

from dataclasses import dataclass

from cascadert.calibration.evaluation import EvaluatedFrame
from cascadert.jetson.evaluation_sheet import SheetLook, draw_evaluated
from cascadert.jetson.images import Image8
from cascadert.jetson.sinks import Sink
from cascadert.spec import CascadeSpec

_IN_FOLDER = SheetLook(columns=4, panel_width=480)
_ON_PAGE = SheetLook(columns=2, panel_width=520)


@dataclass(frozen=True)
class Sheet:
    """A frame that was drawn, and how many more pixels the block oracle has right there than the cascade."""

    name: str
    missed_pixels: int
    picture: Image8


class Gallery:
    """Takes frames as they are evaluated; no more than the worst are held.

    Args:
        spec: the cascade.
        most: how many of the worst frames to keep.
        folder: where every frame goes, if anywhere.
    """

    def __init__(self, spec: CascadeSpec, most: int, folder: Sink | None) -> None:
        self._spec, self._most, self._folder = spec, most, folder
        self._kept: list[EvaluatedFrame] = []

    def show(self, frame: EvaluatedFrame) -> None:
        """Take a frame."""
        self._kept.append(frame)
        self._kept.sort(key=lambda kept: kept.missed_pixels, reverse=True)
        del self._kept[self._most :]
        if self._folder is not None:
            self._folder.write(frame.sample.name, self._draw(frame, _IN_FOLDER))

    def sheets(self) -> list[Sheet]:
        """Draw the worst frames, the worst first."""
        return [Sheet(f.sample.name, f.missed_pixels, self._draw(f, _ON_PAGE)) for f in self._kept]

    def _draw(self, frame: EvaluatedFrame, look: SheetLook) -> Image8:
        return draw_evaluated(frame, self._spec.classes, self._spec.make_grid(), look)
