"""Where results go: label maps, overlays as video, GIF or images, and statistics.

A sink is a context manager that refuses early: what is in the way is found before the first frame runs. Files appear
under their name when they are complete; a run that fails leaves no half-written file behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from PIL import Image

from cascadert.errors import InvalidRequest, SourceError
from cascadert.jetson.images import Image8
from cascadert.jetson.video import VideoWriter

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".mov"})
STILL_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
_IMAGE_FPS = 10.0  # of a film made of images, which have no rate of their own


class Sink(Protocol):
    """Takes one picture a frame."""

    def write(self, name: str, picture: Image8) -> None:
        """Take the picture of the frame `name`: uint8 `[H, W]` or RGB `[H, W, 3]`."""
        ...

    def __enter__(self) -> Sink: ...

    def __exit__(self, *exception: object) -> None: ...


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"cannot be written: {error.strerror or error}"
        raise SourceError(str(path), found, "choose another output, or make room there") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it there in one step.

    Raises:
        SourceError: the place cannot be written.
    """
    scratch = scratch_path(path)
    try:
        with _writing(path):
            write(scratch)
            os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def scratch_path(path: Path) -> Path:
    """Return a hidden neighbour of `path` with the same suffix, which is what tells encoders the format."""
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


def claim_file(path: Path, *, replace: bool) -> None:
    """Check that a file may be written and make its folder.

    Raises:
        InvalidRequest: something is there and `replace` is false, or it is a folder.
        SourceError: the folder cannot be made or written.
    """
    if path.is_dir():
        raise InvalidRequest(str(path), "is a folder", "give the name of a file")
    if path.exists() and not replace:
        raise InvalidRequest(str(path), "exists already", "choose another output, or pass --force to replace it")
    _claim_folder(path.parent)


def _claim_folder(folder: Path) -> None:
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".cascadert.{os.getpid()}"
        probe.touch()
        probe.unlink()


def _write_image(path: Path, picture: Image8) -> None:
    image = Image.fromarray(picture)
    if path.suffix.lower() == ".png":
        write_atomically(path, image.save)
    else:  # full chroma: class borders and thin outlines stay crisp
        write_atomically(path, lambda scratch: image.save(scratch, quality=92, subsampling=0))


class ImageFolder:
    """One image a frame, named after it. With `replace`, files of the same names are replaced and others stay."""

    def __init__(self, folder: Path, suffix: str, *, replace: bool) -> None:
        if folder.exists() and not folder.is_dir():
            raise InvalidRequest(str(folder), "is a file", "give the name of a folder")
        if folder.is_dir() and any(folder.iterdir()) and not replace:
            raise InvalidRequest(str(folder), "is not empty", "choose another folder, or pass --force to write into it")
        _claim_folder(folder)
        self._folder, self._suffix = folder, suffix

    def write(self, name: str, picture: Image8) -> None:
        """Write one image: 8-bit grey for `[H, W]`, RGB for `[H, W, 3]`."""
        _write_image(self._folder / f"{name}{self._suffix}", picture)

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class StillFile:
    """The picture of the only frame; `frames` is how many will come, if that is known."""

    def __init__(self, path: Path, frames: int | None, *, replace: bool) -> None:
        self._path = path
        self._picture: Image8 | None = None
        if frames is not None and frames > 1:
            raise self._too_many()
        claim_file(path, replace=replace)

    def _too_many(self) -> InvalidRequest:
        found = "holds one picture and the source has more"
        return InvalidRequest(str(self._path), found, "give a folder, an .mp4 or a .gif, or --limit 1")

    def write(self, name: str, picture: Image8) -> None:
        """Keep the picture.

        Raises:
            InvalidRequest: a second frame.
        """
        if self._picture is not None:
            raise self._too_many()
        self._picture = picture

    def __enter__(self) -> StillFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None and self._picture is not None:
            _write_image(self._path, self._picture)


class VideoFile:
    """H.264 video, or MPEG-4 where the FFmpeg at hand has no H.264 encoder."""

    def __init__(self, path: Path, fps: float | None, *, replace: bool) -> None:
        claim_file(path, replace=replace)
        self._path, self._scratch = path, scratch_path(path)
        self._writer = VideoWriter(self._scratch, fps or _IMAGE_FPS)
        self._frames = 0

    def write(self, name: str, picture: Image8) -> None:
        """Append one frame, RGB."""
        self._writer.write(picture)
        self._frames += 1

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None and self._frames:
                self._writer.close()
                with _writing(self._path):
                    os.replace(self._scratch, self._path)
            else:
                self._writer.abandon()
        finally:
            self._scratch.unlink(missing_ok=True)


class GifFile:
    """An endless GIF with a palette for each frame; all of it stays in memory until the end."""

    def __init__(self, path: Path, fps: float | None, *, replace: bool) -> None:
        claim_file(path, replace=replace)
        self._path, self._fps = path, fps or _IMAGE_FPS
        self._frames: list[Image.Image] = []

    def write(self, name: str, picture: Image8) -> None:
        """Append one frame, RGB."""
        self._frames.append(Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE))

    def __enter__(self) -> GifFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None or not self._frames:
            return
        first, *others = self._frames
        # GIF counts in hundredths of a second, and viewers slow down anything faster than 50 frames per second
        duration_ms = max(20, round(1000 / self._fps))
        write_atomically(
            self._path,
            lambda path: first.save(path, save_all=True, append_images=others, duration=duration_ms, loop=0),
        )


def open_overlay(path: Path, fps: float | None, frames: int | None, *, replace: bool) -> Sink:
    """Open the sink that an output's name asks for: .mp4, .mkv, .mov, .gif, .png, .jpg, or a folder (no suffix).

    Args:
        path: the output.
        fps: frames per second of the source, if it has a rate.
        frames: how many will come, if that is known.
        replace: whether to replace what is there.

    Raises:
        InvalidRequest: another suffix, something in the way, or several frames for one image.
        SourceError: a place that cannot be written.
        MissingExtra: a video, and PyAV is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VideoFile(path, fps, replace=replace)
    if suffix == ".gif":
        return GifFile(path, fps, replace=replace)
    if suffix in STILL_SUFFIXES:
        return StillFile(path, frames, replace=replace)
    if suffix and not path.is_dir():
        known = ", ".join(sorted(VIDEO_SUFFIXES | STILL_SUFFIXES | {".gif"}))
        raise InvalidRequest(str(path), f"has the suffix {suffix}", f"choose one of {known}, or a folder")
    return ImageFolder(path, ".jpg", replace=replace)
