"""Anytime inference under a simulated clock: the result is what was finished by the deadline, and nothing is lost."""

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.errors import ExecutionError, InvalidRequest, PipelineBroken
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.deadlines import Deadlines
from cascadert.runtime.job import Job
from cascadert.runtime.ledger import Ledger
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Counts, Result, Submission, Ticket
from cascadert.runtime.selection import Decider
from cascadert.runtime.slots import Staging
from tests.runtime.exits import ANYTIME, CHAIN, EXITS, Opening, Simulated, ended, outcomes
from tests.runtime.faults import ALWAYS, LONG_S, NEVER, SETUPS, Hold, background, numbered, our_threads, soon
from tests.runtime.plant import TWO
from tests.runtime.test_planes import Gpu, OnGpu
from tests.runtime.wild import Wild

STAGES = [stage.name for stage in ANYTIME.manifest.stages]
TWO_STAGES = Wild(TWO, {"fast": 1, "accurate": 1})
REFINED, SKIPPED = {"accurate": ALWAYS}, {"accurate": NEVER}
DEADLINE_MS, TICK_S = 100.0, 0.01
setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: f"{setup[0]}-{'one' if setup[1] else 'two'}")


@pytest.fixture
def hold() -> Iterator[Hold]:
    held = Hold(on=(0,))
    yield held
    held.released.set()
    assert soon(lambda: our_threads() == set())


