"""Do two runs of a cascade refine the same blocks?

Labels hide what quantization does to a cascade: a block that is no longer refined costs its accuracy there, and one
more costs time. So the sets of refined blocks are compared as sets, frame by frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cascadert.errors import InvalidRequest
from cascadert.runtime.control import count_above, cut

NEAR_THETA = 0.01
"""A block whose reference score is this near the threshold may flip by a camera's noise as well as by precision.

In the score's unit. Noise of one grey level moves nine of ten scores of the CamVid cascade by less bits (31 frames, 372
blocks; median 0.0024); as a share it is one pixel in a hundred that is confident or not.
"""


@dataclass(frozen=True)
class Selection:
    """One decision on one frame: `scores` float32 `[N * G]` descending, `order` int32 the block of each, and n.

    Both are empty where the stage that makes them was skipped. `theta` is the threshold that was applied, in the unit
    of the scores; none where another policy chose n. A decision about a stage that runs as a whole has one block, the
    frame, with the largest of the scores.
    """

    scores: NDArray[np.float32]
    order: NDArray[np.int32]
    n: int
    theta: float | None = None

    @property
    def blocks(self) -> frozenset[int]:
        """The refined blocks."""
        return frozenset(self.order[: self.n].tolist())

    @property
    def cut(self) -> float:
        """The threshold, or the score half-way between the last block that was refined and the first that was not."""
        if self.theta is not None:
            return self.theta
        return cut(self.scores, self.n) if self.n else float(np.inf)

    def at(self, theta: float) -> Selection:
        """Return the decision of a threshold on the same scores."""
        return Selection(self.scores, self.order, count_above(self.scores, theta), theta)

    def score_of(self, block: int) -> float:
        """Return a block's score; minus infinity where it has none, since the stage before was skipped."""
        return float(np.max(self.scores[self.order == block], initial=-np.inf))


@dataclass(frozen=True)
class Flip:
    """A block that only one of the two refines. `near`: its score is within `NEAR_THETA` of the threshold."""

    frame: int
    block: int
    reference_score: float
    candidate_score: float
    gained: bool
    near: bool


@dataclass
class SelectionAgreement:
    """Refined blocks of a reference and a candidate, over any number of frames.

    `whole` says that the stage runs as a whole or not at all: the one block of each frame is the frame.
    """

    whole: bool = False
    frames: int = 0
    intersection: int = 0
    union: int = 0
    flips: list[Flip] = field(default_factory=list)

    def add(self, reference: Selection, candidate: Selection) -> None:
        """Add the next frame.

        Raises:
            InvalidRequest: decisions about different blocks.
        """
        orders = [np.sort(selection.order) for selection in (reference, candidate) if len(selection.order)]
        if len(orders) == 2 and orders[0].tolist() != orders[1].tolist():
            found = f"order {len(orders[0])} and {len(orders[1])} blocks, or not the same ones"
            raise InvalidRequest("two decisions", found, "compare the same stage of the same bundle")
        wanted, found_blocks = reference.blocks, candidate.blocks
        self.intersection += len(wanted & found_blocks)
        self.union += len(wanted | found_blocks)
        for block in sorted(wanted ^ found_blocks):
            score = reference.score_of(block)
            near = abs(score - reference.cut) <= NEAR_THETA
            flip = Flip(self.frames, block, score, candidate.score_of(block), block in found_blocks, near)
            self.flips.append(flip)
        self.frames += 1

    @property
    def iou(self) -> float:
        """Intersection over union, micro-averaged: blocks count, not frames. Where neither refines any they agree."""
        return self.intersection / self.union if self.union else 1.0

    @staticmethod
    def least_iou(decisions: Mapping[str, SelectionAgreement]) -> float | None:
        """Return the least IoU of decisions about blocks; none where there is none, for a whole stage has flips."""
        return min((decision.iou for decision in decisions.values() if not decision.whole), default=None)

    @property
    def far_flips(self) -> list[Flip]:
        """Flips that nearness to the threshold does not explain."""
        return [flip for flip in self.flips if not flip.near]
