"""Labels on disk: PNG images of class ids, beside the frames they belong to by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cascadert.classes import IGNORE_LABEL
from cascadert.errors import SourceError

_MODES = ("L", "P")


def read_labels(folder: Path, name: str, size: tuple[int, int], num_classes: int) -> NDArray[np.uint8]:
    """Read the labels of one picture, uint8 `[h, w]`: class ids, 255 where nothing is known.

    Args:
        folder: where they are.
        name: the picture's name: its labels are `<name>.png`.
        size: height and width of the picture itself, before it is fitted to a cascade.
        num_classes: how many classes there are.

    Raises:
        SourceError: no such file, not one channel of 8 bits, another size than the picture's, or an unknown class.
    """
    path = folder / f"{name}.png"
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.array(image)
    except FileNotFoundError as error:
        raise SourceError(str(path), "does not exist", "every frame needs labels of its name") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise SourceError(str(path), f"cannot be read as an image: {error}", "give an intact PNG file") from error
    if mode not in _MODES:
        raise SourceError(str(path), f"has pixels of mode {mode}", "labels are class ids in one channel of 8 bits")
    if labels.shape != size:
        (height, width), (rows, columns) = size, labels.shape
        found = f"is {columns}x{rows} pixels where its image has {width}x{height} (width x height)"
        raise SourceError(str(path), found, "give labels of the image's own size; they are fitted as it is")
    unknown = labels[(labels >= num_classes) & (labels != IGNORE_LABEL)]
    if unknown.size:
        found = f"holds label {unknown[0]} where there are {num_classes} classes"
        raise SourceError(str(path), found, "check the class set (trainIds, not ids)")
    return labels
