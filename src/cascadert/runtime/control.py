"""How many blocks fit into the time, and the theta that selects as many: pure functions of scores and history.

Both timed policies keep a *limit*, the largest n whose predicted time fits:

- latency:    t_f + r t_b(n) <= budget;
- frame rate: rest + r t_b(n) <= period where stages run in turn, r t_b(n) <= max(period, rest) where they run side by
  side: where the other streams cannot keep the period, blocks that cost no time are still refined.

The profile t_b is measured before, its ratio r and t_f (or the rest) are corrected by every finished frame. The limit
falls as soon as the prediction exceeds the time, and rises only where `margin` times the prediction fits. So noise that
moves the prediction by less than the margin may lower the limit, but never raises it again: n stays, or falls once.

Why it is stable, however late observations come: where the profile has the right shape, t_f and r do not depend on n
and there is no loop. Where it has not, the next limit depends on r(n); near the n that fits, the derivative of that map
is 1 - e, with e = n t_b'(n) / t_b(n) of the true cost where the profile is linear. It contracts for every cost that
grows less than quadratically, and a map that contracts converges at any delay.

Frame rate: theta follows the score at the limit, theta += 0.2 (cut - theta). Scores do not depend on theta: no loop.
Blocks within 5 % of theta are refined as far as the limit goes: scores that wobble by less than 2.5 % move sorted
scores, hence the cut and theta, by no more, and n stays at the limit. The one loop is the trim, which integrates by how
much frames exceed the period, with a gain of 0.05 per frame; with observations 4 frames late, 0.28 would be too much.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cascadert.runtime.history import History, Model

Scores = NDArray[np.float32]

_LARGEST = float(np.finfo(np.float32).max)  # no score is larger, and minus infinity is not above its negative

THETA_GAIN = 0.2
THETA_BAND = 0.05
BURST = 1.5  # periods that one frame may take while theta is still rising
PROBE_FRAMES, MOST_PROBE_DOUBLINGS = 32, 5


def count_above(scores: Scores, theta: float) -> int:
    """Return how many scores are strictly above theta (paper 000, section 3: u > theta); minus infinity never is."""
    return int(np.count_nonzero(scores > np.float32(min(max(theta, -_LARGEST), _LARGEST))))


def count_scored(scores: Scores) -> int:
    """Return how many blocks have a score: minus infinity says that a block has none."""
    return int(np.count_nonzero(scores > -np.inf))


def limited_by_latency(history: History, model: Model, budget_ms: float) -> History:
    """Return the history with the limit of a latency budget."""
    room, surely = (time - history.before.value for time in (budget_ms, budget_ms / model.margin))
    return _limited(history, model, room, surely)


def limited_by_period(history: History, model: Model, period_ms: float) -> History:
    """Return the history with the limit of a period, of which single frames may fill the trimmed part."""
    room, surely = (_period_room(history, period_ms, share) for share in (1.0, 1 / model.margin))
    limited = _limited(replace(history, period_ms=period_ms), model, room, surely)
    if history.in_turn is None:  # only a frame with a block shows whether stages run side by side
        return replace(limited, limit=max(limited.limit, 1))
    return limited


def _period_room(history: History, period_ms: float, share: float) -> float:
    """Return the milliseconds that refinement may take of a share of the period."""
    share *= history.trim
    return share * period_ms - history.rest.value if history.serial else share * max(period_ms, history.rest.value)


def _limited(history: History, model: Model, room_ms: float, surely_ms: float) -> History:
    ratio = history.refine.value
    limit = min(max(history.limit, _fitting(model, surely_ms / ratio)), _fitting(model, room_ms / ratio))
    if limit or not _fitting(model, room_ms):
        return replace(history, limit=limit, starved=0, probes=0 if limit else history.probes)
    return _starving(history)


def _fitting(model: Model, room_ms: float) -> int:
    return max(bisect_right(model.refine_ms, room_ms) - 1, 0)


def _starving(history: History) -> History:
    """Return the history where what was measured, but not the profile, leaves no time for a block.

    Without a refined block nothing corrects the measurement: one is tried now and then, ever more seldom.
    """
    if history.starved < PROBE_FRAMES << min(history.probes, MOST_PROBE_DOUBLINGS):
        return replace(history, limit=0, starved=history.starved + 1)
    refine = replace(history.refine, recent=())
    return replace(history, limit=1, starved=0, probes=history.probes + 1, refine=refine)


def steered(history: History, model: Model, scores: Scores, theta_min: float) -> History:
    """Return the history with theta moved towards the score at the limit.

    A sudden load lifts it at once to where a frame takes `BURST` periods.
    """
    target = max(theta_min, cut(scores, history.limit))
    theta = target if history.theta is None else history.theta + THETA_GAIN * (target - history.theta)
    assert history.period_ms is not None, "theta is steered after the limit"
    room = _period_room(history, history.period_ms, BURST) if history.limit else 0.0
    burst = max(_fitting(model, room / history.refine.value), history.limit)
    return replace(history, theta=max(theta, cut(scores, burst), theta_min))


def cut(scores: Scores, n: int) -> float:
    """Return the theta that selects n of the sorted scores; fewer where the next ones equal it."""
    if n >= count_scored(scores):
        return -np.inf
    return float(scores[max(n - 1, 0)]) / 2 + float(scores[n]) / 2  # half of the least float32 is one of float64 only


def count_near(scores: Scores, theta: float, limit: int) -> int:
    """Return how many scores are above theta, where those within `THETA_BAND` of it count as far as the limit goes."""
    band = THETA_BAND * abs(theta)
    return min(max(limit, count_above(scores, theta + band)), count_above(scores, theta - band))
