"""What every device must do, whatever it is made of. A test module of a device derives from `DeviceContract`.

Order is proved with latches, not with time: work is held until a word of memory changes. Where a test waits for what
must not happen, it cannot fail wrongly on a slow machine; where it waits for what must, it waits long.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascadert.device import NUMPY_TYPES, Buffer, Device, Event, Stream
from cascadert.errors import InvalidRequest

LONG_S, SHORT_S = 30.0, 0.03

dtypes = st.sampled_from(sorted(NUMPY_TYPES))
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
copies = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4)), max_size=25)
SHARED = [  # one suite runs on several devices, and an example on the device that a fixture made
    HealthCheck.differing_executors,
    HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow,
]
property_test = settings(max_examples=20, deadline=None, suppress_health_check=SHARED)


@dataclass
class Kit:
    """A device and what a test needs beside it.

    Attributes:
        device: the device.
        hold: queues work on a stream that ends once the int32 in a pinned buffer is not 0.
        fail: lets the stream's piece of work fail with an error that says "refused".
        export: gives the memory of a device buffer as somebody else's array, with DLPack.
        foreign: arrays that the device must refuse.
        flags: what holds streams.
    """

    device: Device
    hold: Callable[[Stream, Buffer], None]
    fail: Callable[[Stream], None]
    export: Callable[[Buffer], Any]
    foreign: tuple[Any, ...]
    flags: list[Buffer] = field(default_factory=list)

    @contextmanager
    def held(self, *streams: Stream) -> Iterator[list[Callable[[], None]]]:
        """Hold streams until what this yields for each is called, or the block ends.

        On a GPU memory must be neither allocated nor freed in the block: that may wait for all work.
        """
        flags = [self.pinned(np.zeros(1, np.int32)) for _ in streams]
        self.flags += flags  # work on a GPU does not keep what it reads
        releases = [partial(flag.host.fill, 1) for flag in flags]
        try:
            for stream, flag in zip(streams, flags, strict=True):
                self.hold(stream, flag)
            yield releases
        finally:
            for release in releases:
                release()

    def pinned(self, values: np.ndarray) -> Buffer:
        """A pinned buffer with these values."""
        name = next(name for name, kind in NUMPY_TYPES.items() if values.dtype == kind)
        buffer = self.device.allocate_pinned(values.shape, name)
        buffer.host[...] = values
        return buffer

    def on_device(self, values: np.ndarray, stream: Stream) -> Buffer:
        """A device buffer with these values."""
        source = self.pinned(values)
        target = self.device.allocate(source.shape, source.dtype)
        self.device.copy(source, target, stream)
        assert stream.synchronize(LONG_S)
        return target

    def values(self, buffer: Buffer, stream: Stream) -> np.ndarray:
        """What a device buffer holds once the stream is done."""
        target = self.device.allocate_pinned(buffer.shape, buffer.dtype)
        self.device.copy(buffer, target, stream)
        assert stream.synchronize(LONG_S)
        return target.host.copy()


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def waits(event: Event | Stream) -> bool:
    return not event.synchronize(SHORT_S)


def ends(event: Event | Stream) -> bool:
    return event.synchronize(LONG_S)


class DeviceContract:
    @pytest.fixture
    def streams(self, kit: Kit) -> Iterator[list[Stream]]:
        made = [kit.device.create_stream(name, priority) for name, priority in (("a", 0), ("b", 1), ("c", 99))]
        yield made
        assert all(stream.close(LONG_S) for stream in made)

    def test_names_numbers_and_priorities(self, kit: Kit, streams: list[Stream]) -> None:
        assert kit.device.name
        assert [(stream.name, stream.priority) for stream in streams] == [("a", 0), ("b", 1), ("c", 99)]
        handles = {stream.handle for stream in streams}
        assert len(handles) == 3 and all(isinstance(handle, int) for handle in handles)

    @pytest.mark.parametrize("dtype", sorted(NUMPY_TYPES))
    def test_a_buffer_is_what_was_asked_for(self, kit: Kit, dtype: Any) -> None:
        for buffer in (kit.device.allocate((2, 3), dtype), kit.device.allocate_pinned((2, 3), dtype)):
            assert (buffer.shape, buffer.dtype) == ((2, 3), dtype)
            assert isinstance(buffer.address, int) and buffer.address % 64 == 0
        host = kit.device.allocate_pinned((2, 3), dtype).host
        assert host.dtype == NUMPY_TYPES[dtype] and host.shape == (2, 3) and host.flags.c_contiguous
        assert host.flags.writeable

    @property_test
    @given(shape=shapes, dtype=dtypes, seed=st.integers(0, 99))
    def test_copies_keep_every_bit(self, kit: Kit, shape: tuple[int, ...], dtype: Any, seed: int) -> None:
        stream = kit.device.create_stream("copies")
        kind = np.dtype(NUMPY_TYPES[dtype])
        raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (*shape, kind.itemsize), np.uint8)
        values = np.ascontiguousarray(raw).view(kind).reshape(shape)
        first = kit.on_device(values, stream)
        second = kit.device.allocate(shape, dtype)
        kit.device.copy(first, second, stream)
        assert kit.values(second, stream).tobytes() == values.tobytes()
        assert stream.close(LONG_S)

    def test_a_prefix_is_the_same_memory(self, kit: Kit, streams: list[Stream]) -> None:
        stream = streams[0]
        pinned = kit.pinned(ints(1, 2, 3, 4, 5, 6).reshape(3, 2))
        part = pinned.prefix(2)
        assert (part.shape, part.dtype, part.address) == ((2, 2), "int32", pinned.address)
        assert part.host.shape == part.shape
        part.host[0] = 9
        assert pinned.host.tolist() == [[9, 9], [3, 4], [5, 6]]
        whole = kit.on_device(np.zeros((3, 2), np.int32), stream)
        kit.device.copy(part, whole.prefix(2), stream)
        assert kit.values(whole, stream).tolist() == [[9, 9], [3, 4], [0, 0]]
        assert whole.prefix(0).shape == (0, 2) and whole.prefix(3).shape == whole.shape

    @pytest.mark.parametrize("goal", ["allocate", "allocate_pinned"])
    @pytest.mark.parametrize("origin", ["allocate", "allocate_pinned"])
    def test_copies_go_in_every_direction(self, kit: Kit, streams: list[Stream], origin: str, goal: str) -> None:
        stream, values = streams[0], kit.pinned(ints(3, 1, 4))
        source, target = (getattr(kit.device, kind)((3,), "int32") for kind in (origin, goal))
        for read, written in ((values, source), (source, target)):
            kit.device.copy(read, written, stream)
        assert kit.values(target, stream).tolist() == [3, 1, 4]

    def test_an_empty_copy_does_nothing(self, kit: Kit, streams: list[Stream]) -> None:
        buffer = kit.on_device(ints(1, 2), streams[0])
        kit.device.copy(kit.pinned(ints(7)).prefix(0), buffer.prefix(0), streams[0])
        assert kit.values(buffer, streams[0]).tolist() == [1, 2]

    def test_a_stream_works_later_and_in_order(self, kit: Kit, streams: list[Stream]) -> None:
        stream, source = streams[0], kit.pinned(ints(1))
        buffers = [kit.on_device(ints(0), stream) for _ in range(4)]
        with kit.held(stream) as [release]:
            for origin, goal in zip([source, *buffers], buffers, strict=False):
                kit.device.copy(origin, goal, stream)
            source.host[0] = 7  # read when the work runs, not when it was queued
            assert waits(stream)
            release()
        assert [kit.values(buffer, stream).item() for buffer in buffers] == [7, 7, 7, 7]

    def test_streams_do_not_wait_for_each_other(self, kit: Kit, streams: list[Stream]) -> None:
        a, b, c = streams
        buffer, target = kit.on_device(ints(5), b), kit.pinned(ints(0))
        with kit.held(a, c) as [_, release_c]:
            held = a.record()
            kit.device.copy(buffer, target, b)
            assert ends(b.record())
            assert target.host.item() == 5
            assert waits(c)
            release_c()
            assert ends(c)
            assert not held.is_done

    def test_streams_run_side_by_side(self, kit: Kit, streams: list[Stream]) -> None:
        """Work on `a` ends only if work that was queued later on `b` runs before."""
        a, b, _ = streams
        one = kit.on_device(ints(1), b)
        with kit.held(a):
            done = a.record()
            assert waits(done)
            kit.device.copy(one, kit.flags[-1], b)
            assert ends(done)

    def test_a_wait_orders_two_streams(self, kit: Kit, streams: list[Stream]) -> None:
        a, b, _ = streams
        first, second = kit.on_device(ints(1), a), kit.on_device(ints(2), b)
        source = kit.pinned(ints(8))
        with kit.held(a) as [release]:
            kit.device.copy(source, first, a)
            written = a.record()
            before = b.record()
            b.wait(written)
            kit.device.copy(first, second, b)
            after = b.record()
            assert ends(before)
            assert waits(after)
            release()
            assert ends(after)
            assert written.is_done and after.error is None
        assert kit.values(second, b).item() == 8

    def test_a_piece_begins_after_all_it_waits_for(self, kit: Kit, streams: list[Stream]) -> None:
        a, b, c = streams
        with kit.held(a, b) as [release_a, release_b]:
            begin = c.begin([a.record(), b.record()])
            c.record()
            release_a()
            assert ends(a)
            assert waits(begin)
            release_b()
            assert ends(begin)
        again = c.begin([begin])
        c.record()
        assert ends(again)

    def test_an_event_tells_whether_it_is_done(self, kit: Kit, streams: list[Stream]) -> None:
        stream = streams[0]
        with kit.held(stream) as [release]:
            event = stream.record()
            assert not event.is_done
            assert not event.synchronize(0)
            assert event.error is None
            release()
            assert event.synchronize()
        assert event.is_done and event.error is None and event.synchronize(0)

    def test_time_passes_between_events(self, kit: Kit, streams: list[Stream]) -> None:
        a, b, _ = streams
        first = a.begin()
        assert ends(a.record())
        with kit.held(a) as [release]:
            time.sleep(0.02)
            release()
        second = a.record()
        third = b.begin([second])
        assert ends(b.record())
        assert second.milliseconds_since(first) >= 15
        assert third.milliseconds_since(second) >= -0.01
        total = second.milliseconds_since(first) + third.milliseconds_since(second)
        assert third.milliseconds_since(first) == pytest.approx(total, abs=0.05)

    def test_notices_come_in_order_after_the_work(self, kit: Kit, streams: list[Stream]) -> None:
        stream, heard, all_heard = streams[0], [], threading.Event()
        with kit.held(stream) as [release]:
            for number in range(5):
                stream.notify(lambda error, number=number: heard.append((number, error)))
            stream.notify(lambda _: all_heard.set())
            assert waits(stream)
            assert heard == []
            release()
            assert all_heard.wait(LONG_S)
        assert heard == [(number, None) for number in range(5)]

    def test_a_stream_is_closed_once_its_work_is_done(self, kit: Kit) -> None:
        stream, heard = kit.device.create_stream("short"), []
        target = kit.device.allocate_pinned((1,), "int32")
        kit.device.copy(kit.on_device(ints(3), stream), target, stream)
        stream.notify(heard.append)
        assert stream.close(LONG_S)
        assert (target.host.item(), heard) == (3, [None])

    def test_closing_a_stream_that_hangs_returns(self, kit: Kit) -> None:
        stream, other = kit.device.create_stream("hangs"), kit.device.create_stream("other")
        with kit.held(stream):
            stream.notify(lambda _: None)
            start = time.monotonic()
            assert not stream.close(SHORT_S)
            assert time.monotonic() - start < LONG_S / 2
            assert other.close(LONG_S)
        assert stream.close(LONG_S)

    def test_memory_that_was_freed_is_not_counted(self, kit: Kit) -> None:
        before = kit.device.allocated_bytes
        buffers = [kit.device.allocate((10, 2), "float32"), kit.device.allocate_pinned((3,), "int64")]
        assert kit.device.allocated_bytes == before + 80 + 24
        part = buffers[0].prefix(1)
        buffers.clear()
        gc.collect()
        assert kit.device.allocated_bytes == before + 80  # the prefix holds all of it
        del part
        gc.collect()
        assert kit.device.allocated_bytes == before

    def test_a_view_of_pinned_memory_keeps_it(self, kit: Kit) -> None:
        before = kit.device.allocated_bytes
        view = kit.pinned(np.arange(1000, dtype=np.int32)).host[500:]
        gc.collect()
        assert kit.device.allocated_bytes == before + 4000
        assert view.tolist() == list(range(500, 1000))
        del view
        gc.collect()
        assert kit.device.allocated_bytes == before

    def test_a_copy_keeps_its_buffers(self, kit: Kit, streams: list[Stream]) -> None:
        stream = streams[0]
        source, target = kit.pinned(ints(4)), kit.device.allocate((1,), "int32")
        with kit.held(stream):
            kit.device.copy(source, target, stream)
            del source
            gc.collect()
        assert kit.values(target, stream).item() == 4

    def test_an_array_of_the_device_is_imported_in_place(self, kit: Kit, streams: list[Stream]) -> None:
        stream = streams[0]
        mine = kit.on_device(np.arange(6, dtype=np.float32).reshape(2, 3), stream)
        theirs = kit.device.import_array(kit.export(mine), stream)
        assert (theirs.shape, theirs.dtype, theirs.address) == (mine.shape, mine.dtype, mine.address)
        del mine
        gc.collect()
        assert kit.values(theirs, stream).tolist() == [[0, 1, 2], [3, 4, 5]]

    def test_what_is_no_array_of_the_device_is_refused(self, kit: Kit, streams: list[Stream]) -> None:
        for array in (*kit.foreign, [1, 2], object()):
            with pytest.raises(InvalidRequest):
                kit.device.import_array(array, streams[0])

    def test_a_failure_skips_the_rest_of_its_piece_only(self, kit: Kit, streams: list[Stream]) -> None:
        stream, source = streams[0], kit.pinned(ints(1))
        before, rest, after = (kit.on_device(ints(0), stream) for _ in range(3))
        stream.begin()
        kit.device.copy(source, before, stream)
        kit.fail(stream)
        kit.device.copy(source, rest, stream)
        failed = stream.record()
        begin = stream.begin()
        kit.device.copy(source, after, stream)
        good = stream.record()
        assert ends(good)
        assert failed.is_done and "refused" in str(failed.error)
        assert begin.error is None and good.error is None
        assert [kit.values(buffer, stream).item() for buffer in (before, rest, after)] == [1, 0, 1]

    def test_a_failure_spreads_to_those_who_wait_for_it(self, kit: Kit, streams: list[Stream]) -> None:
        a, b, c = streams
        source, heard = kit.pinned(ints(1)), []
        by_begin, by_wait = kit.on_device(ints(0), b), kit.on_device(ints(0), c)
        a.begin()
        kit.fail(a)
        failed = a.record()
        b.begin([failed])
        kit.device.copy(source, by_begin, b)
        second = b.record()
        c.begin()
        c.wait(second)
        kit.device.copy(source, by_wait, c)
        c.notify(heard.append)
        third = c.record()
        assert all(ends(event) for event in (failed, second, third))
        assert "refused" in str(failed.error)
        assert second.error is failed.error and third.error is failed.error
        a.begin()
        assert [kit.values(by_begin, a).item(), kit.values(by_wait, a).item()] == [0, 0]
        assert ends(c) and c.close(LONG_S)
        assert heard == [failed.error]

    @property_test
    @given(steps=copies)
    def test_copies_on_several_streams_do_as_in_turn(self, kit: Kit, steps: list[tuple[int, int, int]]) -> None:
        """Any copies between five buffers on three streams: with a wait for every hazard, the same as one by one."""
        streams = [kit.device.create_stream(name) for name in "abc"]
        buffers, expected = [kit.on_device(ints(i), streams[0]) for i in range(5)], list(range(5))
        written: dict[int, Event] = {}
        read: dict[int, list[Event]] = {}
        with kit.held(streams[0]):
            for number, origin, goal in steps:
                if origin == goal:
                    continue
                stream = streams[number]
                last = [written[index] for index in (origin, goal) if index in written]
                stream.begin([*last, *read.pop(goal, [])])
                kit.device.copy(buffers[origin], buffers[goal], stream)
                written[goal] = stream.record()
                read.setdefault(origin, []).append(written[goal])
                expected[goal] = expected[origin]
        assert all(ends(stream) for stream in streams)
        assert [kit.values(buffer, streams[0]).item() for buffer in buffers] == expected
        assert all(stream.close(LONG_S) for stream in streams)
