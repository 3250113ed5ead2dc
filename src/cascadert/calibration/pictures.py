"""Pictures of how a precision differs on one frame: blocks it refines or not, and pixels it labels otherwise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cascadert.calibration.exhibits import Exhibit
from cascadert.classes import IGNORE_LABEL
from cascadert.geometry import Grid

Image8 = NDArray[np.uint8]
Colour = tuple[int, int, int]

KEPT: Colour = (255, 255, 255)
LOST: Colour = (255, 59, 72)
GAINED: Colour = (204, 130, 255)
BETTER: Colour = (32, 160, 90)
WORSE: Colour = (225, 40, 50)
OTHER: Colour = (60, 120, 220)
_CASING: Colour = (0, 0, 0)
_WIDTH_PX = 720
_PALE = 0.35


def draw_selection(exhibit: Exhibit, grid: Grid) -> Image8:
    """Outline the blocks that both refine (white), only fp32 does (red), and only the row does (violet)."""
    cameras = []
    for camera, image in enumerate(exhibit.image):
        picture, scale = _scaled(image, Image.Resampling.LANCZOS)
        for blocks, colour in ((exhibit.kept, KEPT), (exhibit.lost, LOST), (exhibit.gained, GAINED)):
            for index in blocks:
                if index // grid.size == camera:
                    _outline(picture, grid.owned_box(index % grid.size), scale, colour)
        cameras.append(np.asarray(picture))
    return np.concatenate(cameras)


def draw_difference(exhibit: Exhibit) -> Image8:
    """Paint the pixels whose labels differ over a pale frame.

    With labels: green where only the row is right, red where only fp32 is. Blue: neither is, or nothing is known.
    """
    pale = (_PALE * exhibit.image.mean(axis=-1, keepdims=True) + (1 - _PALE) * 255).astype(np.uint8)
    painted = np.repeat(pale, 3, axis=-1)
    for where, colour in _differences(exhibit):
        painted[where] = colour
    return np.concatenate([np.asarray(_scaled(image, Image.Resampling.NEAREST)[0]) for image in painted])


def _differences(exhibit: Exhibit) -> list[tuple[NDArray[np.bool_], Colour]]:
    differ = exhibit.reference != exhibit.labels
    if exhibit.truth is None:
        return [(differ, OTHER)]
    known = differ & (exhibit.truth != IGNORE_LABEL)
    better, worse = known & (exhibit.labels == exhibit.truth), known & (exhibit.reference == exhibit.truth)
    return [(differ, OTHER), (better, BETTER), (worse, WORSE)]


def _scaled(image: Image8, resample: Image.Resampling) -> tuple[Image.Image, float]:
    """Scale a picture to the page's width: lines that are drawn after it are of one width everywhere."""
    height, width = image.shape[:2]
    scale = _WIDTH_PX / width
    return Image.fromarray(image).resize((_WIDTH_PX, round(height * scale)), resample), scale


def _outline(picture: Image.Image, box: tuple[int, int, int, int], scale: float, colour: Colour) -> None:
    draw = ImageDraw.Draw(picture)
    top, left, bottom, right = (round(edge * scale) for edge in box)
    line_px = 4 if colour == KEPT else 6
    for inset, line, pen in ((1, _CASING, line_px + 2), (2, colour, line_px)):
        draw.rectangle((left + inset, top + inset, right - 1 - inset, bottom - 1 - inset), outline=line, width=pen)