class Played:
    """A pipeline each of whose stages ends when the test says so, and a clock that the test moves."""

    def __init__(self, setup: Any = ("overlapped", True), wild: Wild = ANYTIME, **options: Any) -> None:
        self.wild, self.clock = wild, Simulated()
        self.may_end = {stage.name: threading.Event() for stage in wild.manifest.stages}
        waits = {name: lambda _, event=event: event.wait(LONG_S) for name, event in self.may_end.items()}
        self.pipeline: Pipeline = Opening(waits, setup=setup, now=self.clock)(wild, **options)

    def submit(self, **options: Any) -> Job:
        """Submit the first frame."""
        self.pipeline.submit(numbered(0), **options)
        self.job = self.pipeline._ledger._order[0]
        return self.job

    def end(self, stage: str) -> None:
        """Let a stage end, and see that it did."""
        self.may_end[stage].set()
        assert soon(lambda: stage in ended(self.job))

    def pass_to(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.seconds = seconds
        self.pipeline._scheduler.nudge()

    def end_all(self) -> None:
        """Let every stage end."""
        for event in self.may_end.values():
            event.set()


def assert_labels(wild: Wild, result: Result, number: int, stage: str, policies: Any = None) -> None:
    assert result.labels_from == stage
    assert np.array_equal(result.labels, wild.expected(numbered(number), policies or {}).labels_of(stage))


@st.composite
def endings(draw: st.DrawFn) -> list[str]:
    """Any order in which stages can end: each after the one that it reads."""
    left, order = list(STAGES), list[str]()
    while left:
        ready = [name for name in left if name == "seg1" or _source(name) in order]
        order.append(draw(st.sampled_from(ready)))
        left.remove(order[-1])
    return order


def _source(stage: str) -> str:
    kind, number = stage[:-1], int(stage[-1])
    return f"seg{number}" if kind == "exit" else f"seg{number - 1}"


@settings(max_examples=60, deadline=None)
@given(order=endings(), unified=st.booleans())
@pytest.mark.parametrize("before", range(2 * EXITS + 1))
def test_the_result_is_that_of_the_last_exit_done_before_the_deadline(
    before: int, order: list[str], unified: bool
) -> None:
    """The deadline is anywhere between any two completions; without an exit before it, the first one counts."""
    played = Played(("overlapped", unified), timeout_s=None)
    with played.pipeline as pipeline:
        job = played.submit(deadline_ms=1e3 * (before + 0.5) * TICK_S)
        for tick, stage in enumerate(order[:before], 1):
            played.pass_to(tick * TICK_S)
            played.end(stage)
        finished = [stage for stage in order[:before] if stage.startswith("exit")]
        if before < len(order):
            played.pass_to((before + 1) * TICK_S)
            assert soon(lambda: job.is_expired and (job.is_finished or not finished))
        for stage in order[before:] if not finished else ():
            played.end(stage)
            if stage.startswith("exit"):
                finished = [stage]
                break
        result = pipeline.next(LONG_S)
        assert_labels(ANYTIME, result, 0, max(finished))
        assert result.expired == (before < len(order))
        played.end_all()
        after = pipeline.infer(numbered(1))  # and nothing of it is left
        assert_labels(ANYTIME, after, 1, f"exit{EXITS}")
        assert not after.expired and set(outcomes(after).values()) == {"ran"}
        assert pipeline.counts == Counts(2, 2)


@pytest.mark.parametrize("unified", [True, False])
def test_on_one_stream_what_runs_is_waited_for_and_nothing_more(unified: bool) -> None:
    played = Played(("serial", unified))
    with played.pipeline as pipeline:
        job = played.submit(deadline_ms=DEADLINE_MS)
        for stage in ("seg1", "exit1", "seg2", "exit2"):
            played.end(stage)
        assert soon(lambda: pipeline._executables["seg3"].queued == 1)
        played.pass_to(1.0)
        assert soon(lambda: job.is_expired)
        played.end_all()
        result = pipeline.next(LONG_S)
        assert_labels(ANYTIME, result, 0, "exit2")
        assert outcomes(result) == {**dict.fromkeys(STAGES, "ran"), "seg3": "expired", "exit3": "expired"}
        assert pipeline._executables["exit3"].queued == 0


@setups
def test_a_refinement_that_is_not_finished_leaves_the_labels_before_it(setup: Any, hold: Hold) -> None:
    clock = Simulated()
    with Opening({"accurate": hold}, setup=setup, now=clock)(TWO_STAGES, tensors="all") as pipeline:
        pipeline.submit(numbered(0), policies=REFINED, deadline_ms=DEADLINE_MS)
        job = pipeline._ledger._order[0]
        assert hold.entered.wait(LONG_S)
        clock.seconds = 0.2
        pipeline._scheduler.nudge()
        assert soon(lambda: job.is_expired)
        if setup[0] == "serial":
            hold.released.set()
        result = pipeline.next(LONG_S)
        assert_labels(TWO_STAGES, result, 0, "fast", REFINED)
        assert (result.expired, outcomes(result)) == (True, {"fast": "ran", "accurate": "expired"})
        run = result.runs[1]
        assert (run.n, run.milliseconds, len(run.scores), run.stage) == (8, 0.0, 8, "accurate")
        assert {name.split(".")[0] for name in result.tensors} == {"fast"}
        assert result.latency_ms == pytest.approx(200.0)
        pipeline.submit(numbered(1), policies=REFINED)  # without a deadline, behind what was given up
        hold.released.set()
        after = pipeline.next(LONG_S)
        assert_labels(TWO_STAGES, after, 1, "accurate", REFINED)
        assert pipeline.counts == Counts(2, 2)


def test_a_frame_whose_turn_comes_too_late_is_not_refined(hold: Hold) -> None:
    """Its deadline passed while it waited: the first labels are its result."""
    clock = Simulated()
    with Opening({"fast": hold}, now=clock)(TWO_STAGES, slots=1) as pipeline:
        for number in range(2):
            pipeline.submit(numbered(number), policies=REFINED, deadline_ms=None if number == 0 else DEADLINE_MS)
        assert hold.entered.wait(LONG_S)
        clock.seconds = 1.0
        hold.released.set()
        assert_labels(TWO_STAGES, pipeline.next(LONG_S), 0, "accurate", REFINED)
        result = pipeline.next(LONG_S)
        assert_labels(TWO_STAGES, result, 1, "fast", REFINED)
        assert result.expired and outcomes(result)["accurate"] == "expired"
        assert pipeline._executables["accurate"].queued == 1


def test_with_a_deadline_stages_are_queued_one_by_one(hold: Hold) -> None:
    """What is queued cannot be taken back."""
    with Opening({"seg1": hold})(ANYTIME) as pipeline:
        pipeline.submit(numbered(0), deadline_ms=1e9)
        assert hold.entered.wait(LONG_S)
        pipeline.submit(numbered(1))
        assert soon(lambda: pipeline._executables["exit3"].queued == 1)  # of the frame without one
        assert pipeline._executables["seg2"].queued == 1
        hold.released.set()
        for number in range(2):
            result = pipeline.next(LONG_S)
            assert_labels(ANYTIME, result, number, "exit3")
            assert not result.expired


def test_a_guess_that_is_finished_is_not_certain(hold: Hold) -> None:
    """Nor is what it made a result; and it is dropped with the rest."""
    clock, always = Simulated(), {"seg2": ALWAYS, "seg3": ALWAYS}
    with Opening({"exit2": hold}, now=clock)(CHAIN) as pipeline:
        pipeline.submit(numbered(0), policies=always, deadline_ms=DEADLINE_MS)
        job = pipeline._ledger._order[0]
        assert soon(lambda: "seg3" in ended(job))
        clock.seconds = 1.0
        pipeline._scheduler.nudge()
        result = pipeline.next(LONG_S)
        hold.released.set()
        assert_labels(CHAIN, result, 0, "exit1", always)
        assert [span.name for span in result.spans if span.dropped] == ["seg3"]
        assert outcomes(result) == {
            **dict.fromkeys(STAGES, "ran"), "exit2": "expired", "seg3": "expired", "exit3": "expired",
        }  # fmt: skip


@pytest.mark.parametrize("rule", [True, False], ids=["with the rule", "without"])
def test_memory_is_not_used_again_while_what_was_given_up_reads_it(
    rule: bool, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not rule:
        finished = Ledger.finished
        monkeypatch.setattr(
            Ledger, "finished", lambda self, job: (setattr(job, "has_ended", True), finished(self, job))
        )
        monkeypatch.setattr(Ledger, "ended", lambda self, job: None)
    reading, clock = Hold(on=(0,)), Simulated()
    with Opening(now=clock)(TWO_STAGES) as pipeline:
        accurate = pipeline._executables["accurate"]
        accurate._delay = lambda: reading(accurate.runs - 1)  # while it reads
        pipeline.submit(numbered(0), policies=REFINED, deadline_ms=DEADLINE_MS)
        assert reading.entered.wait(LONG_S)
        clock.seconds = 1.0
        pipeline._scheduler.nudge()
        assert_labels(TWO_STAGES, pipeline.next(LONG_S), 0, "fast", REFINED)
        room = len(pipeline._ledger._free)
        for number in (1, 2):
            assert_labels(TWO_STAGES, pipeline.infer(numbered(number), SKIPPED), number, "fast", SKIPPED)
        for number in (3, 4, 5):  # their slots wait for it; as many frames as there are stagings
            pipeline.submit(numbered(number), policies=SKIPPED)
        reading.released.set()
        for number in (3, 4, 5):
            assert_labels(TWO_STAGES, pipeline.next(LONG_S), number, "fast", SKIPPED)
        assert soon(lambda: accurate.runs >= 1 and not pipeline._scheduler._running)
        assert (accurate.disturbed == []) == rule
        assert (room, pipeline.slots) == (5 - rule, 3)
        assert pipeline.broken is None


@pytest.mark.parametrize("unified", [True, False])
def test_a_borrowed_frame_is_held_while_what_was_given_up_may_read_it(unified: bool, hold: Hold) -> None:
    clock = Simulated()
    opening = Opening({"accurate": hold}, setup=("overlapped", unified), device=Gpu(unified), now=clock)
    with opening(TWO_STAGES) as pipeline:
        array = OnGpu(numbered(0))
        gone = weakref.ref(array)
        pipeline.submit(array, policies=REFINED, deadline_ms=DEADLINE_MS)
        del array
        assert hold.entered.wait(LONG_S)
        clock.seconds = 1.0
        pipeline._scheduler.nudge()
        assert_labels(TWO_STAGES, pipeline.next(LONG_S), 0, "fast", REFINED)
        gc.collect()
        assert gone() is not None
        hold.released.set()
        assert soon(lambda: not pipeline._scheduler._running)
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("in_time", [True, False])
def test_a_failure_concerns_the_frame_if_it_comes_before_the_deadline(in_time: bool) -> None:
    held, clock = Hold(), Simulated()

    def burn(number: int) -> None:
        held(number)
        raise ValueError("burnt")

    with Opening({"accurate": burn}, now=clock)(TWO_STAGES) as pipeline:
        pipeline.submit(numbered(0), policies=REFINED, deadline_ms=DEADLINE_MS)
        assert held.entered.wait(LONG_S)
        if in_time:
            held.released.set()
            with pytest.raises(ExecutionError, match=r"^stage 'accurate': failed with ValueError\('burnt'\)"):
                pipeline.next(LONG_S)
        else:
            clock.seconds = 1.0
            pipeline._scheduler.nudge()
            assert_labels(TWO_STAGES, pipeline.next(LONG_S), 0, "fast", REFINED)
            held.released.set()
            assert soon(lambda: not pipeline._scheduler._running)
        assert pipeline.broken is None
        assert pipeline.counts == Counts(1, int(not in_time), int(in_time))


def test_a_frame_that_was_cut_short_teaches_nothing(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(Decider, "observe", lambda self, observation: seen.append(observation))
    clock, costs = Simulated(), {"accurate": StageCosts(1.0, ((1, 1.0),))}
    with Opening({"accurate": hold}, now=clock)(TWO_STAGES, costs=costs) as pipeline:
        pipeline.submit(numbered(0), policies=REFINED, deadline_ms=DEADLINE_MS)
        assert hold.entered.wait(LONG_S)
        clock.seconds = 1.0
        pipeline._scheduler.nudge()
        assert pipeline.next(LONG_S).expired
        assert seen == []
        hold.released.set()
        pipeline.submit(numbered(1), policies=REFINED, deadline_ms=DEADLINE_MS)
        assert not pipeline.next(LONG_S).expired
        assert [observation.n for observation in seen] == [8]


def test_what_was_given_up_and_hangs_breaks_the_pipeline_in_the_end(
    hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascadert.runtime.pipeline._LEAST_S", 0.02)
    pipeline = Opening({"accurate": hold})(TWO_STAGES, timeout_s=0.3)
    pipeline.submit(numbered(0), policies=REFINED, deadline_ms=20)
    result = pipeline.next(LONG_S)
    assert_labels(TWO_STAGES, result, 0, "fast", REFINED)
    assert soon(lambda: pipeline.broken is not None)
    assert "stage 'accurate' has not finished frame 0" in str(pipeline.broken)
    with pytest.raises(PipelineBroken):
        pipeline.submit(numbered(1))
    assert pipeline.counts == Counts(1, 1)
    assert pipeline.close(timeout_s=0.1) is False


def test_every_frame_has_the_deadline_of_the_options_or_its_own() -> None:
    clock = Simulated()
    with Opening(now=clock)(TWO_STAGES, deadline_ms=50.0) as pipeline:
        pipeline.submit(numbered(0))
        pipeline.submit(numbered(1), deadline_ms=70.0)
        jobs = list(pipeline._ledger._order)
        assert [job.deadline_s for job in jobs] == [pytest.approx(0.05), pytest.approx(0.07)]
        assert [pipeline.next(LONG_S).expired for _ in jobs] == [False, False]
        for wrong in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(InvalidRequest, match=r"^deadline_ms: is .*; give milliseconds above 0, or none"):
                pipeline.submit(numbered(2), deadline_ms=wrong)
        (result,) = pipeline.stream([Submission(numbered(2), deadline_ms=1e9)], REFINED)
        assert not result.expired


def test_a_deadline_wakes_the_scheduler_by_itself(hold: Hold) -> None:
    """By the real clock; nothing else happens meanwhile."""
    with Opening({"accurate": hold})(TWO_STAGES, timeout_s=None, deadline_ms=30.0) as pipeline:
        pipeline.submit(numbered(0), policies=REFINED)
        with background(lambda: pipeline.next(LONG_S)) as found:
            pass
        hold.released.set()
        assert_labels(TWO_STAGES, found[0], 0, "fast", REFINED)
        assert found[0].latency_ms >= 30.0


def test_the_nearest_deadline_counts_and_frames_that_are_out_do_not() -> None:
    clock = Simulated(10.0)
    deadlines = Deadlines(clock)
    jobs = [Job(Ticket(i), Staging({}, {}), {}, {}, [], 0.0, due) for i, due in enumerate([12.0, None, 11.0, 13.0])]
    assert deadlines.left_s == float("inf")
    for job in jobs:
        deadlines.watch(job)
    assert deadlines.left_s == 1.0 and deadlines.passed() == []
    clock.seconds = 12.0
    jobs[0].is_queued = True
    assert deadlines.passed() == [jobs[2]]
    assert deadlines.left_s == 1.0
