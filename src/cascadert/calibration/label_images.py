"""Labels on disk: PNG images of class ids, beside the frames they belong to by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cascadert.classes import IGNORE_LABEL
from cascadert.errors import SourceError
from cascadert.spec import CascadeSpec

_MODES = ("L", "P")


def read_labels(folder: Path, frame: str, spec: CascadeSpec) -> NDArray[np.uint8]:
    """Read the labels of one frame, uint8 `[H, W]`: class ids, 255 where nothing is known.

    Args:
        folder: where they are.
        frame: the frame's name: its labels are `<frame>.png`.
        spec: size of frames and number of classes.

    Raises:
        SourceError: no such file, not one channel of 8 bits, another size than the frame's, or an unknown class.
    """
    path = folder / f"{frame}.png"
    try:
        with Image.open(path) as image:
            mode, labels = image.mode, np.array(image)
    except FileNotFoundError as error:
        raise SourceError(str(path), "does not exist", "every frame needs labels of its name") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise SourceError(str(path), f"cannot be read as an image: {error}", "give an intact PNG file") from error
    if mode not in _MODES:
        raise SourceError(str(path), f"has pixels of mode {mode}", "labels are class ids in one channel of 8 bits")
    wanted = spec.frame.height, spec.frame.width
    if labels.shape != wanted:
        found = f"is {labels.shape[0]}x{labels.shape[1]} where frames of the cascade are {wanted[0]}x{wanted[1]}"
        raise SourceError(str(path), found, "give labels of that size; they are not resized")
    unknown = labels[(labels >= spec.num_classes) & (labels != IGNORE_LABEL)]
    if unknown.size:
        found = f"holds label {unknown[0]} where there are {spec.num_classes} classes"
        raise SourceError(str(path), found, "check the class set (trainIds, not ids)")
    return labels
