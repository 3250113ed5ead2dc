"""Panels with titles, set in rows on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cascadert.jetson.images import Image8

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


def draw_sheet(rows: Sequence[Sequence[Panel]], panel_width: int) -> Image8:
    """Set panels in rows, each under its title; RGB uint8 with even sides, as video needs.

    The panels of a row are of one shape. A row of fewer panels than the first leaves the rest of its width empty.
    """
    drawn = [_beside([_titled(panel, panel_width) for panel in row]) for row in rows]
    return _above_each_other(drawn)


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
    width = rows[0].shape[1]
    gap = np.full((_GAP_PX, width, 3), _BACKGROUND, np.uint8)
    stacked: NDArray[np.uint8] = np.concatenate([part for row in rows for part in (gap, _widened(row, width))][1:])
    return stacked


def _widened(row: Image8, width: int) -> Image8:
    rest = np.full((row.shape[0], width - row.shape[1], 3), _BACKGROUND, np.uint8)
    return np.concatenate([row, rest], axis=1)
