"""Stages that hang: their frame fails at the time-out, the others with the news, and nobody waits for ever."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cascadert.errors import FrameCancelled, InvalidRequest, PipelineBroken, StageTimeout
from cascadert.runtime.results import Counts
from cascadert.spec import TopKPolicy
from tests.runtime.faults import (
    LONG_S,
    SETUPS,
    SHORT_S,
    Faults,
    Hold,
    background,
    faulty_pipeline,
    fill,
    names,
    numbered,
    our_threads,
    run,
    soon,
    submit,
    take,
)
from tests.runtime.plant import BLOCKS, THREE

TIMEOUT_S = 0.25
setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: f"{setup[0]}-{'one' if setup[1] else 'two'}")
stages = pytest.mark.parametrize("stage", ["fast", "accurate"])


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascadert.runtime.pipeline._LEAST_S", 0.02)


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Holds frame 2; what was abandoned must end once it is released."""
    assert our_threads() == set()
    held = Hold(on=(2,))
    yield held
    held.released.set()
    assert soon(lambda: our_threads() == set())


@setups
@stages
def test_a_hung_stage_fails_its_frame_and_breaks_the_pipeline(setup: Any, stage: str, hold: Hold) -> None:
    pipeline = faulty_pipeline(setup, Faults({stage: hold}), timeout_s=TIMEOUT_S)
    if setup[1]:  # everything is queued when it hangs
        pipeline.set_policy("accurate", TopKPolicy(k=BLOCKS))
    assert names(run(pipeline, range(2))) == ["delivered"] * 2
    frames = fill(pipeline, first=2)
    fates = [take(pipeline) for _ in range(frames)]
    assert names(fates) == ["StageTimeout"] + ["PipelineBroken"] * (frames - 1)
    assert [fate.number for fate in fates] == list(range(2, 2 + frames))
    assert str(fates[0].error).startswith(f"stage '{stage}': has not finished frame 2 after 0.")
    assert f"stage '{stage}' has not finished frame 2" in str(fates[1].error)
    assert type(fates[0].error) is StageTimeout
    assert pipeline.counts == Counts(2 + frames, 2, frames)
    assert isinstance(pipeline.broken, PipelineBroken)
    for ask in (lambda: submit(pipeline, 9), lambda: pipeline.next(LONG_S), lambda: pipeline.infer(numbered(9))):
        with pytest.raises(PipelineBroken, match="has not finished frame 2"):
            ask()
    start = time.monotonic()
    assert pipeline.close(timeout_s=0.1) is False
    assert pipeline.close() is False
    assert time.monotonic() - start < LONG_S / 2
    hung = "cascadert-serial" if setup[0] == "serial" else f"cascadert-{stage}"
    assert soon(lambda: our_threads() == {hung})
    assert not any(stage.closed for stage in pipeline._executables.values())  # one of them still runs
    hold.released.set()
    assert soon(lambda: our_threads() == set())
    assert pipeline.counts == Counts(2 + frames, 2, frames)


@setups
def test_a_hung_stage_ends_a_stream(setup: Any, hold: Hold) -> None:
    pipeline = faulty_pipeline(setup, Faults({"accurate": hold}), timeout_s=TIMEOUT_S)
    seen = []
    with pytest.raises(StageTimeout, match="frame 2") as raised:
        seen.extend(pipeline.stream(numbered(i) for i in range(1000)))
    assert len(seen) == 2
    assert raised.value.ticket.number == 2
    counts = pipeline.counts
    assert (counts.delivered, counts.failed, counts.in_flight) == (2, 1, 0)
    assert counts.cancelled == counts.submitted - 3 > 0
    assert pipeline.close(timeout_s=0.1) is False


def test_others_who_wait_hear_of_it(hold: Hold) -> None:
    """A thread that waits for room, and one that waits for a result that will never come."""
    pipeline = faulty_pipeline(faults=Faults({"fast": hold}), timeout_s=TIMEOUT_S)
    assert names(run(pipeline, range(2))) == ["delivered"] * 2
    fill(pipeline, first=2)
    with background(lambda: submit(pipeline, 99)) as refused, background(lambda: take(pipeline).name) as taken:
        pass
    assert isinstance(refused[0], PipelineBroken)
    assert taken == ["StageTimeout"]
    while pipeline.counts.in_flight:
        assert take(pipeline).name == "PipelineBroken"
    with pytest.raises(PipelineBroken):
        pipeline.next()
    assert pipeline.close(timeout_s=0.1) is False


