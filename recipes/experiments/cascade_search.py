"""Which cascade and theta come near an accurate network at a share of its cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.cascade_counts import thetas
from experiments.cascade_curves import Cascade, Point, Reference

WIDE = thetas(0.0, 2.5, 0.05)

Name = tuple[str, str]


@dataclass(frozen=True)
class Found:
    """What was chosen on the even frames, and what it gives on them, on the odd ones and on all."""

    name: Name
    theta: float
    choosing: Point
    judged: Point
    all_frames: Point

    def near(self, reference: Reference, points: float, share: float) -> bool:
        """Whether it is within `points` of mIoU at `share` of the cost, on the frames that judge."""
        cheap = cheap_enough(self.judged, reference, share)
        return cheap and self.judged.miou >= reference.miou(1, 2) - points


def cheap_enough(point: Point, reference: Reference, share: float) -> bool:
    """Whether a cascade takes at most a share of multiply-adds and of CPU time."""
    return point.gmacs <= share * reference.gmacs and point.ms <= share * reference.ms


def best_within(cascades: Mapping[Name, Cascade], reference: Reference, share: float) -> Found | None:
    """Return the cascade and theta of the highest mIoU that takes at most a share of the cost, if there is one."""
    found: Found | None = None
    for name, cascade in cascades.items():
        even, odd = cascade.only(0, 2), cascade.only(1, 2)
        for point in even.curve(WIDE):
            if cheap_enough(point, reference, share) and (found is None or point.miou > found.choosing.miou):
                theta = point.theta
                found = Found(name, theta, point, odd.point(theta), cascade.point(theta))
    return found
