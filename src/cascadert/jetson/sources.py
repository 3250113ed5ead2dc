"""Where frames come from: an image, a folder of images, or a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np

from cascadert.errors import InvalidRequest, SourceError
from cascadert.jetson.fit import FitPlan, plan_fit
from cascadert.jetson.images import IMAGE_SUFFIXES, Image8, ImageHeader, list_images, read_header, read_rgb
from cascadert.jetson.video import VideoReader
from cascadert.pixels import planes_from_rgb
from cascadert.spec import FrameSpec


@dataclass(frozen=True)
class Frame:
    """One picture of one camera, fitted to the cascade.

    `rgb` is uint8 `[H, W, 3]` of the frame's size, and `fit` takes labels back to the size of the source. `timestamp_s`
    counts from the start of a video; images have none.
    """

    name: str
    rgb: Image8
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

    def at(self, numbers: Sequence[int]) -> Iterator[Frame]:
        """Yield the frames of these numbers, which count from 0 and ascend; images between them are not decoded."""
        ...

    def __enter__(self) -> Source: ...

    def __exit__(self, *exception: object) -> None: ...


class ImageSource:
    """Images in a given order. Names, sizes and kinds of all of them are checked before the first is decoded."""

    fps: float | None = None

    def __init__(self, paths: list[Path], frame: FrameSpec) -> None:
        self._headers = [read_header(path) for path in paths]
        _refuse_mixed_kinds(self._headers)
        _refuse_equal_names(paths)
        self._plans = [plan_fit(str(header.path), header.size, frame) for header in self._headers]

    @property
    def length(self) -> int | None:
        """Number of images."""
        return len(self._headers)

    def __iter__(self) -> Iterator[Frame]:
        return self.at(range(len(self._headers)))

    def at(self, numbers: Sequence[int]) -> Iterator[Frame]:
        """Yield the images of these numbers."""
        for number in numbers:
            path, plan = self._headers[number].path, self._plans[number]
            yield Frame(path.stem, plan.apply(read_rgb(path)), plan)

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(self, *exception: object) -> None:
        return None


class VideoSource:
    """Frames of a video file, named after it and numbered from 0."""

    def __init__(self, path: Path, frame: FrameSpec) -> None:
        self._path = path
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
            yield Frame(f"{self._path.stem}_{index:06d}", self._plan.apply(rgb), self._plan, timestamp_s)

    def at(self, numbers: Sequence[int]) -> Iterator[Frame]:
        """Yield the frames of these numbers; all up to the last of them are decoded."""
        wanted = set(numbers)
        frames = enumerate(islice(self, max(wanted, default=-1) + 1))
        return (frame for number, frame in frames if number in wanted)

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


class Cameras:
    """One source for each camera of a cascade, in step. A context manager.

    Raises:
        InvalidRequest: more or fewer sources than cameras.
        SourceError, MissingExtra: see `open_source`.
    """

    def __init__(self, sources: Sequence[Path], frame: FrameSpec, *, pattern: str | None = None) -> None:
        if len(sources) != frame.cameras:
            found = f"{len(sources)} given where the bundle takes {frame.cameras} camera(s)"
            raise InvalidRequest("sources", found, "give one source for each camera")
        self._paths, self._frame = sources, frame
        with ExitStack() as stack:
            self._sources = [stack.enter_context(open_source(path, frame, pattern=pattern)) for path in sources]
            self._stack = stack.pop_all()

    @property
    def length(self) -> int | None:
        """Number of frames, where every source tells."""
        lengths = [source.length for source in self._sources if source.length is not None]
        return min(lengths) if len(lengths) == len(self._sources) else None

    @property
    def fps(self) -> float | None:
        """Frames per second of the first camera."""
        return self._sources[0].fps

    def __iter__(self) -> Iterator[tuple[Frame, ...]]:
        """Yield one frame of every camera at a time.

        Raises:
            SourceError: one source ends before the others, or cannot be read.
        """
        return self._in_step(self._sources)

    def at(self, numbers: Sequence[int]) -> Iterator[tuple[Frame, ...]]:
        """Yield the frames of these numbers, which count from 0 and ascend, one of every camera at a time.

        Raises:
            SourceError: the sources are not of one length, or one cannot be read.
        """
        lengths = [source.length or 0 for source in self._sources]
        if len(set(lengths)) > 1:
            raise self._ends_first(lengths.index(min(lengths)))
        return self._in_step([source.at(numbers) for source in self._sources])

    def _in_step(self, sources: Sequence[Iterable[Frame]]) -> Iterator[tuple[Frame, ...]]:
        for frames in zip_longest(*sources):
            if None in frames:
                raise self._ends_first(frames.index(None))
            yield frames

    def _ends_first(self, camera: int) -> SourceError:
        found = "ends before the other cameras do"
        return SourceError(str(self._paths[camera]), found, "give sources of one length, or --limit")

    def planes(self, frames: Sequence[Frame]) -> dict[str, Image8]:
        """Turn the frames of all cameras into the planes of the port `frame`, uint8 `[N, H, W, C]` each."""
        return planes_from_rgb(np.stack([frame.rgb for frame in frames]), self._frame.pixel_format)

    def __enter__(self) -> Cameras:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


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
