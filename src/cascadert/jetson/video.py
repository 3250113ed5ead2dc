"""Video files through PyAV (the extra `video`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cascadert.errors import SourceError, import_extra
from cascadert.jetson.images import Image8

ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""Tried in this order: builds of FFmpeg without GPL parts lack libx264, and some lack any H.264 encoder."""
_BT709 = 1  # AVCOL_SPC_BT709: players assume it for untagged HD video, so encode and tag with it


_WHOLE = 0.9  # edit lists and variable rates make headers promise a little too much


class VideoReader:
    """Decoded frames of the first video stream of a file. A resource: close it."""

    def __init__(self, path: Path) -> None:
        self._av = import_extra("av", "video", "to read video")
        self._path = path
        try:
            self._container: Any = self._av.open(str(path))
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._broken(error) from error
        streams = self._container.streams.video
        if not streams:
            self.close()
            raise SourceError(str(path), "holds no video stream", "give an image, a folder of images or a video")
        self._stream: Any = streams[0]
        self._stream.thread_type = "AUTO"

    def _broken(self, error: Exception) -> SourceError:
        found = f"cannot be read as a video: {getattr(error, 'strerror', None) or error}"
        return SourceError(str(self._path), found, "give an image, a folder of images or an intact video")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    @property
    def length(self) -> int | None:
        """Number of frames, where the file tells."""
        return self._stream.frames or None

    @property
    def fps(self) -> float | None:
        """Mean frames per second, where the file tells."""
        rate = self._stream.average_rate
        return float(rate) if rate else None

    def __iter__(self) -> Iterator[tuple[Image8, float | None]]:
        """Yield RGB uint8 `[h, w, 3]` and the time in seconds.

        Raises:
            SourceError: damage inside the file, frames that change their size or are to be shown rotated.
        """
        count = 0
        try:
            for frame in self._container.decode(self._stream):
                self._check(count, frame)
                count += 1
                yield frame.to_ndarray(format="rgb24"), frame.time
        except self._av.FFmpegError as error:
            found = f"breaks off near frame {count}: {error.strerror}"
            raise SourceError(str(self._path), found, "give an intact video") from error
        expected = self._expected()
        if count < _WHOLE * expected:
            found = f"ends after {count} frames where its header says {round(expected)}"
            raise SourceError(str(self._path), found, "give an intact video")

    def _expected(self) -> float:
        """Number of frames that the header promises, 0 if it does not. Demuxers skip damage without a word."""
        alone = len(self._container.streams) == 1  # else the length is that of the longest stream
        if self.length is not None or not alone or not self._container.duration:
            return self.length or 0
        return float(self._container.duration / self._av.time_base * (self.fps or 0))

    def _check(self, index: int, frame: Any) -> None:
        if (frame.height, frame.width) != self.size:
            found = f"changes its size at frame {index} to {frame.width}x{frame.height}"
            raise SourceError(str(self._path), found, "encode it anew with one size")
        if frame.rotation:
            found = f"is to be shown rotated by {frame.rotation} degrees"
            raise SourceError(str(self._path), found, "encode it anew, upright")

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class VideoWriter:
    """Encode RGB frames of one size as 4:2:0 video; an odd last row or column is repeated once."""

    def __init__(self, path: Path, fps: float, encoders: tuple[str, ...] = ENCODERS) -> None:
        self._av = import_extra("av", "video", "to write video")
        self._path, self._fps, self._encoders = path, fps, encoders
        try:
            self._container: Any = self._av.open(str(path), "w")
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error
        self._stream: Any = None

    def _failed(self, error: Exception) -> SourceError:
        found = f"cannot be written as a video: {getattr(error, 'strerror', None) or error}"
        return SourceError(str(self._path), found, "choose a writable .mp4 or .mkv, a .gif or a folder")

    def write(self, rgb: Image8) -> None:
        """Encode one frame, uint8 `[h, w, 3]`.

        Raises:
            SourceError: no encoder, or the file cannot be written.
        """
        rgb = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
        try:
            if self._stream is None:
                self._stream = self._add_stream(*rgb.shape[:2])
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            self._container.mux(self._stream.encode(frame))
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def _add_stream(self, height: int, width: int) -> Any:
        for encoder in self._encoders:
            try:
                stream = self._container.add_stream(encoder, rate=Fraction(self._fps).limit_denominator(1001))
            except self._av.codec.codec.UnknownCodecError:
                continue
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.colorspace = _BT709
            if encoder == "libx264":
                stream.options = {"crf": "18", "preset": "veryfast"}
            else:
                stream.bit_rate = height * width * 12
            return stream
        found = f"needs one of the encoders {', '.join(self._encoders)}, and this FFmpeg has none"
        raise SourceError(str(self._path), found, "install PyAV from its wheel, or write a .gif or a folder")

    def close(self) -> None:
        """Finish the file.

        Raises:
            SourceError: it cannot be written.
        """
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except (self._av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def abandon(self) -> None:
        """Let go of the file without finishing it."""
        with suppress(self._av.FFmpegError, OSError):
            self._container.close()
