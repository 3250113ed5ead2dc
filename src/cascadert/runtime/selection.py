"""How many blocks to refine: the decision for the one number n.

A decision sees the scores of all N * G blocks, sorted descending, and what earlier frames took; the blocks are the
first n of `order`. Scores of all cameras are sorted together and n counts blocks of all cameras, so a budget is shared:
the most uncertain blocks win, whichever camera they are of, and more cameras do not make it larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cascadert.errors import InvalidRequest
from cascadert.runtime.control import (
    Scores,
    count_above,
    count_near,
    count_scored,
    limited_by_latency,
    limited_by_period,
    steered,
)
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.history import History, Model, Observation, observed
from cascadert.spec import FrameRatePolicy, LatencyPolicy, SelectPolicy, ThresholdPolicy, TopKPolicy

__all__ = ["Decider", "Observation", "Scores"]


class Decider:
    """The decision before one stage, and what it remembers. Not thread-safe.

    The policy may change with every frame; what was learned of costs stays.

    Args:
        blocks: N * G.
        costs: a measured profile. A latency budget needs one; a frame rate learns from the first frames without it.
        rounded: maps n (from 1 up) to the number of blocks that the engine really refines; must not decrease.
    """

    def __init__(self, blocks: int, costs: StageCosts | None = None, rounded: Callable[[int], int] = int) -> None:
        self._blocks, self._rounded, self._profiled = blocks, rounded, costs is not None
        self._known = None if costs is None else self._expect(costs)
        self._theta: float | None = None
        self._infeasible = False

    @property
    def theta(self) -> float | None:
        """Theta of the last decision, where a controller chose it."""
        return self._theta

    @property
    def infeasible(self) -> bool:
        """Whether the last decision was for a budget or frame rate that even n = 0 does not keep, by prediction."""
        return self._infeasible

    def predicted_ms(self, n: int) -> float | None:
        """Return t_f + t_b(n) as expected now; none while nothing is known of costs."""
        if self._known is None:
            return None
        model, history = self._known
        return history.before.value + history.refine.value * model.refine_ms[n]

    def without_scores(self, policy: SelectPolicy, candidates: int) -> int | None:
        """Return n where it does not depend on scores; `candidates` is how many blocks have one."""
        if not isinstance(policy, TopKPolicy):
            return None
        self._release()
        return min(policy.k, candidates)

    def choose(self, policy: SelectPolicy, scores: Scores) -> int:
        """Return n for scores, float32 `[N * G]`, sorted descending; blocks with minus infinity never count.

        Raises:
            InvalidRequest: a latency budget without a measured profile.
        """
        if isinstance(policy, FrameRatePolicy):
            return self._steer(policy, scores)
        self._release()
        if isinstance(policy, LatencyPolicy):
            return self._fit(policy, scores)
        if isinstance(policy, ThresholdPolicy):
            return count_above(scores, policy.theta)
        return min(policy.k, count_scored(scores))

    def learns(self, policy: SelectPolicy) -> bool:
        """Whether frames decided by a policy are worth observing: those of a timed one, or where costs are known."""
        return self._known is not None or isinstance(policy, LatencyPolicy | FrameRatePolicy)

    def observe(self, seen: Observation) -> None:
        """Learn from a finished frame, in the order of frames; it may be some decisions old."""
        if self._known is None:
            if seen.n == 0 or seen.refine_ms <= 0:
                return
            self._known = self._expect(StageCosts(seen.before_ms, ((seen.n, seen.refine_ms),)))
        model, history = self._known
        self._known = model, observed(history, model, seen)

    def _release(self) -> None:
        """End the control of theta; what was learned of costs stays."""
        self._theta, self._infeasible = None, False
        if self._known is not None and self._known[1].period_ms is not None:
            model, history = self._known
            self._known = model, replace(history, theta=None, period_ms=None)

    def _expect(self, costs: StageCosts) -> tuple[Model, History]:
        return Model.of(costs, self._blocks, self._rounded), History.expected(costs)

    def _fit(self, policy: LatencyPolicy, scores: Scores) -> int:
        if self._known is None or not self._profiled:
            subject = f"a latency budget of {policy.budget_ms:g} ms"
            remedy = "measure one with `cascadert bench`, and give it with --profile or as costs"
            raise InvalidRequest(subject, "nothing was measured to keep it by: there is no profile", remedy)
        model, history = self._known
        history = limited_by_latency(history, model, policy.budget_ms)
        self._known = model, history
        self._infeasible = history.before.value + model.refine_ms[0] > policy.budget_ms
        worth = count_scored(scores) if policy.theta is None else count_above(scores, policy.theta)
        return min(history.limit, worth)

    def _steer(self, policy: FrameRatePolicy, scores: Scores) -> int:
        if self._known is None:  # one block until a frame with one is back
            self._theta = policy.theta_min
            return min(1, count_above(scores, policy.theta_min))
        model, history = self._known
        period = 1000 / policy.fps
        history = steered(limited_by_period(history, model, period), model, scores, policy.theta_min)
        assert history.theta is not None
        self._known, self._theta = (model, history), history.theta
        self._infeasible = history.rest.value > period
        near = count_near(scores, history.theta, history.limit)
        return min(near, count_above(scores, policy.theta_min))
