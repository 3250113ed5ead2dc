"""Who waits for whom before memory is used again."""

import itertools

import pytest

from cascadert.device import Event
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.plan import make_plan
from cascadert.runtime.slots import Slot, allocate_slots, allocate_staging
from tests.runtime.plant import BLOCKS, TWO, H, W

FRAME, LABELS, SCORES = H * W * 3, H * W, 4 * BLOCKS


class NamedStream:
    def __init__(self, name: str) -> None:
        self.name = name


class Mark:
    numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.numbers)


@pytest.fixture
def slot() -> Slot:
    return Slot({"a": object(), "b": object()})


A, B, C = (NamedStream(name) for name in "abc")


def marks(count: int) -> list[Event]:
    return [Mark() for _ in range(count)]


def test_nobody_waits_for_memory_that_was_never_used(slot: Slot) -> None:
    assert slot.before_reading(["a", "b"], A) == slot.before_writing(["a", "b"], A) == []


def test_a_reader_waits_once_for_each_writer_its_own_stream_included(slot: Slot) -> None:
    one, two = marks(2)
    slot.writing(["a", "b"], A, one)
    assert slot.before_reading(["a", "b"], B) == [one]
    assert slot.before_reading(["a"], A) == [one]  # it is behind it, but must not run if that failed
    slot.writing(["b"], C, two)
    assert slot.before_reading(["a", "b"], B) == [one, two]


def test_a_writer_waits_for_readers_on_other_streams(slot: Slot) -> None:
    written, one, two = marks(3)
    slot.writing(["a"], A, written)
    slot.reading(["a", "b"], B, one)
    slot.reading(["a"], A, two)
    assert slot.before_writing(["a"], A) == [one]
    assert slot.before_writing(["a", "b"], C) == [one, two]


def test_readers_are_forgotten_once_it_was_written_again(slot: Slot) -> None:
    read, written = marks(2)
    slot.reading(["a", "b"], B, read)
    slot.writing(["a"], A, written)
    assert slot.before_writing(["a"], A) == []
    assert slot.before_writing(["b"], A) == [read]


def test_what_is_not_in_the_slot_is_not_remembered(slot: Slot) -> None:
    """A plane that host and device share is in the staging, which is not used again before its frame is out."""
    slot.reading(["frame"], B, marks(1)[0])
    assert slot.before_writing(["frame"], A) == []


@pytest.mark.parametrize(("unified", "planes"), [(True, 0), (False, FRAME)])
def test_slots_hold_every_tensor_and_where_memory_is_apart_the_frame(unified: bool, planes: int) -> None:
    device, plan = HostDevice(unified), make_plan(TWO)
    slots = allocate_slots(plan, device, 3)
    assert device.allocated_bytes == 3 * (planes + 2 * LABELS + 2 * SCORES)
    assert plan.slot_bytes == FRAME + 2 * LABELS + 2 * SCORES
    assert ("frame" in slots[0].buffers) is not unified
    assert len({slot.buffers["fast.labels"].address for slot in slots}) == 3


def test_stagings_hold_frames_and_what_the_host_reads() -> None:
    device, plan = HostDevice(), make_plan(TWO)
    stagings = allocate_staging(plan, device, 2, frozenset(["fast.labels"]))
    assert set(stagings[0].results) == {"accurate.labels", "fast.labels", "fast.scores", "fast.order"}
    assert stagings[0].plane("frame").shape == (1, H, W, 3)
    stagings[0].result("fast.scores")[:] = 1
    assert device.allocated_bytes == 2 * (FRAME + 2 * LABELS + 2 * SCORES)
