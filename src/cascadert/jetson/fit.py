"""How a picture of another size becomes a frame of the cascade, and how its labels find the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cascadert.classes import IGNORE_LABEL
from cascadert.errors import SourceError
from cascadert.spec import Fit, FrameSpec

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class FitPlan:
    """One picture size on its way to one frame size.

    The picture is resampled to `scaled`; `corner` (top, left) is where it then lies in the frame: positive where
    letterboxing leaves a margin, negative where cropping cuts one off.
    """

    source: Size
    frame: Size
    scaled: Size
    corner: tuple[int, int] = (0, 0)

    def _overlap(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the area that frame and scaled picture share, in coordinates of each."""
        spans = []
        for length, scaled, corner in zip(self.frame, self.scaled, self.corner, strict=True):
            start, stop = max(0, corner), min(length, corner + scaled)
            spans.append((slice(start, stop), slice(start - corner, stop - corner)))
        (rows, scaled_rows), (columns, scaled_columns) = spans
        return (rows, columns), (scaled_rows, scaled_columns)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map a picture uint8 `[h, w, 3]` to a frame uint8 `[H, W, 3]`; letterbox margins are black."""
        if self.source == self.frame and self.scaled == self.frame:
            return image
        if self.scaled != self.source:
            height, width = self.scaled
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        return self._placed(image, 0)

    def apply_to_labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map labels uint8 `[h, w]` of the picture to uint8 `[H, W]` of the frame, each pixel the nearest label.

        Letterbox margins become 255: nothing is known of them.
        """
        rows, columns = (nearest(scaled, size) for scaled, size in zip(self.scaled, self.source, strict=True))
        return self._placed(labels[np.ix_(rows, columns)], IGNORE_LABEL)

    def _placed(self, scaled: NDArray[np.uint8], background: int) -> NDArray[np.uint8]:
        """Put what has the size of `scaled` where it lies in the frame."""
        in_frame, in_scaled = self._overlap()
        frame = np.full((*self.frame, *scaled.shape[2:]), background, np.uint8)
        frame[in_frame] = scaled[in_scaled]
        return frame

    def ignore_margins(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return labels uint8 `[H, W]` of the frame with 255 where letterboxing left a margin."""
        in_frame, _ = self._overlap()
        shown = np.full_like(labels, IGNORE_LABEL)
        shown[in_frame] = labels[in_frame]
        return shown

    def invert(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map labels uint8 `[H, W]` of the frame to uint8 `[h, w]` of the picture, each pixel the nearest label.

        Pixels that cropping cut off were never seen: they become 255. Letterbox margins have no pixel in the picture.
        """
        in_frame, in_scaled = self._overlap()
        scaled = np.full(self.scaled, IGNORE_LABEL, np.uint8)
        scaled[in_scaled] = labels[in_frame]
        if self.scaled == self.source:
            return scaled
        rows, columns = (nearest(source, size) for source, size in zip(self.source, self.scaled, strict=True))
        return scaled[np.ix_(rows, columns)]


def nearest(pixels: int, others: int) -> NDArray[np.int64]:
    """Return, for each of `pixels` along one side, which of `others` along the same side covers its centre."""
    return (2 * np.arange(pixels, dtype=np.int64) + 1) * others // (2 * pixels)


def plan_fit(name: str, source: Size, frame: FrameSpec) -> FitPlan:
    """Plan how a picture of `source` (height, width) goes through `frame.fit`; `name` is for errors.

    "resize" may change the aspect ratio, "letterbox" keeps it and adds margins, "crop" keeps the pixels themselves and
    cuts the centre out.

    Raises:
        SourceError: another size where `fit` is "none", or one too small to crop from.
    """
    target = frame.height, frame.width
    if source == target:
        return FitPlan(source, target, target)
    return _PLANS[frame.fit](name, source, target)


def _refuse(name: str, source: Size, target: Size) -> FitPlan:
    remedy = 'give frames of that size, or export with frame.fit = "resize", "letterbox" or "crop" in the spec'
    found = f"is {_show(source)} pixels where the bundle takes {_show(target)} (width x height)"
    raise SourceError(name, found, remedy)


def _resize(name: str, source: Size, target: Size) -> FitPlan:
    return FitPlan(source, target, target)


def _letterbox(name: str, source: Size, target: Size) -> FitPlan:
    scale = min(t / s for t, s in zip(target, source, strict=True))
    height, width = (min(t, max(1, round(s * scale))) for t, s in zip(target, source, strict=True))
    return FitPlan(source, target, (height, width), ((target[0] - height) // 2, (target[1] - width) // 2))


def _crop(name: str, source: Size, target: Size) -> FitPlan:
    if source[0] < target[0] or source[1] < target[1]:
        found = f"is {_show(source)} pixels, too small to crop {_show(target)} (width x height) from"
        raise SourceError(name, found, 'give larger frames, or export with frame.fit = "resize" or "letterbox"')
    return FitPlan(source, target, source, ((target[0] - source[0]) // 2, (target[1] - source[1]) // 2))


def _show(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


_PLANS: dict[Fit, Callable[[str, Size, Size], FitPlan]] = {
    "none": _refuse,
    "resize": _resize,
    "letterbox": _letterbox,
    "crop": _crop,
}
