"""Theta for scores that were computed otherwise: uncertainty shifts with precision, and the threshold has to follow.

Pure functions of sorted scores, float32 `[N * G]` of each frame, in whatever unit theta is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cascadert.errors import InvalidRequest
from cascadert.runtime.control import Scores, count_above, count_scored

_INFINITY = np.float32(np.inf)


def refit_theta(scores_fp32: Sequence[Scores], theta: float, scores_new: Sequence[Scores]) -> float:
    """Return the theta that refines as many blocks of all frames, by the new scores, as `theta` does by those of fp32.

    It is `theta` itself where that does, else it lies half-way between two neighbouring new scores. Where these are
    equal no theta tells them apart: it refines the nearest number of blocks instead, the smaller on a tie. Blocks
    without a score (minus infinity) never count.

    Raises:
        InvalidRequest: no block has a score.
    """
    wanted = sum(count_above(scores, theta) for scores in scores_fp32)
    pooled = _pooled(scores_new)
    if count_above(pooled, theta) == wanted:
        return theta  # which others would fit these frames alone
    return _between(pooled, _nearest_cut(pooled, min(wanted, len(pooled))))


def candidate_thetas(scores: Sequence[Scores], count: int) -> tuple[float, ...]:
    """Return up to `count` thetas, ascending, that refine evenly spaced shares of all blocks, from all to none.

    Raises:
        InvalidRequest: no block has a score.
    """
    pooled = _pooled(scores)
    cuts = np.unique(np.linspace(0, len(pooled), count).round().astype(int))
    return tuple(sorted({_between(pooled, _nearest_cut(pooled, int(n))) for n in cuts}))


def refit_for_miou(miou_by_theta: Mapping[float, float], miou_fp32: float) -> float:
    """Return the theta that refines the fewest blocks, thus the highest, whose mIoU is that of fp32 or better.

    Where none is, it is the theta of the best mIoU, the highest of equals.

    Raises:
        InvalidRequest: no theta was measured.
    """
    measured = {theta: miou for theta, miou in miou_by_theta.items() if not np.isnan(miou)}
    if not measured:
        raise InvalidRequest("mIoU by theta", "nothing was measured", "measure at least one theta, with labels")
    wanted = min(miou_fp32, max(measured.values()))
    return max(theta for theta, miou in measured.items() if miou >= wanted)


def _pooled(frames: Sequence[Scores]) -> Scores:
    """Return all scores of all frames, descending."""
    scored = [scores[: count_scored(scores)] for scores in frames]
    pooled = np.sort(np.concatenate(scored) if scored else np.empty(0, np.float32))[::-1]
    if not len(pooled):
        raise InvalidRequest("scores", "no block of any frame has one", "give frames on which the stage before runs")
    return pooled


def _nearest_cut(pooled: Scores, n: int) -> int:
    """Return the number of blocks nearest n that some theta selects: it must not part equal scores."""
    if n in (0, len(pooled)) or pooled[n - 1] > pooled[n]:
        return n
    fewer = int(np.count_nonzero(pooled > pooled[n]))
    more = int(np.count_nonzero(pooled >= pooled[n]))
    return fewer if n - fewer <= more - n else more


def _between(pooled: Scores, n: int) -> float:
    """Return the theta that selects the first n; decisions compare in float32, so it is one of its numbers."""
    if n == 0:
        return float(pooled[0])
    if n == len(pooled):
        return float(np.nextafter(pooled[-1], -_INFINITY))
    above, below = pooled[n - 1], pooled[n]
    middle = np.float32((float(above) + float(below)) / 2)
    return float(middle if middle < above else below)
