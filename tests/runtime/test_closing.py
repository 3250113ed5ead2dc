"""Sources, sinks and ends: streams that end, fail, block or are left; pipelines closed while others use them."""

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cascadert.errors import FrameCancelled, InvalidRequest, NoResultYet
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Counts, Submission
from tests.runtime.faults import (
    LONG_S,
    NEVER,
    SETUPS,
    SHORT_S,
    Faults,
    Hold,
    Raise,
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
    wanted,
)

setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: f"{setup[0]}-{'one' if setup[1] else 'two'}")


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    assert our_threads() == set()
    yield
    assert soon(lambda: our_threads() == set())


@pytest.fixture
def hold() -> Iterator[Hold]:
    held = Hold()
    yield held
    held.released.set()


def frames(count: int) -> Iterator[Submission]:
    return (Submission(numbered(i), context=i) for i in range(count))


def assert_usable(pipeline: Pipeline) -> None:
    """The pipeline has forgotten everything, and works."""
    assert pipeline.counts.in_flight == 0
    assert np.array_equal(pipeline.infer(numbered(7)).labels, wanted(7))
    results = list(pipeline.stream(frames(3)))
    assert [result.ticket.context for result in results] == [0, 1, 2]


@setups
@pytest.mark.parametrize("count", [0, 1, 2, 12])
def test_a_source_that_ends_ends_the_stream_after_every_result(setup: Any, count: int) -> None:
    with faulty_pipeline(setup) as pipeline:
        for i, result in enumerate(pipeline.stream(frames(count))):
            assert result.ticket.number == result.ticket.context == i
            assert np.array_equal(result.labels, wanted(i))
        assert pipeline.counts == Counts(count, count)
        assert_usable(pipeline)


@setups
@pytest.mark.parametrize("count", [0, 1, 12])
def test_what_a_source_raises_comes_after_the_results_of_all_frames_before(setup: Any, count: int) -> None:
    def failing() -> Iterator[Submission]:
        yield from frames(count)
        raise ConnectionError("camera unplugged")

    seen = []
    with faulty_pipeline(setup) as pipeline:
        with pytest.raises(ConnectionError, match="unplugged"):
            seen.extend(pipeline.stream(failing()))
        assert [result.ticket.number for result in seen] == list(range(count))
        assert pipeline.counts == Counts(count, count)
        assert_usable(pipeline)


def test_a_frame_that_does_not_fit_ends_the_stream_in_its_turn() -> None:
    source = [numbered(0), numbered(1), np.zeros((2, 2, 3), np.uint8), numbered(3)]
    seen = []
    with faulty_pipeline() as pipeline:
        with pytest.raises(InvalidRequest, match="frame: is uint8"):
            seen.extend(pipeline.stream(source))
        assert len(seen) == 2
        assert_usable(pipeline)


@setups
def test_a_stage_that_raises_ends_the_stream_in_its_turn(setup: Any) -> None:
    seen = []
    with faulty_pipeline(setup, Faults({"fast": Raise(on=(4,))})) as pipeline:
        with pytest.raises(Exception, match="stage 'fast': failed with ValueError") as raised:
            seen.extend(pipeline.stream(frames(1000)))
        assert len(seen) == 4 and raised.value.ticket.number == 4
        counts = pipeline.counts
        assert (counts.delivered, counts.failed, counts.cancelled) == (4, 1, counts.submitted - 5)
        pipeline._executables["fast"]._running = lambda number: None
        assert_usable(pipeline)


@setups
def test_a_consumer_that_stops_early_leaves_a_usable_pipeline(setup: Any) -> None:
    read = itertools.count()
    with faulty_pipeline(setup) as pipeline:
        results = pipeline.stream(Submission(numbered(next(read))) for _ in range(10_000))
        for _ in range(3):
            next(results)
        results.close()
        counts = pipeline.counts
        assert (counts.delivered, counts.cancelled, counts.in_flight) == (3, counts.submitted - 3, 0)
        assert soon(lambda: "cascadert-reader" not in our_threads())
        assert next(read) <= 3 + pipeline.slots + 4  # and it did not read on
        assert_usable(pipeline)


