"""Too many frames: who waits, who is dropped, and that every frame has one fate."""

import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.errors import CascadertError, InvalidRequest
from cascadert.runtime.results import Counts, Submission
from tests.runtime.faults import (
    LONG_S,
    Faults,
    Hold,
    Raise,
    background,
    faulty_pipeline,
    fill,
    names,
    numbered,
    soon,
    submit,
    take,
    wanted,
)


@pytest.fixture
def hold():
    held = Hold()
    yield held
    held.released.set()


def fill_all(pipeline: Any, hold: Hold) -> int:
    """Submit frames until no more can begin, and as many wait as may; return how many there are."""
    submit(pipeline, 0)
    assert hold.entered.wait(LONG_S)
    for number in range(1, pipeline.slots):
        submit(pipeline, number)
        assert soon(lambda: not pipeline._ledger._waiting)
    for number in range(pipeline.slots, pipeline.slots + pipeline.options.queue):
        submit(pipeline, number)
    return pipeline.slots + pipeline.options.queue


@pytest.mark.parametrize("queue", [1, 2, 5])
@pytest.mark.parametrize("mode", ["overlapped", "serial"])
def test_the_oldest_that_waits_is_dropped_for_the_newest(mode: str, queue: int, hold: Hold) -> None:
    """What began is finished, what waited longest goes, and the newest is always there."""
    faults = Faults({"fast": hold})
    with faulty_pipeline((mode, True), faults, overflow="drop-oldest", queue=queue) as pipeline:
        begun = fill_all(pipeline, hold) - queue
        for number in range(begun + queue, begun + queue + 7):
            submit(pipeline, number, timeout_s=0.0)  # never waits
        assert pipeline.counts == Counts(begun + queue + 7, 0, 0, 7)
        hold.released.set()
        results = [pipeline.next(LONG_S) for _ in range(begun + queue)]
        assert [r.ticket.number for r in results] == [*range(begun), *range(begun + 7, begun + queue + 7)]
        assert [r.dropped for r in results] == [7 if i == begun else 0 for i in range(begun + queue)]
        assert pipeline.counts == Counts(begun + queue + 7, begun + queue, 0, 7)
        for result in results:
            assert np.array_equal(result.labels, wanted(result.ticket.context))


def test_frames_that_were_dropped_are_forgotten(hold: Hold) -> None:
    """Nobody takes results for a long time: nothing piles up."""
    with faulty_pipeline(faults=Faults({"fast": hold}), overflow="drop-oldest") as pipeline:
        held = fill_all(pipeline, hold)
        for _ in range(500):
            submit(pipeline, 9)
        assert len(pipeline._ledger._order) == held
        assert pipeline.counts.dropped == 500
        hold.released.set()


def test_what_a_failed_frame_cannot_tell_the_next_result_does(hold: Hold) -> None:
    faults = Faults({"fast": hold, "accurate": Raise(on=(99,))})
    with faulty_pipeline(faults=faults, overflow="drop-oldest") as pipeline:
        begun = fill_all(pipeline, hold) - 1
        for _ in range(3):
            submit(pipeline, 5)
        submit(pipeline, 99)  # after three or four that were dropped, and fails
        hold.released.set()
        fates = [take(pipeline) for _ in range(begun + 1)]
        assert names(fates) == ["delivered"] * begun + ["ExecutionError"]
        assert pipeline.infer(numbered(1)).dropped == pipeline.counts.dropped == 4


def test_results_that_were_not_taken_before_close_tell_what_was_dropped(hold: Hold) -> None:
    pipeline = faulty_pipeline(faults=Faults({"fast": hold}), overflow="drop-oldest")
    begun = fill_all(pipeline, hold) - 1
    for _ in range(3):
        submit(pipeline, 5)
    hold.released.set()
    assert pipeline.close(drain=True)
    assert [pipeline.next().dropped for _ in range(begun + 1)] == [0] * begun + [3]


