"""Graphs that hold the same weights: stored once, read whole, whoever wrote the file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.sharing import MIN_SHARED_BYTES, MIN_TENSOR_BYTES, BrokenPieces, join, split

LARGE = MIN_SHARED_BYTES


def varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head, value = head + bytes([value & 0x7F | 0x80]), value >> 7
    return head + bytes([value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def model(*tensors: bytes) -> bytes:
    """The wire form of an ONNX file: its IR version, its producer, and a graph with these initializers."""
    initializers = (varint(1 << 3) + varint(len(raw)) + field(8, b"w") + field(9, raw) for raw in tensors)
    graph = field(2, b"graph") + b"".join(field(5, tensor) for tensor in initializers)
    return varint(1 << 3) + varint(10) + field(2, b"pytorch") + field(7, graph)


def tensor(seed: int, size: int = LARGE) -> bytes:
    return bytes([seed % 256]) * size


def test_what_another_file_holds_is_left_out() -> None:
    first, second = model(tensor(1), tensor(2)), model(tensor(3), tensor(2), tensor(1))
    pieces = split(second, {"first": first})
    assert pieces is not None
    assert len(pieces) < LARGE + 500
    assert join(pieces, {"first": first}) == second
    head = json.loads(pieces.partition(b"\n")[0])
    assert [(path, size) for path, _, size in head if path] == [("first", LARGE), ("first", LARGE)]


def test_too_little_stays_whole() -> None:
    first = model(tensor(1, LARGE // 2), tensor(2, MIN_TENSOR_BYTES - 1))
    assert split(first, {"first": first}) is None
    assert split(first, {}) is None
    assert split(b"any bytes " * LARGE, {"first": b"any bytes " * LARGE}) is None, "no ONNX file"
    assert split(first[:-1], {"first": model(tensor(1))}) is None, "truncated"


def test_a_range_is_taken_once() -> None:
    """So that pieces never make more than all files hold: a reader refuses anything else."""
    first = model(tensor(1))
    pieces = split(model(tensor(1), tensor(1), tensor(1)), {"first": first})
    assert pieces is not None
    assert len(pieces) > 2 * LARGE
    bomb = json.dumps([["first", 0, len(first)]] * 3).encode() + b"\n"
    with pytest.raises(BrokenPieces, match="make more than all files hold"):
        join(bomb, {"first": first})


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (b"", "does not begin with a list of pieces"),
        (b'{"first": 3}\n', "does not begin with a list of pieces"),
        (b'[["first", 0]]\n', "does not begin with a list of pieces"),
        (b'[["../secret", 0, 1]]\n', r"has a piece of '\.\./secret', which is no earlier graph"),
        (b'[["first", 0, 5]]\n', "has a piece that lies outside first"),
        (b'[["first", -1, 2]]\n', "has a piece that lies outside first"),
        (b'[["first", 2, -1]]\n', "has a piece that lies outside first"),
        (b'[["", 0, 3]]\nab', "has a piece that lies outside itself"),
    ],
)
def test_broken_pieces_are_refused(pieces: bytes, message: str) -> None:
    with pytest.raises(BrokenPieces, match=f"^{message}$"):
        join(pieces, {"first": b"1234"})


TENSORS = st.lists(st.builds(tensor, st.integers(0, 3), st.sampled_from([100, MIN_TENSOR_BYTES, LARGE])), max_size=5)


@settings(deadline=None, max_examples=60)
@given(TENSORS, TENSORS, TENSORS)
def test_what_was_split_is_joined(one: list[bytes], two: list[bytes], three: list[bytes]) -> None:
    earlier = {"one": model(*one), "two": model(*two)}
    content = model(*three)
    pieces = split(content, earlier)
    assert pieces is None or (join(pieces, earlier) == content and len(pieces) < len(content))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_may_lie_in_a_bundle(content: bytes) -> None:
    assert split(content, {"one": content}) is None