def test_a_stream_is_read_no_further_than_there_is_room() -> None:
    """A sink that is slow holds the source up, and nothing piles up meanwhile."""
    device, read, ahead, allocated = HostDevice(), [0], [], []

    def source() -> Iterator[Submission]:
        for i in range(60):
            read[0] += 1
            yield Submission(numbered(i))

    with faulty_pipeline(device=device) as pipeline:
        for taken, _ in enumerate(pipeline.stream(source()), 1):
            time.sleep(0.003)
            ahead.append(read[0] - taken)
            allocated.append(device.allocated_bytes)
        assert pipeline.counts == Counts(60, 60)
        room = pipeline.slots + 1 + pipeline.options.queue
    assert max(ahead) <= room + 1  # one more in the source's hand
    assert max(ahead) >= room - 1  # it did read ahead
    assert len(set(allocated)) == 1


def test_a_source_that_blocks_for_ever_keeps_nobody_who_leaves() -> None:
    more = threading.Event()

    def camera() -> Iterator[Submission]:
        yield from frames(2)
        assert more.wait(4 * LONG_S)
        yield from frames(5)

    with faulty_pipeline() as pipeline:
        results = pipeline.stream(camera())
        assert [next(results).ticket.number, next(results).ticket.number] == [0, 1]
        results.close()
        assert "cascadert-reader" in our_threads()  # a daemon, until its source lets it go
        assert pipeline.infer(numbered(3)).ticket.number == 2
        more.set()
        assert soon(lambda: "cascadert-reader" not in our_threads())
        assert pipeline.counts == Counts(3, 3)  # and what it read then went nowhere


def test_a_stream_that_waits_for_its_source_hears_of_close() -> None:
    more = threading.Event()

    def camera() -> Iterator[Submission]:
        yield from frames(1)
        assert more.wait(4 * LONG_S)

    pipeline = faulty_pipeline()
    with background(lambda: list(pipeline.stream(camera()))) as found:
        assert soon(lambda: pipeline.counts.delivered == 1)
        assert pipeline.close()
    more.set()
    assert isinstance(found[0], InvalidRequest) and "is closed" in str(found[0])


@setups
def test_close_cancels_what_is_in_flight(setup: Any, hold: Hold) -> None:
    pipeline = faulty_pipeline(setup, Faults({"accurate": hold}))
    submit(pipeline, 0, policies={"accurate": NEVER})
    assert soon(lambda: pipeline._ledger.untaken() != [])
    submit(pipeline, 1)
    submit(pipeline, 2)
    assert hold.entered.wait(LONG_S)
    with background(pipeline.close) as closed:
        assert soon(lambda: pipeline._ledger._closed is not None and not pipeline._ledger._waiting)
        assert soon(lambda: all(job.error for job in list(pipeline._scheduler._running.values())))
        hold.released.set()
    assert closed == [True]
    assert pipeline.next().ticket.number == 0  # it was finished before
    fates = [take(pipeline) for _ in range(2)]
    assert [type(fate.error) for fate in fates] == [FrameCancelled] * 2
    assert pipeline.counts == Counts(3, 1, 0, 0, 2)
    with pytest.raises(InvalidRequest, match="is closed"):
        pipeline.next()


@setups
def test_close_can_finish_what_is_in_flight(setup: Any) -> None:
    """Also frames for which there was no room until now, as nobody takes results."""
    pipeline = faulty_pipeline(setup)
    number = fill(pipeline)
    assert number == pipeline.slots + 1 + pipeline.options.queue
    start = time.monotonic()
    assert pipeline.close(drain=True)
    assert time.monotonic() - start < 5
    fates = [take(pipeline) for _ in range(number)]
    assert names(fates) == ["delivered"] * number
    assert pipeline.counts == Counts(number, number)
    with pytest.raises(InvalidRequest, match="is closed"):
        pipeline.next()


