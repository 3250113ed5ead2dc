"""What the demo shows: panels with titles, side by side in a video, one under the other on a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cascadert.jetson.heat import entropy_heat
from cascadert.jetson.images import Image8
from cascadert.jetson.outputs import refined_blocks
from cascadert.jetson.overlay import OverlayOptions, colourise, draw_overlay
from cascadert.runtime.results import Result
from cascadert.spec import CascadeSpec

HEAT_BITS = 3.0
"""Entropy that is drawn yellow: a tie between eight classes."""

_LABEL_OPACITY = 0.8
_BACKGROUND, _INK = (24, 26, 31), (236, 238, 242)
_GAP_PX = 4
_CASING, _LINE = (0, 0, 0), (255, 255, 255)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Panel:
    """A picture, RGB uint8 `[H, W, 3]`, what it shows, and blocks to outline: (top, left, bottom, right) in pixels."""

    title: str
    picture: Image8
    outlined: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Shown:
    """One frame of the video: its number, its panels in reading order, and the exact labels as colours."""

    name: str
    panels: tuple[Panel, ...]
    truth: Image8


def draw_panels(name: str, image: Image8, truth: Image8, result: Result, spec: CascadeSpec) -> Shown:
    """Draw the frame, the fast network's labels, the cascade's with refined blocks outlined, and the entropy."""
    first, grid = spec.stages[0].name, spec.make_grid()
    fast, entropy = result.tensors[f"{first}.labels"][0], result.tensors[f"{first}.entropy"][0]
    boxes = tuple(grid.owned_box(index) for blocks in refined_blocks(result, grid) for index in blocks)
    look = OverlayOptions(opacity=_LABEL_OPACITY)
    painted = [
        draw_overlay(image, labels, spec.classes, grid=grid, options=look) for labels in (fast, result.labels[0])
    ]
    panels = (
        Panel("frame", image),
        Panel("fast network", painted[0]),
        Panel(f"cascade: {len(boxes)} of {grid.size} blocks refined", painted[1], boxes),
        Panel(f"uncertainty: black 0, yellow {HEAT_BITS:g} bits", entropy_heat(entropy, HEAT_BITS)),
    )
    return Shown(name, panels, colourise(truth, spec.classes))


def draw_side_by_side(shown: Shown, panel_width: int) -> Image8:
    """Set the panels of a frame in two columns, each under its title; RGB with even sides, as video needs."""
    cells = [_titled(panel, panel_width) for panel in shown.panels]
    rows = [_beside(cells[i : i + 2]) for i in range(0, len(cells), 2)]
    return _above_each_other(rows)


def draw_contact_sheet(frames: Sequence[Shown], panel_width: int) -> Image8:
    """Set some frames under each other: their panels, then the exact labels."""
    rows = []
    for shown in frames:
        panels = (*shown.panels, Panel("exact labels", shown.truth))
        first = Panel(f"{panels[0].title} {shown.name}", panels[0].picture)
        rows.append(_beside([_titled(p, panel_width) for p in (first, *panels[1:])]))
    return _above_each_other(rows)


def _titled(panel: Panel, width: int) -> Image8:
    """Scale a panel to an even height, outline its blocks (now: scaling would fade thin lines), put its title above."""
    rows, columns = panel.picture.shape[:2]
    height = round(rows * width / columns / 2) * 2
    scaled = Image.fromarray(panel.picture).resize((width, height), Image.Resampling.LANCZOS)
    _outline(scaled, panel.outlined, height / rows, width / columns)
    size = max(11, width // 26)
    strip = Image.new("RGB", (width, round(size * 1.8 / 2) * 2), _BACKGROUND)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(strip).text((size // 2, strip.height // 2), panel.title, _INK, font, "lm")
    return np.concatenate([np.asarray(strip), np.asarray(scaled)])


def _outline(picture: Image.Image, boxes: Sequence[Box], scale_y: float, scale_x: float) -> None:
    draw, line = ImageDraw.Draw(picture), max(1, picture.width // 380)
    for top, left, bottom, right in boxes:
        corners = round(left * scale_x), round(top * scale_y), round(right * scale_x) - 1, round(bottom * scale_y) - 1
        draw.rectangle(corners, outline=_CASING, width=line + 2)
        draw.rectangle([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline=_LINE, width=line)


def _beside(cells: Sequence[Image8]) -> Image8:
    gap = np.full((cells[0].shape[0], _GAP_PX, 3), _BACKGROUND, np.uint8)
    return np.concatenate([part for cell in cells for part in (gap, cell)][1:], axis=1)


def _above_each_other(rows: Sequence[Image8]) -> Image8:
    gap = np.full((_GAP_PX, rows[0].shape[1], 3), _BACKGROUND, np.uint8)
    stacked: NDArray[np.uint8] = np.concatenate([part for row in rows for part in (gap, row)][1:])
    return stacked
