"""Pictures and videos on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SaveImages = Callable[..., list[Path]]


@pytest.fixture
def save_images(tmp_path: Path) -> SaveImages:
    """`save_images("a.png", "b.jpg", size=(h, w), grey=False)` writes pictures, each of another brightness."""

    def save(*names: str, size: tuple[int, int] = (40, 56), grey: bool = False, folder: str = "frames") -> list[Path]:
        (tmp_path / folder).mkdir(exist_ok=True)
        paths = [tmp_path / folder / name for name in names]
        for index, path in enumerate(paths):
            pixels = np.full((*size, 3), 10 + 20 * index, np.uint8)
            Image.fromarray(pixels[..., 0] if grey else pixels).save(path)
        return paths

    return save


@pytest.fixture
def save_video(tmp_path: Path) -> Callable[..., Path]:
    """`save_video("a.mp4", frames=5, size=(h, w))` writes a video whose frames grow brighter by 20."""

    def save(name: str, frames: int = 5, size: tuple[int, int] = (40, 56), fps: float = 12.5) -> Path:
        from cascadert.jetson.video import VideoWriter

        writer = VideoWriter(tmp_path / name, fps)
        for index in range(frames):
            writer.write(np.full((*size, 3), 20 + 20 * index, np.uint8))
        writer.close()
        return tmp_path / name

    return save
