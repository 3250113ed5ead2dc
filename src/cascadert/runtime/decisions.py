"""Whether a stage runs on a frame, and on how many blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cascadert.executable import Executable
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.job import Decision, Job
from cascadert.runtime.observe import observations
from cascadert.runtime.plan import Plan, StagePlan, producer
from cascadert.runtime.selection import Decider

_SKIPPED = Decision(n=0)


class Decisions:
    """The decisions before all stages, and what they learned. Not thread-safe.

    Args:
        plan: the stages.
        executables: each of them, loaded.
        blocks: N * G.
        costs: measured costs around each decision, by stage, where they are known.
    """

    def __init__(
        self, plan: Plan, executables: Mapping[str, Executable], blocks: int, costs: Mapping[str, StageCosts]
    ) -> None:
        self._plan, stages = plan, {stage.name: stage for stage in plan.stages}
        self._rounded = {
            name: _rounding(stages[name], [executables[follower].blocks for follower in followers])
            for name, followers in plan.followers.items()
        }
        self._deciders = {name: Decider(blocks, costs.get(name), rounded) for name, rounded in self._rounded.items()}

    def rounded(self, stage: str, n: int) -> int:
        """Return how many blocks a stage and all that follow it take where it is asked for n (1 and up).

        Raises:
            ExecutionError: one of them was built for fewer.
        """
        return self._rounded[stage](n)

    def of(self, job: Job, stage: StagePlan) -> Decision | None:
        """Decide about a stage whose producers are queued or skipped; none while its scores have not arrived.

        Raises:
            InvalidRequest: a policy that cannot be met.
            ExecutionError: more blocks than a stage was built for.
        """
        if job.lacks(stage):
            return _SKIPPED
        if stage.entry.select is not None:
            return self._by_scores(job, stage)
        return Decision() if stage.decided_by is None else Decision(job.decisions[stage.decided_by].n)

    def learn(self, job: Job) -> None:
        """Learn from a frame that is finished; one that its deadline cut short tells costs that are none."""
        deciders = {name: decider for name, decider in self._deciders.items() if name in job.decisions}
        if not job.is_expired and any(decider.learns(job.policies[name]) for name, decider in deciders.items()):
            for name, seen in observations(job, self._plan).items():
                deciders[name].observe(seen)

    def _by_scores(self, job: Job, stage: StagePlan) -> Decision | None:
        scores, order = (job.owner(tensor) for tensor in stage.decides)
        if scores is None or order is None:
            return _SKIPPED
        decider, policy = self._deciders[stage.name], job.policies[stage.name]
        started_s = time.perf_counter()
        n = decider.without_scores(policy, self._candidates(job, scores))
        if n is None:
            if scores not in job.arrived:
                return None
            n = decider.choose(policy, job.host(scores))
        n = self.rounded(stage.name, n) if n else 0
        made_s = started_s, time.perf_counter()
        return Decision(n, scores, order, decider.predicted_ms(n), decider.theta, made_s)

    def _candidates(self, job: Job, scores: str) -> int:
        """How many blocks have a score: all of them, or those that the stage refined which made the scores."""
        maker = next(stage for stage in self._plan.stages if stage.name == producer(scores))
        refined = job.decisions[maker.name].n if maker.scores_its_blocks_alone else None
        return self._plan.tensors[scores].shape[0] if refined is None else refined


def _rounding(stage: StagePlan, accepted: list[Callable[[int], int]]) -> Callable[[int], int]:
    """Return what makes of n the smallest number from there on that a stage and all that follow it accept.

    A stage that sees no blocks runs once: n counts as 1.
    """

    def rounded(n: int) -> int:
        n = n if stage.sees_blocks else 1
        while (larger := max(blocks(n) for blocks in accepted)) > n:
            n = larger
        return n

    return rounded
