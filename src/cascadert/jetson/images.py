"""Image files: which of a folder, in which order, and their pixels."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cascadert.errors import SourceError

Image8: TypeAlias = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_COLOUR_MODES = frozenset({"RGB", "RGBA"})
_ONE_CHANNEL_MODES = frozenset({"L", "P"})
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says about itself: `size` is (height, width), upright."""

    path: Path
    size: tuple[int, int]
    colour: bool


def natural_key(path: Path) -> tuple[tuple[bool, int, str], ...]:
    """Sort key under which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)


def list_images(folder: Path, pattern: str | None = None) -> list[Path]:
    """Return the images of a folder in natural order: all of them if they have one suffix, else those of `pattern`.

    Raises:
        SourceError: none, or several suffixes and no pattern that says which to take.
    """
    try:
        files = [path for path in folder.glob(pattern or "*") if path.is_file()]
    except (OSError, ValueError, NotImplementedError) as error:
        raise SourceError(f"{folder}: {pattern or '*'}", str(error), "give a folder and a relative pattern") from error
    images = sorted((path for path in files if path.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not images:
        held = f"holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})"
        found = f"{held} that matches --glob {pattern}" if pattern else held
        raise SourceError(str(folder), found, "give a folder of images")
    kinds = Counter(path.suffix.lower().replace(".jpeg", ".jpg") for path in images)
    if len(kinds) > 1:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in kinds.most_common())
        likely = "*" + images_of(images, kinds.most_common(1)[0][0])[0].suffix
        raise SourceError(str(folder), f"mixes images of several kinds: {counts}", f"say which with --glob '{likely}'")
    return images


def images_of(images: list[Path], suffix: str) -> list[Path]:
    """Return the images of one suffix (.jpg stands for .jpeg too)."""
    return [path for path in images if path.suffix.lower().replace(".jpeg", ".jpg") == suffix]


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except UnidentifiedImageError as error:
        raise SourceError(str(path), "is not an image that Pillow knows", "give another file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceError(str(path), f"cannot be read as an image: {error}", "give an intact file") from error


def read_header(path: Path) -> ImageHeader:
    """Read size and kind of an image without its pixels.

    Raises:
        SourceError: no image, or one of a kind that has no 8-bit RGB form.
    """
    with _opened(path) as image:
        width, height = image.size
        mode, sideways = image.mode, image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    if mode not in _COLOUR_MODES | _ONE_CHANNEL_MODES:
        known = ", ".join(sorted(_COLOUR_MODES | _ONE_CHANNEL_MODES))
        raise SourceError(str(path), f"has pixels of mode {mode}", f"convert it to one of {known}")
    return ImageHeader(path, (width, height) if sideways else (height, width), mode in _COLOUR_MODES)


def read_rgb(path: Path) -> Image8:
    """Decode an image, upright, to RGB uint8 `[h, w, 3]`; an alpha channel is dropped.

    Raises:
        SourceError: a file that is broken.
    """
    with _opened(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
