"""Frames with their labels: both go through the same fit, and are spread evenly over their source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cascadert.bundle import Bundle
from cascadert.classes import IGNORE_LABEL
from cascadert.cli.frames import LabelledFrames
from cascadert.errors import SourceError
from cascadert.jetson import sources
from cascadert.spec import CascadeSpec, Fit

Save = Callable[[NDArray[np.uint8], NDArray[np.uint8]], None]
STEP = 60
"""Brightness of class 1; class 2 is twice as bright."""


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """`save(image, labels)` writes one picture of grey and its labels, numbered from 0."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()

    def save(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        name = f"{len(list((tmp_path / 'images').iterdir()))}.png"
        Image.fromarray(np.stack([image] * 3, axis=-1)).save(tmp_path / "images" / name)
        Image.fromarray(labels).save(tmp_path / "labels" / name)

    return save


def fitted(spec: CascadeSpec, fit: Fit) -> CascadeSpec:
    return spec.model_copy(update={"frame": spec.frame.model_copy(update={"fit": fit})})


def classes(height: int, width: int) -> NDArray[np.uint8]:
    """Class 1 on the left, class 2 on the right: not symmetric, so that a shift shows."""
    found = np.full((height, width), 2, np.uint8)
    found[:, : width // 3] = 1
    return found


def read(spec: CascadeSpec, folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with LabelledFrames(spec, [folder / "images"], [folder / "labels"], None) as frames:
        ((planes, labels),) = frames.spread(1)
    assert labels is not None
    return planes["frame"][0, ..., 0], labels[0]


@pytest.mark.parametrize(
    ("fit", "size"), [("letterbox", (40, 30)), ("letterbox", (25, 56)), ("crop", (48, 70)), ("none", (40, 56))]
)
def test_every_pixel_keeps_its_label(
    toy_bundle: Bundle, save: Save, tmp_path: Path, fit: Fit, size: tuple[int, int]
) -> None:
    labels = classes(*size)
    save(labels * STEP, labels)
    frame, found = read(fitted(toy_bundle.spec, fit), tmp_path)
    np.testing.assert_array_equal(found, np.where(frame == 0, IGNORE_LABEL, frame // STEP))
    assert {1, 2} <= set(np.unique(found)) <= {1, 2, IGNORE_LABEL}


@pytest.mark.parametrize("size", [(120, 168), (20, 28), (61, 97)])
def test_resampled_labels_lie_where_the_pixels_do(
    toy_bundle: Bundle, save: Save, tmp_path: Path, size: tuple[int, int]
) -> None:
    labels = classes(*size)
    save(labels * STEP, labels)
    frame, found = read(fitted(toy_bundle.spec, "resize"), tmp_path)
    clear = (frame == STEP) | (frame == 2 * STEP)  # the border between the classes is a mixture
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], frame[clear] // STEP)


@pytest.mark.parametrize("fit", ["letterbox", "crop", "resize"])
def test_labels_of_the_frames_size_are_not_those_of_a_larger_image(
    toy_bundle: Bundle, save: Save, tmp_path: Path, fit: Fit
) -> None:
    save(classes(64, 64) * STEP, classes(40, 56))
    message = r"0\.png: is 56x40 pixels where its image has 64x64 \(width x height\); give labels of the image's own"
    with pytest.raises(SourceError, match=message):
        read(fitted(toy_bundle.spec, fit), tmp_path)


@pytest.mark.parametrize(
    ("count", "taken"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, range(10)), (99, range(10))]
)
def test_frames_are_spread_evenly_and_no_other_is_decoded(
    toy_bundle: Bundle, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, taken: list[int]
) -> None:
    for number in range(10):
        save(np.full((40, 56), number, np.uint8), np.zeros((40, 56), np.uint8))
    decoded, read_rgb = [], sources.read_rgb

    def reading(path: Path) -> NDArray[np.uint8]:
        decoded.append(int(path.stem))
        return read_rgb(path)

    monkeypatch.setattr(sources, "read_rgb", reading)
    with LabelledFrames(toy_bundle.spec, [tmp_path / "images"], [], None) as frames:
        found = [int(planes["frame"][0, 0, 0, 0]) for planes, _ in frames.spread(count)]
    assert found == decoded == list(taken)
