"""Frames are due when they were taken: on a clock of the test's own."""

import numpy as np
import pytest

from cascadert.errors import InvalidRequest
from cascadert.jetson.live import paced
from cascadert.jetson.sources import Frame


class Clock:
    """Time passes by sleeping, and by what decoding takes."""

    def __init__(self):
        self.now = 100.0

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


def frames(clock, timestamps, decoding=0.0):
    for timestamp_s in timestamps:
        clock.now += decoding
        yield (Frame("f", np.zeros((2, 2, 3), np.uint8), None, timestamp_s),)


def given_at(timestamps, fps=None, decoding=0.0):
    clock = Clock()
    source = frames(clock, timestamps, decoding)
    return [clock.now - 100 for _ in paced(source, fps, lambda: clock.now, clock.sleep)]


def test_by_timestamps():
    assert given_at([3.0, 3.5, 5.0]) == pytest.approx([0, 0.5, 2])


def test_by_the_rate_where_there_are_no_timestamps():
    assert given_at([None] * 3, fps=4) == pytest.approx([0, 0.25, 0.5])


def test_what_is_late_is_given_at_once():
    assert given_at([0.0, 0.1, 0.2, 2.0], decoding=0.5) == pytest.approx([0.5, 1.0, 1.5, 2.5])


def test_neither_a_time_nor_a_rate():
    with pytest.raises(InvalidRequest, match=r"frame f: has no time and its source no rate"):
        given_at([None])