@setups
@pytest.mark.parametrize("drain", [False, True])
def test_close_from_another_thread_ends_whoever_waits(setup: Any, drain: bool, hold: Hold) -> None:
    pipeline = faulty_pipeline(setup, Faults({"accurate": hold}))
    submitted = []

    def keep_submitting() -> None:
        for number in itertools.count():
            submit(pipeline, number)
            submitted.append(number)

    def keep_taking() -> Any:
        fates = []
        try:
            while True:
                fates.append(take(pipeline))
        except InvalidRequest as error:
            return fates, error

    with background(keep_submitting) as refused, background(keep_taking) as taken:
        assert hold.entered.wait(LONG_S)
        with background(lambda: pipeline.close(drain=drain)) as closed:
            assert soon(lambda: refused != [])  # who waits for room hears of it at once
            assert drain or soon(lambda: all(job.error for job in list(pipeline._scheduler._running.values())))
            hold.released.set()
        assert closed == [True]
    assert isinstance(refused[0], InvalidRequest) and "is closed" in str(refused[0])
    fates, error = taken[0]
    assert "is closed" in str(error)
    assert [fate.number for fate in fates] == submitted
    assert set(names(fates)) == {"delivered" if drain else "FrameCancelled"}
    assert pipeline.counts.in_flight == 0


def test_closing_twice_says_the_same_and_waits_for_the_first(hold: Hold) -> None:
    pipeline = faulty_pipeline(faults=Faults({"fast": hold}))
    submit(pipeline, 0)
    assert hold.entered.wait(LONG_S)
    with background(pipeline.close) as first, background(pipeline.close) as second:
        time.sleep(SHORT_S)
        assert first == second == []
        hold.released.set()
    assert (first, second) == ([True], [True])
    assert pipeline.close()
    assert all(stage.closed for stage in pipeline._executables.values())


def test_giving_up_forgets_every_frame(hold: Hold) -> None:
    with faulty_pipeline(faults=Faults({"accurate": hold})) as pipeline:
        for number in range(4):
            submit(pipeline, number)
        assert hold.entered.wait(LONG_S)
        assert pipeline.give_up(SHORT_S) is False
        hold.released.set()
        assert pipeline.give_up(LONG_S) is True
        assert pipeline.counts == Counts(4, 0, 0, 0, 4)
        assert_usable(pipeline)


def test_giving_up_leaves_frames_that_come_later_alone(hold: Hold) -> None:
    with faulty_pipeline(faults=Faults({"accurate": hold})) as pipeline:
        submit(pipeline, 0)
        assert hold.entered.wait(LONG_S)
        with background(pipeline.give_up) as given_up:
            assert soon(lambda: pipeline._scheduler._running[0].error is not None)
            submit(pipeline, 1)
            hold.released.set()
        assert given_up == [True]
        fate = take(pipeline)
        assert (fate.number, fate.name) == (1, "delivered")
        assert pipeline.counts == Counts(2, 1, 0, 0, 1)


def test_waiting_ends_in_time(hold: Hold) -> None:
    with faulty_pipeline(faults=Faults({"fast": hold})) as pipeline:
        for timeout_s in (0.0, SHORT_S):
            with pytest.raises(NoResultYet, match=r"^next: 0 frames are in flight"):
                pipeline.next(timeout_s)
        number = fill(pipeline)
        with pytest.raises(NoResultYet, match=r"^submit: \d frames are in flight after 0.05 s; take results"):
            submit(pipeline, number, timeout_s=SHORT_S)
        with pytest.raises(NoResultYet, match=rf"^next: {number} frames are in flight, and none is done after 0 s"):
            pipeline.next(0.0)
        with background(lambda: submit(pipeline, number)) as waiting:
            assert soon(pipeline._submitting.locked)
            with pytest.raises(NoResultYet, match=r"^submit: others have waited"):  # behind one who has no limit
                submit(pipeline, 99, timeout_s=SHORT_S)
            hold.released.set()
            fates = [take(pipeline) for _ in range(number)]
        assert waiting == [None]
        assert names([*fates, take(pipeline)]) == ["delivered"] * (number + 1)


@pytest.mark.parametrize("verb", ["infer", "stream"])
def test_whole_runs_are_refused_while_frames_are_in_flight(verb: str) -> None:
    with faulty_pipeline() as pipeline:
        submit(pipeline, 0)
        with pytest.raises(InvalidRequest, match=rf"^{verb}: 1 frames are in flight; take their results"):
            getattr(pipeline, verb)(numbered(1))
        assert names([take(pipeline)]) == ["delivered"]
        assert_usable(pipeline)


def test_a_closed_pipeline_is_freed() -> None:
    device = HostDevice()
    with faulty_pipeline(device=device) as pipeline:
        run(pipeline, range(4))
        assert device.allocated_bytes > 0
    gone = weakref.ref(pipeline)
    del pipeline
    gc.collect()
    assert gone() is None
    assert device.allocated_bytes == 0
