"""The frames on which a precision differs most: kept while frames stream by, so that a page can show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.stage_runs import CascadeTrace, Planes
from cascadert.spec import CascadeSpec, PixelFormat


@dataclass(frozen=True)
class Exhibit:
    """A frame on which a row differs from fp32.

    `image` is RGB uint8 `[N, H, W, 3]`; labels and truth are uint8 `[N, H, W]`. Blocks count through the cameras; those
    of the last decision: `kept`, `lost` and `gained` are refined by both, by fp32 only, and by the row only.
    """

    row: str
    frame: int
    image: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    kept: tuple[int, ...]
    lost: tuple[int, ...]
    gained: tuple[int, ...]

    @property
    def differing_pixels(self) -> int:
        """How many pixels have another label."""
        return int(np.count_nonzero(self.reference != self.labels))

    @property
    def differing(self) -> float:
        """Share of the pixels with another label."""
        return self.differing_pixels / self.labels.size

    @property
    def rank(self) -> tuple[int, float]:
        """How much it differs: first by blocks, then by labels."""
        return len(self.lost) + len(self.gained), self.differing


class Exhibits:
    """The worst frames of each row; no more are ever held."""

    def __init__(self, spec: CascadeSpec, most: int) -> None:
        self._pixel_format, self._most = spec.frame.pixel_format, most
        self._by_row: dict[str, list[Exhibit]] = {}

    def show(
        self,
        row: str,
        frame: int,
        planes: Planes,
        reference: CascadeTrace,
        found: CascadeTrace,
        truth: NDArray[np.uint8] | None,
    ) -> None:
        """Offer a frame; `reference` and `found` are what fp32 and the row made of it."""
        decision = next(reversed(tuple(reference.selected)), None)
        wanted = set[int]() if decision is None else set(reference.selected[decision].tolist())
        chosen = set[int]() if decision is None else set(found.selected[decision].tolist())
        sides = (tuple(sorted(side)) for side in (wanted & chosen, wanted - chosen, chosen - wanted))
        image = rgb_from_planes(planes, self._pixel_format)
        exhibit = Exhibit(row, frame, image, reference.labels, found.labels, truth, *sides)
        kept = self._by_row.setdefault(row, [])
        kept.append(exhibit)
        kept.sort(key=lambda each: each.rank, reverse=True)
        del kept[self._most :]

    def kept(self) -> tuple[Exhibit, ...]:
        """Return the frames that differ at all, row by row, the worst first."""
        return tuple(exhibit for kept in self._by_row.values() for exhibit in kept if exhibit.rank > (0, 0.0))


def rgb_from_planes(planes: Planes, pixel_format: PixelFormat) -> NDArray[np.uint8]:
    """Return pictures to look at, RGB uint8 `[N, H, W, 3]`; of NV12 the brightness only."""
    if pixel_format == "nv12":
        return np.repeat(planes["frame.y"], 3, axis=-1)
    frame = planes["frame"][..., :3]
    return frame[..., ::-1] if pixel_format == "bgr8" else frame
