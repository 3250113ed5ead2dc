"""Stages that are queued before they are decided about: sooner, and never to be noticed in a result."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import BundleManifest
from cascadert.errors import ExecutionError, PipelineBroken
from cascadert.runtime.results import Counts, Submission
from cascadert.spec import ThresholdPolicy, TopKPolicy
from tests.runtime.exits import CHAIN, Opening, ended, outcomes
from tests.runtime.faults import ALWAYS, LONG_S, NEVER, SETUPS, Hold, Raise, background, numbered, our_threads, soon
from tests.runtime.wild import Wild

FIRST, SECOND, LAST = (
    {"seg2": two, "seg3": three} for two, three in ((NEVER, NEVER), (ALWAYS, NEVER), (ALWAYS, ALWAYS))
)
setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: f"{setup[0]}-{'one' if setup[1] else 'two'}")


@pytest.fixture
def hold() -> Iterator[Hold]:
    held = Hold(on=(0,))
    yield held
    held.released.set()
    assert soon(lambda: our_threads() == set())


def assert_right(result: Any, number: int, policies: Any) -> None:
    expected = CHAIN.expected(numbered(number), policies)
    assert result.labels_from == expected.labels_from
    assert np.array_equal(result.labels, expected.labels_of(result.labels_from))
    assert {run.stage: run.n for run in result.runs} == expected.counts


def test_a_segment_runs_beside_the_exit_that_decides_about_it() -> None:
    both = threading.Barrier(2)
    with Opening({"exit1": lambda _: both.wait(LONG_S), "seg2": lambda _: both.wait(LONG_S)})(CHAIN) as pipeline:
        for number, policies in enumerate((FIRST, LAST, SECOND)):
            result = pipeline.infer(numbered(number), policies)
            assert_right(result, number, policies)


def test_nothing_is_queued_behind_a_guess(hold: Hold) -> None:
    with Opening({"exit1": hold})(CHAIN) as pipeline:
        stages = pipeline._executables
        pipeline.submit(numbered(0), policies=LAST)
        assert soon(lambda: stages["seg2"].runs == 1)
        assert [stages[name].queued for name in ("seg2", "exit2", "seg3", "exit3")] == [1, 0, 0, 0]
        hold.released.set()
        assert_right(pipeline.next(LONG_S), 0, LAST)
        assert [stages[name].runs for name in ("seg2", "exit2", "seg3", "exit3")] == [1, 1, 1, 1]


def test_what_needs_no_scores_is_no_guess() -> None:
    policies = {"seg2": TopKPolicy(k=0), "seg3": ALWAYS}
    with Opening()(CHAIN) as pipeline:
        assert_right(pipeline.infer(numbered(0), policies), 0, policies)
        assert pipeline._executables["seg2"].queued == 0


@pytest.mark.parametrize("unified", [True, False])
def test_a_frame_does_not_wait_for_what_was_made_in_vain(hold: Hold, unified: bool) -> None:
    with Opening({"seg2": hold}, setup=("overlapped", unified))(CHAIN) as pipeline:
        result = pipeline.infer(numbered(0), FIRST)  # the guess is still held
        assert not hold.released.is_set()
        assert_right(result, 0, FIRST)
        assert outcomes(result)["seg2"] == "skipped" and result.runs[2].milliseconds == 0
        assert not any(span.dropped for span in result.spans)  # it had not ended
        pipeline.submit(numbered(1), policies=LAST)
        hold.released.set()
        assert_right(pipeline.next(LONG_S), 1, LAST)
        assert pipeline.counts == Counts(2, 2)
        assert soon(lambda: len(pipeline._ledger._free) == pipeline.slots + 1 + pipeline.options.queue)


def test_what_was_made_in_vain_in_time_is_in_the_spans() -> None:
    hold = Hold()
    with Opening({"exit1": hold})(CHAIN) as pipeline:
        pipeline.submit(numbered(0), policies=FIRST)
        job = pipeline._ledger._order[0]
        assert soon(lambda: "seg2" in ended(job))
        hold.released.set()
        result = pipeline.next(LONG_S)
    assert [span.name for span in result.spans if span.dropped] == ["seg2"]
    assert {span.stream for span in result.spans if span.name == "seg2"} == {"seg2"}
    assert_right(result, 0, FIRST)


@pytest.mark.parametrize("when", ["running", "queueing"])
def test_the_failure_of_a_guess_is_that_of_the_frame_where_it_counts(when: str) -> None:
    with Opening(**{when: {"seg2": Raise()}})(CHAIN) as pipeline:
        for number in range(3):
            assert_right(pipeline.infer(numbered(number), FIRST), number, FIRST)
            with pytest.raises(
                ExecutionError, match=r"^stage 'seg2': failed with ValueError\('burnt'\); see its cause"
            ):
                pipeline.infer(numbered(number), LAST)
        assert pipeline.counts == Counts(6, 3, 3)
        assert pipeline.broken is None


@pytest.mark.parametrize("policies", [FIRST, LAST], ids=["in vain", "counts"])
def test_a_guess_that_failed_before_or_after_the_decision(policies: Any, hold: Hold) -> None:
    """It fails while the exit is held, or is held itself until the decision was made."""
    for held in ("exit1", "seg2"):
        both: Any = {"exit1": hold, "seg2": Raise()}
        if held == "seg2":
            both = {"seg2": lambda number: (hold(number), Raise()())}
        with Opening(both)(CHAIN) as pipeline:
            pipeline.submit(numbered(0), policies=policies)
            assert hold.entered.wait(LONG_S)
            if held == "exit1":
                (job,) = pipeline._ledger._order
                assert soon(lambda job=job: "seg2" in ended(job))
            hold.released.set()
            if policies is FIRST:
                assert_right(pipeline.next(LONG_S), 0, FIRST)
            else:
                with pytest.raises(ExecutionError, match=r"^stage 'seg2': failed"):
                    pipeline.next(LONG_S)
        hold.released.clear()
        hold.entered.clear()


def test_on_one_stream_nothing_is_guessed() -> None:
    with Opening(setup=("serial", True))(CHAIN) as pipeline:
        assert_right(pipeline.infer(numbered(0), FIRST), 0, FIRST)
        assert pipeline._executables["seg2"].queued == 0


def without_guesses(plan: BundleManifest) -> Wild:
    stages = tuple(stage.model_copy(update={"speculative": False}) for stage in plan.stages)
    return Wild(plan.model_copy(update={"stages": stages}), CHAIN.multiples)


def test_guesses_change_no_result() -> None:
    thetas = [ThresholdPolicy(theta=theta) for theta in (-1.0, 0.85, 0.95, 2.0)]
    frames = [Submission(numbered(i), policies={"seg2": thetas[i % 4], "seg3": thetas[i // 4 % 4]}) for i in range(64)]
    results = {}
    for name, wild in (("on", CHAIN), ("off", without_guesses(CHAIN.manifest))):
        with Opening()(wild, tensors="all") as pipeline:
            results[name] = list(pipeline.stream(frames))
    for one, other in zip(results["on"], results["off"], strict=True):
        assert one.labels.tobytes() == other.labels.tobytes()
        assert (one.labels_from, outcomes(one)) == (other.labels_from, outcomes(other))
        assert [run.n for run in one.runs] == [run.n for run in other.runs]
        assert {n: t.tobytes() for n, t in one.tensors.items()} == {n: t.tobytes() for n, t in other.tensors.items()}
    assert {result.labels_from for result in results["on"]} == {"exit1", "exit2", "exit3"}


def test_closing_and_giving_up_wait_for_what_was_made_in_vain(hold: Hold) -> None:
    pipeline = Opening({"seg2": hold})(CHAIN)
    pipeline.submit(numbered(0), policies=FIRST)
    assert soon(lambda: pipeline._ledger.untaken() != [])
    assert pipeline.give_up(0.05) is False
    with background(lambda: pipeline.give_up(LONG_S)) as given_up:
        hold.released.set()
    assert given_up == [True]
    assert pipeline.counts == Counts(1, 0, 0, 0, 1)
    assert pipeline.close() is True


def test_close_leaves_a_guess_that_hangs_behind(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascadert.runtime.pipeline._LEAST_S", 0.02)
    pipeline = Opening({"seg2": hold})(CHAIN)
    assert_right(pipeline.infer(numbered(0), FIRST), 0, FIRST)
    assert pipeline.close(timeout_s=0.1) is False
    assert not any(stage.closed for stage in pipeline._executables.values())


def test_a_guess_that_hangs_breaks_the_pipeline_and_not_the_frame_that_it_was_for(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascadert.runtime.pipeline._LEAST_S", 0.02)
    pipeline = Opening({"seg2": hold})(CHAIN, timeout_s=0.25)
    for number, policies in enumerate((FIRST, LAST)):
        pipeline.submit(numbered(number), policies=policies)
    assert soon(lambda: pipeline.broken is not None)
    assert_right(pipeline.next(), 0, FIRST)
    with pytest.raises(PipelineBroken, match="stage 'seg2' has not finished frame 0"):
        pipeline.next()
    assert pipeline.counts == Counts(2, 1, 1)
    assert pipeline.close(timeout_s=0.1) is False
