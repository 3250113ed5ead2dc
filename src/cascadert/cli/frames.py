"""Frames with their labels, from folders or videos: what parity and calibration look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cascadert.calibration.evaluation import Sample
    from cascadert.jetson.sources import Frame
    from cascadert.spec import CascadeSpec

Images = Annotated[list[Path], typer.Option(metavar="SOURCE", help="Folder or video, one per camera.")]
Labels = Annotated[
    list[Path],
    typer.Option(
        metavar="FOLDER",
        help="Class ids as PNG of the names and sizes of the images, 255 where nothing is known; one per camera. "
        "They are fitted to the cascade as the images are.",
    ),
]
Count = Annotated[int | None, typer.Option(min=1, help="Frames to take, evenly spread; all of them if not given.")]

Pair = tuple[dict[str, Any], "NDArray[np.uint8] | None"]
"""Planes of the port `frame`, and labels uint8 `[N, H, W]` where there are any."""


class LabelledFrames:
    """Sources and folders of labels, one of each for a camera. A context manager.

    Labels have the size of the image they belong to, and are fitted to the cascade as it is.

    Raises:
        InvalidRequest: more or fewer sources or folders than cameras.
        SourceError: a source or a label image that cannot be read, or labels that do not fit.
    """

    def __init__(self, spec: CascadeSpec, sources: Sequence[Path], labels: Sequence[Path], glob: str | None) -> None:
        from cascadert.jetson.sources import Cameras

        if labels and len(labels) != len(sources):
            found = f"{len(labels)} given for {len(sources)} camera(s)"
            raise InvalidRequest("--labels", found, "give one folder for each camera")
        self._spec, self._labels = spec, labels
        with ExitStack() as stack:
            self._cameras = stack.enter_context(Cameras(sources, spec.frame, pattern=glob))
            self._stack = stack.pop_all()

    def spread(self, count: int | None) -> Iterator[Pair]:
        """Yield `count` frames, or all, spread evenly over the sources; the first ones of one that hides its length."""
        return map(self._pair, self._spread(count))

    def samples(self, count: int | None) -> Iterator[Sample]:
        """Yield the same frames as pictures, too, with their names; there must be labels."""
        for frames in self._spread(count):
            planes, truth = self._pair(frames)
            assert truth is not None
            yield _sample(frames, planes, truth)

    def count(self, most: int | None) -> int | None:
        """Return how many of at most `most` frames there are; none where a source hides its length."""
        length = self._cameras.length
        return length if length is None or most is None else min(length, most)

    def _spread(self, count: int | None) -> Iterator[Sequence[Frame]]:
        length = self._cameras.length
        if count is None or length is None or length <= count:
            return islice(self._cameras, count)
        return self._cameras.at([round(i * (length - 1) / max(count - 1, 1)) for i in range(count)])

    def _pair(self, frames: Sequence[Frame]) -> Pair:
        import numpy as np

        from cascadert.calibration.label_images import read_labels

        planes = self._cameras.planes(frames)
        if not self._labels:
            return planes, None
        labels = [
            frame.fit.apply_to_labels(read_labels(folder, frame.name, frame.fit.source, self._spec.num_classes))
            for folder, frame in zip(self._labels, frames, strict=True)
        ]
        return planes, np.stack(labels)

    def __enter__(self) -> LabelledFrames:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


def _sample(frames: Sequence[Frame], planes: dict[str, Any], truth: NDArray[np.uint8]) -> Sample:
    import numpy as np

    from cascadert.calibration.evaluation import Sample

    return Sample(frames[0].name, np.stack([frame.rgb for frame in frames]), planes, truth)
