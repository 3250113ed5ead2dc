"""Weights that several graphs of a bundle hold, stored once.

A later graph that holds tensors of an earlier one is stored as *pieces*: its own bytes, and ranges of the other's file
in between. Reading is slicing and joining, and needs no onnx; the first graph of each network stays an .onnx file that
any viewer opens. (ONNX's own external data would keep all of them viewable, but no reader without onnx could make the
one self-contained byte string of it that builders, executables and digests are given.)

A file of pieces is one line of JSON, `[[path, start, bytes], ...]`, and the graph's own bytes; the path is empty where
they are meant.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping

from pydantic import TypeAdapter, ValidationError

Piece = tuple[str, int, int]
"""Path of the file that it is in, where it starts there, and its bytes."""

MIN_TENSOR_BYTES = 4096
"""Smaller tensors are not looked at: a name for them takes nearly as much."""

MIN_SHARED_BYTES = 64 * 1024
"""With less to be saved, a graph stays whole."""

_PIECES = TypeAdapter(tuple[Piece, ...])

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9  # field numbers in onnx.proto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


class BrokenPieces(ValueError):
    """A file of pieces that makes no graph; the text says why."""


def split(content: bytes, earlier: Mapping[str, bytes]) -> bytes | None:
    """Return a graph as a file of pieces, or none where it shares too little with the others.

    Args:
        content: an ONNX file.
        earlier: whole ONNX files by path.
    """
    known = {
        _digest(other[start:end]): (path, start, end - start)
        for path, other in reversed(tuple(earlier.items()))
        for start, end in _tensors(other)
    }
    pieces, own, done = list[Piece](), b"", 0
    for start, end in _tensors(content):
        found = known.pop(_digest(content[start:end]), None)  # each range once: a graph is no larger than all files
        if found is not None:
            pieces += [("", len(own), start - done), found]
            own, done = own + content[done:start], end
    pieces.append(("", len(own), len(content) - done))
    own += content[done:]
    if len(content) - len(own) < MIN_SHARED_BYTES:
        return None
    return json.dumps(pieces, separators=(",", ":")).encode() + b"\n" + own


def join(pieces: bytes, earlier: Mapping[str, bytes]) -> bytes:
    """Return the graph that `split` made pieces of.

    Raises:
        BrokenPieces: they are no pieces, or of other files than these.
    """
    head, _, own = pieces.partition(b"\n")
    try:
        known = _PIECES.validate_json(head)
    except ValidationError as error:
        raise BrokenPieces("does not begin with a list of pieces") from error
    files = {**earlier, "": own}
    for path, start, size in known:
        if path not in files:
            raise BrokenPieces(f"has a piece of '{path}', which is no earlier graph")
        if not 0 <= start <= start + size <= len(files[path]):
            raise BrokenPieces(f"has a piece that lies outside {path or 'itself'}")
    if sum(size for _, _, size in known) > sum(map(len, files.values())):
        raise BrokenPieces("has pieces that make more than all files hold")
    return b"".join(files[path][start : start + size] for path, start, size in known)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _tensors(model: bytes) -> list[tuple[int, int]]:
    """Return where the larger initializers of an ONNX file lie, in order; none where it is no ONNX file."""
    try:
        graphs = [span for number, *span in _fields(model, 0, len(model)) if number == _MODEL_GRAPH]
        tensors = [span for graph in graphs for number, *span in _fields(model, *graph) if number == _GRAPH_INITIALIZER]
        found = [span for tensor in tensors for number, *span in _fields(model, *tensor) if number == _TENSOR_RAW_DATA]
    except (IndexError, ValueError):
        return []
    return [(start, end) for start, end in found if end - start >= MIN_TENSOR_BYTES]


def _fields(message: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of the fields of a protocol buffer that have a length."""
    while start < end:
        key, start = _varint(message, start)
        number, wire_type = key >> 3, key & 7
        if wire_type == _BYTES:
            size, start = _varint(message, start)
            if start + size > end:
                raise ValueError("a field is longer than its message")
            yield number, start, start + size
            start += size
        elif wire_type == _VARINT:
            _, start = _varint(message, start)
        elif wire_type in (_FIXED32, _FIXED64):
            start += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type}")


def _varint(message: bytes, start: int) -> tuple[int, int]:
    """Return a number of variable length, and where the next field begins."""
    value = 0
    for place in itertools.count():
        byte = message[start + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, start + place + 1
    raise AssertionError
