"""Frames with default options never change: networks were trained on them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cascadert.scenes import SceneOptions, render

RECORDED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("default_frames.json").read_text())


def digest(array: NDArray[np.uint8]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:32]


@pytest.mark.parametrize("frame", RECORDED, ids=lambda f: f"{f['seed']}-{f['index']}-{f['height']}x{f['width']}")
def test_default_frames_have_the_bits_that_were_recorded(frame: dict[str, Any]) -> None:
    """The digests were taken before light, rain and instances were built."""
    scene = render(frame["seed"], frame["index"], SceneOptions(frame["height"], frame["width"], frame["clutter"]))
    assert digest(scene.labels) == frame["labels"]
    assert digest(scene.image) == frame["image"]
    assert scene.instances is None


@pytest.mark.parametrize("frame", RECORDED[:4], ids=lambda f: str(f["seed"]))
def test_telling_objects_apart_changes_neither_picture_nor_labels(frame: dict[str, Any]) -> None:
    options = SceneOptions(frame["height"], frame["width"], frame["clutter"], instances=True)
    scene = render(frame["seed"], frame["index"], options)
    assert digest(scene.labels) == frame["labels"]
    assert digest(scene.image) == frame["image"]
