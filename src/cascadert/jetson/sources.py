"""Where frames come from: an image, a folder of images, or a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cascadert.errors import SourceError
from cascadert.jetson.fit import FitPlan, plan_fit
from cascadert.jetson.images import IMAGE_SUFFIXES, ImageHeader, list_images, read_header, read_rgb
from cascadert.jetson.pixels import Image8, Planes, to_planes
from cascadert.jetson.video import VideoReader
from cascadert.spec import FrameSpec


@dataclass(frozen=True)
class Frame:
    """One picture of one camera, fitted to the cascade.

    `rgb` is uint8 `[H, W, 3]` of the frame's size, `planes` the same in the bundle's pixel format, and `fit` takes
    labels back to the size of the source. `timestamp_s` counts from the start of a video; images have none.
    """

    name: str
    rgb: Image8
    planes: Planes
    fit: FitPlan
    timestamp_s: float | None = None


class Source(Protocol):
    """An iterable of frames that holds a file open; a context manager."""

    @property
    def length(self) -> int | None:
        """Number of frames, where the source tells."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames per second of a video; images have none."""
        ...

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Source: ...

    def __exit__(self, *exception: object) -> None: ...


class ImageSource:
    """Images in a given order. Names, sizes and kinds of all of them are checked before the first is decoded."""

    fps: float | None = None

    def __init__(self, paths: list[Path], frame: FrameSpec) -> None:
        self._frame = frame
        self._headers = [read_header(path) for path in paths]
        _refuse_mixed_kinds(self._headers)
        _refuse_equal_names(paths)
        self._plans = [plan_fit(str(header.path), header.size, frame) for header in self._headers]

    @property
    def length(self) -> int | None:
        """Number of images."""
        return len(self._headers)

    def __iter__(self) -> Iterator[Frame]:
        for header, plan in zip(self._headers, self._plans, strict=True):
            rgb = plan.apply(read_rgb(header.path))
            yield Frame(header.path.stem, rgb, to_planes(rgb, self._frame.pixel_format), plan)

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class VideoSource:
    """Frames of a video file, named after it and numbered from 0."""

    def __init__(self, path: Path, frame: FrameSpec) -> None:
        self._path, self._frame = path, frame
        self._reader = VideoReader(path)
        try:
            self._plan = plan_fit(str(path), self._reader.size, frame)
        except SourceError:
            self._reader.close()
            raise

    @property
    def length(self) -> int | None:
        """Number of frames, where the file tells."""
        return self._reader.length

    @property
    def fps(self) -> float | None:
        """Mean frames per second."""
        return self._reader.fps

    def __iter__(self) -> Iterator[Frame]:
        for index, (rgb, timestamp_s) in enumerate(self._reader):
            fitted = self._plan.apply(rgb)
            planes = to_planes(fitted, self._frame.pixel_format)
            yield Frame(f"{self._path.stem}_{index:06d}", fitted, planes, self._plan, timestamp_s)

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.close()


def open_source(source: str | Path, frame: FrameSpec, *, pattern: str | None = None) -> Source:
    """Open an image, a folder of images (in natural order) or a video as frames of the given kind.

    Args:
        source: its path.
        frame: size, pixel format and fit of the frames that the cascade takes.
        pattern: which files of a folder to take, as in "*_leftImg8bit.png"; needed where a folder mixes several kinds.

    Raises:
        SourceError: no such path, nothing to read, a file that is broken or of a size that does not fit.
        MissingExtra: a video, and PyAV is not installed.
    """
    path = Path(source)
    if not path.exists():
        raise SourceError(str(path), "does not exist", "give an image, a folder of images or a video")
    if path.is_dir():
        return ImageSource(list_images(path, pattern), frame)
    if pattern is not None:
        raise SourceError(str(path), f"is a file, so --glob {pattern} picks nothing", "leave --glob out")
    return ImageSource([path], frame) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path, frame)


def _refuse_mixed_kinds(headers: list[ImageHeader]) -> None:
    """Refuse label maps among photographs: both may be PNG files of one folder."""
    for header in headers:
        if header.colour != headers[0].colour:
            kinds = {True: "in colour", False: "of one channel (a label map?)"}
            found = f"is {kinds[header.colour]} while {headers[0].path.name} is {kinds[headers[0].colour]}"
            raise SourceError(str(header.path), found, "say which images to take with --glob PATTERN")


def _refuse_equal_names(paths: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            found = f"and {seen[path.stem].name} would write outputs of one name"
            raise SourceError(str(path), found, "say which images to take with --glob PATTERN")
        seen[path.stem] = path