def test_frames_that_come_in_while_it_breaks_fail_too(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that has room already when the others fail."""
    pipeline = faulty_pipeline(faults=Faults({"fast": hold}), timeout_s=TIMEOUT_S)
    run(pipeline, range(2))
    reserve = pipeline._ledger.reserve

    def slow(deadline: Any) -> Any:
        staging = reserve(deadline)
        assert soon(lambda: pipeline._ledger._closed is not None)
        return staging

    submit(pipeline, 2)
    monkeypatch.setattr(pipeline._ledger, "reserve", slow)
    submit(pipeline, 3)
    assert names([take(pipeline), take(pipeline)]) == ["StageTimeout", "PipelineBroken"]
    assert pipeline.counts == Counts(4, 2, 2)
    assert pipeline.close(timeout_s=0.1) is False


@setups
@pytest.mark.parametrize("drain", [False, True])
def test_close_gives_a_stage_that_hangs_up(setup: Any, drain: bool, hold: Hold) -> None:
    """Without a time-out for stages nobody but close notices; who waits for a result is told."""
    pipeline = faulty_pipeline(setup, Faults({"accurate": hold}), timeout_s=None)
    run(pipeline, range(2))
    frames = fill(pipeline, first=2)
    with background(lambda: [take(pipeline) for _ in range(frames)]) as fates:
        assert hold.entered.wait(LONG_S)
        assert pipeline.close(drain=drain, timeout_s=0.3) is False
    assert names(fates[0]) == ["FrameCancelled"] * frames
    assert pipeline.counts == Counts(2 + frames, 2, 0, 0, frames)
    with pytest.raises(InvalidRequest, match="is closed"):
        pipeline.next()


def test_a_stage_that_hangs_while_it_is_queued_is_given_up_by_close(hold: Hold) -> None:
    """It breaks the contract of executables and blocks the scheduler itself; close returns all the same."""
    pipeline = faulty_pipeline(faults=Faults(queueing={"accurate": hold}), timeout_s=TIMEOUT_S)
    run(pipeline, range(2))
    submit(pipeline, 2)
    submit(pipeline, 3)
    with background(lambda: [take(pipeline) for _ in range(2)]) as fates:
        assert hold.entered.wait(LONG_S)
        assert pipeline.close(timeout_s=0.1) is False
    assert [type(fate.error) for fate in fates[0]] == [FrameCancelled, FrameCancelled]
    assert "still running when the pipeline was closed" in str(fates[0][0].error)


def test_a_stage_that_is_slow_is_none_that_hangs() -> None:
    """Three stages that take longer together than one may."""
    slow = {stage.name: lambda _: time.sleep(0.5) for stage in THREE.stages}
    with faulty_pipeline(faults=Faults(slow), manifest=THREE, timeout_s=1.2) as pipeline:
        pipeline.submit(numbered(0))
        assert [run.n for run in pipeline.next(LONG_S).runs] == [None, BLOCKS, BLOCKS]
        assert pipeline.broken is None


def test_queueing_that_is_slow_is_no_stage_that_hangs() -> None:
    """Engines that compile when they first run keep the scheduler itself busy: then nobody waits for the device."""
    slow = {stage.name: lambda _: time.sleep(2 * TIMEOUT_S) for stage in THREE.stages}
    with faulty_pipeline(faults=Faults(queueing=slow), manifest=THREE, timeout_s=TIMEOUT_S) as pipeline:
        pipeline.submit(numbered(0))
        pipeline.next(LONG_S)
        assert pipeline.broken is None


def test_an_idle_pipeline_does_not_hang() -> None:
    with faulty_pipeline(timeout_s=SHORT_S) as pipeline:
        for number in range(3):
            time.sleep(4 * SHORT_S)
            submit(pipeline, number)
            assert take(pipeline).name == "delivered"


def test_messages_that_are_no_progress_do_not_hide_a_stage_that_hangs(hold: Hold) -> None:
    pipeline = faulty_pipeline(faults=Faults({"accurate": hold}), timeout_s=TIMEOUT_S, overflow="drop-oldest")
    run(pipeline, range(2))
    submit(pipeline, 2)
    over = threading.Event()

    def insist() -> None:
        while not over.wait(0.002):
            pipeline._scheduler.nudge()

    with background(insist):
        assert take(pipeline).name == "StageTimeout"
        over.set()
    assert pipeline.close(timeout_s=0.1) is False