def test_a_stream_that_drops_accounts_for_every_frame() -> None:
    """A source as fast as it can be, and a sink that takes its time."""
    count, seen = 300, []
    with faulty_pipeline(overflow="drop-oldest") as pipeline:
        for result in pipeline.stream(Submission(numbered(i % 200), context=i % 200) for i in range(count)):
            assert np.array_equal(result.labels, wanted(result.ticket.context))
            seen.append(result)
        counts = pipeline.counts
    numbers = [result.ticket.number for result in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == count - 1  # the newest is never dropped
    assert [b - a - 1 for a, b in itertools.pairwise([-1, *numbers])] == [result.dropped for result in seen]
    assert counts == Counts(count, len(seen), 0, count - len(seen))


def test_back_pressure_holds_whoever_submits_until_a_result_is_taken(hold: Hold) -> None:
    hold.released.set()
    with faulty_pipeline() as pipeline:
        number = fill(pipeline)
        with background(lambda: submit(pipeline, number)) as waiting:
            assert soon(pipeline._submitting.locked)
            assert waiting == []
            assert take(pipeline).number == 0
        assert waiting == [None]
        assert pipeline.counts == Counts(number + 1, 1)
        assert [take(pipeline).number for _ in range(number)] == list(range(1, number + 1))


@settings(max_examples=60, deadline=None)
@given(
    overflow=st.sampled_from(["wait", "drop-oldest"]),
    setup=st.tuples(st.sampled_from(["overlapped", "serial"]), st.booleans()),
    options=st.fixed_dictionaries({"queue": st.integers(1, 3)}),
    submitters=st.integers(1, 3),
    consumers=st.integers(1, 3),
    failing=st.frozensets(st.integers(0, 14), max_size=4),
    ending=st.sampled_from(["all", "cancel", "drain", "give up"]),
)
def test_every_frame_has_one_fate(
    overflow: Any, setup: Any, options: Any, submitters: int, consumers: int, failing: frozenset[int], ending: str
) -> None:
    """Several threads submit, several take, stages fail, somebody ends it at any moment: nothing is lost or doubled."""
    faults = Faults({"accurate": Raise(on=(*failing, -1))})
    pipeline = faulty_pipeline(setup, faults, overflow=overflow, **options)
    tickets: list[list[int]] = [[] for _ in range(submitters)]
    fates: list[list[tuple[int, str, int]]] = [[] for _ in range(consumers)]
    all_in = threading.Barrier(submitters + 1)

    def feed(own: list[int]) -> None:
        try:
            for number in range(15):
                own.append(pipeline.submit(numbered(number)).number)
        except InvalidRequest:
            pass  # closed
        finally:
            all_in.wait(LONG_S)

    def drink(own: list[tuple[int, str, int]]) -> None:
        while True:
            try:
                result = pipeline.next(LONG_S)
                own.append((result.ticket.number, "delivered", result.dropped))
            except CascadertError as error:
                if error.ticket is None:  # closed
                    return
                own.append((error.ticket.number, type(error).__name__, 0))

    threads = [threading.Thread(target=feed, args=(own,), daemon=True) for own in tickets]
    threads += [threading.Thread(target=drink, args=(own,), daemon=True) for own in fates]
    for thread in threads:
        thread.start()
    if ending in ("cancel", "drain"):
        assert pipeline.close(drain=ending == "drain")
        all_in.wait(LONG_S)
    else:
        if ending == "give up":
            assert pipeline.give_up(LONG_S)
        all_in.wait(LONG_S)
        assert soon(lambda: pipeline.counts.in_flight == 0)
        assert pipeline.close()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()

    submitted = sorted(itertools.chain(*tickets))
    assert submitted == list(range(len(submitted)))  # numbered without gaps, in each thread's order
    assert all(own == sorted(own) for own in tickets)
    assert all([number for number, *_ in own] == sorted(number for number, *_ in own) for own in fates)
    told = sorted(itertools.chain(*fates))
    kinds = [kind for _, kind, _ in told]
    counts = pipeline.counts
    assert len({number for number, *_ in told}) == len(told)
    assert counts.in_flight == 0 and counts.submitted == len(submitted)
    assert counts.delivered == kinds.count("delivered")
    assert counts.failed == kinds.count("ExecutionError")
    given_up = counts.cancelled - kinds.count("FrameCancelled")
    assert given_up == 0 or (ending == "give up" and given_up > 0)
    assert sum(dropped for *_, dropped in told) <= counts.dropped
    if overflow == "wait":
        assert counts.dropped == 0
    if ending == "drain":
        assert "FrameCancelled" not in kinds
