"""The ledger by itself: order, room, dropping, and what is counted."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cascadert.errors import ExecutionError, FrameCancelled, InvalidRequest, NoResultYet
from cascadert.runtime.job import Job
from cascadert.runtime.ledger import Deadline, Ledger, closed_error
from cascadert.runtime.results import Counts, Ticket
from cascadert.runtime.slots import Slot, Staging
from tests.runtime.faults import background

NOW = Deadline(0.0)
ROOM, QUEUE = 2, 2


def make_ledger(overflow: Any = "wait", room: int = ROOM, queue: int = QUEUE) -> Ledger:
    return Ledger([Staging({}, {}) for _ in range(room + queue)], room, queue, overflow)


def enter(ledger: Ledger, number: int, deadline: Deadline = NOW) -> Job:
    job = Job(Ticket(number), ledger.reserve(deadline), {}, {}, [])
    ledger.enter(job)
    return job


def begin(ledger: Ledger, *, error: Exception | None = None, ends: bool = True) -> Job:
    """Begin the next frame and finish it; where it does not end some of its work is left to itself."""
    job = ledger.take(False)
    assert job is not None
    job.slot, job.error = Slot({}), error
    ledger.finished(job)
    if ends:
        ledger.ended(job)
    return job


def test_a_deadline_passes_and_none_never_does() -> None:
    assert Deadline(None).left_s is None and not Deadline(None).is_over
    assert Deadline(0.0).is_over and Deadline(-1.0).is_over
    assert 0 < Deadline(100.0).left_s <= 100


def test_no_more_frames_wait_than_may() -> None:
    ledger = make_ledger()
    for number in range(QUEUE):
        enter(ledger, number)
    with pytest.raises(NoResultYet, match=r"^submit: 2 frames are in flight after 0 s"):
        ledger.reserve(NOW)
    begin(ledger)
    enter(ledger, QUEUE)


def test_no_more_frames_begin_than_there_is_room_for() -> None:
    ledger = make_ledger()
    for number in range(ROOM):
        enter(ledger, number)
        begin(ledger)
    enter(ledger, ROOM)
    assert ledger.take(False) is None
    assert ledger.leave(ledger.pop(NOW))  # somebody waits for that
    assert begin(ledger).ticket.number == ROOM


def test_once_closed_there_is_room_for_all_that_wait() -> None:
    ledger = make_ledger()
    for number in range(ROOM):
        enter(ledger, number)
        begin(ledger)
    enter(ledger, ROOM)
    ledger.close(closed_error())
    assert begin(ledger).ticket.number == ROOM


def test_results_wait_for_those_before() -> None:
    ledger = make_ledger()
    first, second = enter(ledger, 0), enter(ledger, 1)
    for _ in range(2):
        ledger.take(False)
    ledger.finished(second)
    with pytest.raises(NoResultYet, match=r"^next: 2 frames are in flight, and none is done"):
        ledger.pop(NOW)
    ledger.finished(first)
    assert ledger.pop(NOW) is first and ledger.pop(NOW) is second


@pytest.mark.parametrize(
    ("wait", "signal"),
    [
        (lambda ledger: ledger.reserve(Deadline(None)), lambda ledger: ledger.take(False)),
        (lambda ledger: ledger.pop(Deadline(None)), lambda ledger: begin(ledger)),
        (lambda ledger: ledger.drain(Deadline(None)), lambda ledger: (begin(ledger), begin(ledger))),
        (lambda ledger: ledger.clear(9, Deadline(None)), lambda ledger: (begin(ledger), begin(ledger))),
        (lambda ledger: ledger.clear(9, Deadline(None)), lambda ledger: ledger.cancel_waiting()),
        (lambda ledger: ledger.drain(Deadline(None)), lambda ledger: ledger.abandon()),
    ],
)
def test_whoever_waits_is_woken(wait: Callable[[Ledger], Any], signal: Callable[[Ledger], Any]) -> None:
    ledger = make_ledger()
    for number in range(QUEUE):
        enter(ledger, number)
    with background(lambda: wait(ledger)) as found:
        assert found == []
        signal(ledger)
    assert len(found) == 1 and not isinstance(found[0], BaseException)


@pytest.mark.parametrize(
    "wait", [lambda ledger: ledger.reserve(Deadline(None)), lambda ledger: ledger.pop(Deadline(None))]
)
def test_whoever_waits_hears_of_the_end(wait: Callable[[Ledger], Any]) -> None:
    ledger = make_ledger(queue=1, room=0)
    with background(lambda: [wait(ledger), wait(ledger)]) as found:
        ledger.close(closed_error())
    assert isinstance(found[0], InvalidRequest)
    ledger.close(ExecutionError("later", "reasons", "do not count"))
    with pytest.raises(InvalidRequest, match="is closed"):
        ledger.reserve(NOW)


def test_whoever_delivers_is_waited_for() -> None:
    ledger = make_ledger()
    enter(ledger, 0)
    begin(ledger)
    job = ledger.pop(NOW)
    ledger.close(closed_error())
    assert not ledger.settle(NOW)
    with background(lambda: ledger.settle(Deadline(None))) as settled:
        assert settled == []
        ledger.leave(job)
    assert settled == [True]


def leave_running(ledger: Ledger) -> Job:
    """Let a frame leave of which something still runs; another one waits."""
    enter(ledger, 0)
    job = begin(ledger, ends=False)
    assert not ledger.leave(ledger.pop(NOW))
    enter(ledger, 1)
    return job


def test_memory_of_work_that_may_still_run_is_not_used_again() -> None:
    """Nor does another frame begin in its place."""
    ledger = make_ledger(room=1, queue=1)
    job = leave_running(ledger)
    assert ledger.take(False) is None
    with pytest.raises(NoResultYet):
        ledger.reserve(NOW)
    ledger.ended(job)
    assert begin(ledger).ticket.number == 1
    assert ledger.reserve(NOW) is job.staging
    assert ledger.counts == Counts(2, 1)


def test_who_drops_the_oldest_does_not_wait_for_work_that_was_left_running() -> None:
    ledger = make_ledger("drop-oldest", room=1, queue=1)
    leave_running(ledger)
    for number in range(2, 5):
        enter(ledger, number)
    assert ledger.counts == Counts(5, 1, 0, 3)


def test_what_is_given_up_is_over_when_nothing_of_it_runs() -> None:
    """Its result may have been there before."""
    ledger = make_ledger()
    enter(ledger, 0)
    job = begin(ledger, ends=False)
    assert not ledger.clear(1, NOW)
    ledger.ended(job)
    assert ledger.clear(1, NOW)
    enter(ledger, 1)
    begin(ledger, ends=False).slot.retired = True  # nobody will hear of its end
    assert ledger.clear(2, NOW)
    assert len(ledger._free) == ROOM + QUEUE - 1


def test_frames_that_were_given_up_say_so() -> None:
    ledger = make_ledger()
    enter(ledger, 5)
    assert ledger.cancel_waiting() == 6
    with pytest.raises(FrameCancelled, match=r"^frame 5: was given up before it began; submit it again"):
        raise ledger.pop(NOW).error
    assert ledger.cancel_waiting() == 0


class Uses(RuleBasedStateMachine):
    """Any order of calls: frames leave in the order in which they entered, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = make_ledger("drop-oldest")
        self.entered, self.running, self.popped = 0, [], []
        self.lingering: list[Job] = []
        self.seen: list[int] = []
        self.told = 0

    @rule()
    def enter(self) -> None:
        try:
            enter(self.ledger, self.entered)
            self.entered += 1
        except NoResultYet:
            assert self.ledger._begun + len(self.popped) + len(self.lingering) >= ROOM

    @rule()
    def take(self) -> None:
        job = self.ledger.take(False)
        if job is not None:
            job.slot = Slot({})
            self.running.append(job)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        job = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        job.error = ExecutionError("stage", "failed", "look") if fails else None
        self.ledger.finished(job)
        self.lingering.append(job)

    @precondition(lambda self: self.lingering)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.ledger.ended(self.lingering.pop(data.draw(st.integers(0, len(self.lingering) - 1))))

    @rule()
    def pop(self) -> None:
        try:
            job = self.ledger.pop(NOW)
        except NoResultYet:
            return
        self.seen.append(job.ticket.number)
        self.told += job.dropped if job.error is None else 0
        self.popped.append(job)

    @precondition(lambda self: self.popped)
    @rule()
    def leave(self) -> None:
        self.ledger.leave(self.popped.pop())

    @invariant()
    def nothing_is_lost(self) -> None:
        counts = self.ledger.counts
        held = len(self.ledger._order) + len(self.popped)
        assert self.seen == sorted(set(self.seen))
        assert counts.submitted == self.entered
        assert counts.in_flight == held
        left = sum(job.has_left for job in self.lingering)
        assert len(self.ledger._free) + held + left == ROOM + QUEUE
        assert self.told <= counts.dropped
        assert counts.cancelled == 0


TestUses = Uses.TestCase
TestUses.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_counts_are_what_happened() -> None:
    ledger = make_ledger()
    for number, error in enumerate([None, ExecutionError("a", "b", "c"), FrameCancelled("a", "b", "c")]):
        enter(ledger, number)
        begin(ledger, error=error)
        ledger.leave(ledger.pop(NOW))
    enter(ledger, 3)
    assert ledger.counts == Counts(4, 1, 1, 0, 1)
    assert ledger.counts.in_flight == 1
