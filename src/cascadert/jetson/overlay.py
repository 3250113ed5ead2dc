"""Pictures of what a cascade did: labels over the frame, refined blocks outlined, one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cascadert.classes import IGNORE_LABEL, ClassSet
from cascadert.geometry import Grid
from cascadert.jetson.images import Image8

_OUTLINES = ((255, 255, 255), (255, 214, 10), (90, 240, 255))  # one per decision: neither class set uses them
_CASING = (0, 0, 0)
_STRIP_OPACITY = 0.62


@dataclass(frozen=True)
class OverlayOptions:
    """How an overlay looks. `opacity` of the class colours; `legend`: name the classes that appear, at the bottom."""

    opacity: float = 0.5
    legend: bool = False


def colourise(labels: Image8, classes: ClassSet) -> Image8:
    """Map labels uint8 `[H, W]` to their colours, RGB uint8 `[H, W, 3]`; ignored pixels (255) are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes.palette)] = classes.palette
    colours: Image8 = table[labels]
    return colours


def draw_overlay(
    image: Image8,
    labels: Image8,
    classes: ClassSet,
    *,
    grid: Grid,
    refined: Sequence[Sequence[int]] = (),
    caption: str = "",
    options: OverlayOptions = OverlayOptions(),
) -> Image8:
    """Draw labels uint8 `[H, W]` over their frame RGB uint8 `[H, W, 3]`; returns a picture of the same size.

    Args:
        image: the frame.
        labels: class of each pixel; 255 leaves the pixel as it is.
        classes: their names and colours.
        grid: where the blocks are.
        refined: for each decision, the blocks of this camera that it refined, by their index in the grid.
        caption: a line of text for the top; its start is cut where it is too long.
        options: opacity and legend.
    """
    picture = Image.fromarray(_blend(image, labels, classes, options.opacity))
    for depth, blocks in enumerate(refined):
        _outline(picture, grid, blocks, depth)
    if caption:
        picture = _draw_caption(picture, caption)
    if options.legend:
        picture = _draw_legend(picture, labels, classes)
    return np.asarray(picture)


def _blend(image: Image8, labels: Image8, classes: ClassSet, opacity: float) -> Image8:
    """Mix in 16-bit integers: weights are 256ths, so 0 and 1 give the very frame and the very colours."""
    seen = labels < len(classes.palette)
    weight = round(opacity * 256)
    frame, colours = image.astype(np.uint16), colourise(labels, classes).astype(np.uint16)
    mixed = (frame * (256 - weight) + colours * weight + 128) >> 8
    return np.where(seen[..., np.newaxis], mixed.astype(np.uint8), image)


def _outline(picture: Image.Image, grid: Grid, blocks: Sequence[int], depth: int) -> None:
    """Outline the pixels that each block owns, inside its borders so that neighbours do not hide each other.

    Later decisions pick among blocks of earlier ones: their outline lies inside the earlier one.
    """
    draw = ImageDraw.Draw(picture)
    line = max(1, round(min(picture.size) / 400))
    casing = max(1, line // 2)
    width = line + 2 * casing
    for index in blocks:
        top, left, bottom, right = grid.owned_box(index)
        for inset, colour, pen in ((0, _CASING, width), (casing, _OUTLINES[depth % len(_OUTLINES)], line)):
            inset += depth * width
            box = left + inset, top + inset, right - 1 - inset, bottom - 1 - inset
            if box[2] >= box[0] and box[3] >= box[1]:
                draw.rectangle(box, outline=colour, width=pen)


def _font(picture: Image.Image) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(11, round(min(picture.size) / 34)))


def _darken(picture: Image.Image, box: tuple[int, int, int, int]) -> None:
    strip = picture.crop(box)
    picture.paste(Image.blend(strip, Image.new("RGB", strip.size), _STRIP_OPACITY), box)


def _draw_caption(picture: Image.Image, caption: str) -> Image.Image:
    font, draw = _font(picture), ImageDraw.Draw(picture)
    margin = font.getbbox("x")[3] // 2
    text = " ".join(caption.splitlines())  # file names may hold line breaks
    while len(text) > 1 and draw.textlength(text, font=font) > picture.width - 2 * margin:
        text = "…" + text[2:]
    height = round(font.getbbox("Ag|")[3] + 2 * margin * 0.7)
    _darken(picture, (0, 0, picture.width, min(height, picture.height)))
    draw.text((margin, height // 2), text, fill=(255, 255, 255), font=font, anchor="lm")
    return picture


def _draw_legend(picture: Image.Image, labels: Image8, classes: ClassSet) -> Image.Image:
    """Name the classes that appear, in as many rows as they need."""
    font, draw = _font(picture), ImageDraw.Draw(picture)
    row_height = round(font.getbbox("Ag|")[3] * 1.3)
    swatch, gap = row_height * 2 // 3, row_height // 3
    rows: list[list[int]] = [[]]
    used = gap
    for label in np.unique(labels[labels != IGNORE_LABEL]).tolist():
        width = round(swatch + 2.5 * gap + draw.textlength(classes.names[label], font=font))
        if used + width > picture.width and rows[-1]:
            rows.append([])
            used = gap
        rows[-1].append(label)
        used += width
    y = picture.height - len(rows) * row_height - gap
    _darken(picture, (0, max(0, y), picture.width, picture.height))
    for row in rows:
        x = float(gap)
        for label in row:
            top = y + gap // 2 + (row_height - swatch) // 2
            draw.rectangle((x, top, x + swatch, top + swatch), fill=classes.palette[label])
            draw.text((x + swatch + gap / 2, top + swatch / 2), classes.names[label], (255, 255, 255), font, "lm")
            x += swatch + 2.5 * gap + draw.textlength(classes.names[label], font=font)
        y += row_height
    return picture
