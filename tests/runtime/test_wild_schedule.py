"""Random cascades under random delays: absence, rows, guesses and deadlines change no bit that they should not."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cascadert.runtime import decisions
from cascadert.runtime.job import Job
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Result, Submission
from cascadert.spec import ThresholdPolicy, TopKPolicy
from tests.runtime.plant import Jitter, JitteryDevice, frame
from tests.runtime.wild import Expected, Wild

SCHEDULES = 200
FRAMES = 8
POLICIES = [*(ThresholdPolicy(theta=theta) for theta in (-1.0, 0.5, 0.9, 0.97, 2.0)), TopKPolicy(k=3), TopKPolicy(k=8)]


def disturbances(seed: int, seen: Counter[str] | None = None, *, mode: str = "overlapped", **jitter: Any) -> list[str]:
    """Run a random cascade under a random schedule, and say what is wrong with its results."""
    chance, seen = random.Random(seed), Counter() if seen is None else seen
    wild = Wild.grow(chance)
    delays = Jitter(seed, **{"likelihood": 0.3, "longest_s": 0.0015, **jitter})
    device = JitteryDevice(unified=chance.random() < 0.5, jitter=delays)
    slots = 0 if mode == "serial" else chance.choice([1, 2, 3])
    options = RuntimeOptions(mode, slots=slots, queue=chance.choice([1, 2]), timeout_s=20, tensors="all")
    policies = [{name: chance.choice(POLICIES) for name in wild.deciding} for _ in range(FRAMES)]
    deadlines = [chance.uniform(0.2, 8.0) if chance.random() < 0.3 else None for _ in range(FRAMES)]
    first, stages, wrong = chance.randrange(1000), wild.stages(delays), []
    with Pipeline(wild.manifest, stages, device, options) as pipeline:
        frames = (Submission(frame(first + i), None, policies[i], deadline_ms=deadlines[i]) for i in range(FRAMES))
        try:
            for i, result in enumerate(pipeline.stream(frames)):
                expected = wild.expected(frame(first + i), policies[i])
                problem = difference(result, expected, deadlines[i] is not None)
                wrong += [f"frame {i}: {problem}"] if problem else []
                observe(seen, result, expected)
        except Exception as error:
            wrong.append(repr(error.__cause__ or error))
        assert pipeline.broken is None
    return wrong + [f"{stage.name} was disturbed in {stage.disturbed}" for stage in stages.values() if stage.disturbed]


def difference(result: Result, expected: Expected, has_deadline: bool) -> str | None:
    """What is wrong with a result; one that expired may lack stages, and is then that of an earlier one."""
    if result.expired and not has_deadline:
        return "expired without a deadline"
    if not result.expired and result.labels_from != expected.labels_from:
        return f"labels are from {result.labels_from} and not from {expected.labels_from}"
    labels = expected.labels_of(result.labels_from)
    if labels is None or not np.array_equal(labels, result.labels):
        return "labels"
    for run in result.runs:
        wanted = "skipped" if (n := expected.counts[run.stage]) == 0 else "ran"
        if run.outcome != "expired" and (run.outcome, run.n) != (wanted, n):
            return f"{run.stage} {run.outcome} with n = {run.n}, not {wanted} with n = {n}"
        if run.outcome == "expired" and not result.expired:
            return f"{run.stage} expired alone"
    ran = {run.stage for run in result.runs if run.outcome == "ran"}
    if {name.split(".")[0] for name in result.tensors} != ran:
        return "tensors of other stages than those that ran"
    for name, tensor in result.tensors.items():
        if not np.array_equal(tensor, expected.tensors[name]):
            return f"tensor {name}"
    return None


def observe(seen: Counter[str], result: Result, expected: Expected) -> None:
    """Count what happened."""
    outcomes = Counter(run.outcome for run in result.runs)
    seen["expired"] += result.expired
    seen["skipped by absence"] += any(run.outcome == "skipped" and run.scores is None for run in result.runs)
    seen["rows"] += any(name.endswith("rows") and len(tensor) > 1 for name, tensor in result.tensors.items())
    seen["followed"] += any(run.outcome == "ran" and run.scores is None and run.n for run in result.runs)
    seen["given up"] += outcomes["expired"] > 0
    seen["dropped"] += any(span.dropped for span in result.spans)
    seen["earlier labels"] += result.labels_from != expected.labels_from


@pytest.mark.parametrize("part", range(4))
def test_random_delays_change_no_bit(part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part, SCHEDULES, 4):
        assert not disturbances(seed, seen), f"schedule {seed}"
    kinds = {"expired", "skipped by absence", "rows", "followed", "given up", "dropped", "earlier labels"}
    assert {kind for kind, count in seen.items() if count} == kinds


@pytest.mark.parametrize("part", range(2))
def test_serial_gives_the_same(part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part, SCHEDULES // 4, 2):
        assert not disturbances(seed, seen, mode="serial"), f"schedule {seed}"
    assert seen["expired"] and seen["skipped by absence"]


def never_absent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Job, "lacks", lambda self, stage: False)


def guess_behind_guesses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Job, "readable", property(lambda self: self.decisions.keys() | self.guesses.keys()))


def drop_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Job, "drop", lambda self, names: None)


def round_alone(patch: pytest.MonkeyPatch) -> None:
    original = decisions._rounding
    patch.setattr(decisions, "_rounding", lambda stage, accepted: original(stage, accepted[:1]))


def round_once(patch: pytest.MonkeyPatch) -> None:
    def rounding(stage: Any, accepted: Any) -> Callable[[int], int]:
        return lambda n: max(blocks(n if stage.sees_blocks else 1) for blocks in accepted)

    patch.setattr(decisions, "_rounding", rounding)


def take_unfinished_labels(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Job, "counting", property(lambda self: {piece.name for piece in self.pieces}))


RULES = {
    "a stage is skipped where nothing stands for what it reads": never_absent,
    "a guess is but one step ahead": guess_behind_guesses,
    "what was made in vain is dropped": drop_nothing,
    "n is rounded up for all that follow": round_alone,
    "n is rounded up until all agree": round_once,
    "only work that counts makes labels": take_unfinished_labels,
}


@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_results_are_wrong(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RULES[rule](monkeypatch)
    for seed in range(SCHEDULES):
        if disturbances(seed):
            return
    pytest.fail(f"{SCHEDULES} schedules did not notice that it is gone")
