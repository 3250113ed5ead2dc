"""What the demo shows: panels with titles, side by side in a video, one under the other on a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cascadert.jetson.heat import entropy_heat
from cascadert.jetson.images import Image8
from cascadert.jetson.overlay import OverlayOptions, colourise, draw_overlay
from cascadert.jetson.run import refined_blocks
from cascadert.runtime.pipeline import Result
from cascadert.spec import CascadeSpec

HEAT_BITS = 2.0
"""Entropy that is drawn yellow: a tie between four classes."""

_LABEL_OPACITY = 0.8
_BACKGROUND, _INK = (24, 26, 31), (236, 238, 242)
_GAP_PX = 4


@dataclass(frozen=True)
class Panel:
    """A picture, RGB uint8 `[H, W, 3]`, and what it shows."""

    title: str
    picture: Image8


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
    blocks = refined_blocks(result, grid)
    count = sum(map(len, blocks))
    look = OverlayOptions(opacity=_LABEL_OPACITY)
    cascade = draw_overlay(image, result.labels[0], spec.classes, grid=grid, refined=blocks, options=look)
    panels = (
        Panel("frame", image),
        Panel(f"fast network: {first}", draw_overlay(image, fast, spec.classes, grid=grid, options=look)),
        Panel(f"cascade: {count} of {grid.size} blocks refined", cascade),
        Panel(f"uncertainty: black 0, yellow {HEAT_BITS:g} bits", entropy_heat(entropy, HEAT_BITS)),
    )
    return Shown(name, panels, colourise(truth, spec.classes))


def draw_side_by_side(shown: Shown, panel_width: int) -> Image8:
    """Set the panels of a frame in two columns, each under its title; RGB with even sides, as video needs."""
    cells = [_titled(panel.title, panel.picture, panel_width) for panel in shown.panels]
    rows = [_beside(cells[i : i + 2]) for i in range(0, len(cells), 2)]
    return _above_each_other(rows)


def draw_contact_sheet(frames: Sequence[Shown], panel_width: int) -> Image8:
    """Set some frames under each other: their panels, then the exact labels."""
    rows = []
    for shown in frames:
        panels = (*shown.panels, Panel("exact labels", shown.truth))
        first = Panel(f"{panels[0].title} {shown.name}", panels[0].picture)
        rows.append(_beside([_titled(p.title, p.picture, panel_width) for p in (first, *panels[1:])]))
    return _above_each_other(rows)


def _titled(title: str, picture: Image8, width: int) -> Image8:
    height = round(picture.shape[0] * width / picture.shape[1] / 2) * 2
    size = max(11, width // 26)
    strip = Image.new("RGB", (width, round(size * 1.8 / 2) * 2), _BACKGROUND)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(strip).text((size // 2, strip.height // 2), title, _INK, font, "lm")
    scaled = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    return np.concatenate([np.asarray(strip), np.asarray(scaled)])


def _beside(cells: Sequence[Image8]) -> Image8:
    gap = np.full((cells[0].shape[0], _GAP_PX, 3), _BACKGROUND, np.uint8)
    return np.concatenate([part for cell in cells for part in (gap, cell)][1:], axis=1)


def _above_each_other(rows: Sequence[Image8]) -> Image8:
    gap = np.full((_GAP_PX, rows[0].shape[1], 3), _BACKGROUND, np.uint8)
    stacked: NDArray[np.uint8] = np.concatenate([part for row in rows for part in (gap, row)][1:])
    return stacked
