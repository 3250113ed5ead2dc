"""How much memory a stage takes, from its graph alone: weights, and the most that is alive between its operators."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from cascadert.bundle import MemoryEntry
from cascadert.errors import GraphError
from cascadert.export.onnx_io import model_from_graph
from cascadert.export.passes.base import describe
from cascadert.graph import Graph

_VIEWS = frozenset(("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"))
_ACTIVATIONS = frozenset(("Relu", "LeakyRelu", "HardSigmoid", "Sigmoid", "Tanh", "Clip"))

# Operators that write over an input of the same size that nobody reads any more.
_IN_PLACE = _ACTIVATIONS | frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "Where", "And", "Or", "Not", "Neg", "Abs", "Exp"),
        *("Log", "Sqrt", "PRelu", "Elu", "HardSwish", "BatchNormalization", "ScatterND", "ScatterElements"),
    )
)

# ONNX Runtime's convolutions lay channels out in blocks of 16 (AVX-512), padded, and what follows them may keep that.
_CHANNEL_BLOCK = 16
_KEEP_FULL_BLOCKS = frozenset(("Add", "Concat", "MaxPool", "AveragePool"))  # not where channels are padded
_KEEP_BLOCKS = _ACTIVATIONS | _KEEP_FULL_BLOCKS | {"Resize"}

_Memory = tuple[ir.Value, bool]
"""A value's memory: the value that it was allocated for, and whether its channels are in blocks."""


@dataclass(frozen=True)
class _Step:
    """An operator, or a change of layout before one: what it allocates, in bytes, and what it reads."""

    made: dict[_Memory, int]
    read: list[_Memory]
    in_place: bool = False


def estimate_memory(graph: Graph, most_blocks: int = 1) -> MemoryEntry:
    """Estimate what a stage takes besides its inputs and outputs, which are the pipeline's.

    The peak of what is alive, as a function of n, is a maximum of straight lines: the line through n = 1 and
    n = `most_blocks` is exact at both and nowhere between them too low.

    Args:
        graph: the stage in the form that its backend runs; in ONNX Runtime's with the layouts that it gives tensors.
        most_blocks: the largest n; without meaning for a graph of fixed sizes.

    Raises:
        GraphError: a tensor inside whose size does not follow from n.
    """
    weights = _weights_bytes(model_from_graph(graph))
    one = peak_bytes(graph, 1)
    dynamic = any(isinstance(size, str) for spec in graph.inputs for size in spec.shape)
    per_block = (
        math.ceil((peak_bytes(graph, most_blocks) - one) / (most_blocks - 1)) if dynamic and most_blocks > 1 else 0
    )
    return MemoryEntry(
        weights_bytes=weights, activation_bytes=max(one - per_block, 0), activation_bytes_per_block=per_block
    )


def peak_bytes(graph: Graph, n: int = 1) -> int:
    """Return the most bytes that are alive at once between the operators of a graph, run in order, for n blocks.

    Raises:
        GraphError: a tensor inside whose size does not follow from n.
    """
    model = _sized(model_from_graph(graph), n)
    steps = list(_steps(model, in_blocks=graph.dialect == "onnxruntime"))
    last = {memory: i for i, step in enumerate(steps) for memory in (*step.made, *step.read)}
    alive: dict[_Memory, int] = {}
    peak = 0
    for i, step in enumerate(steps):
        ending = {memory for memory in step.read if last[memory] == i}
        if step.in_place:
            _take_over(alive, ending, step.made)
        alive |= step.made
        peak = max(peak, sum(alive.values()))
        for memory in ending | {memory for memory in step.made if last[memory] == i}:
            del alive[memory]
    return peak


def _take_over(alive: dict[_Memory, int], ending: set[_Memory], made: dict[_Memory, int]) -> None:
    """End one value as large as what is made right now: its memory becomes that of the output."""
    for size in made.values():
        old = next((memory for memory in ending if alive[memory] == size), None)
        if old is not None:
            ending.remove(old)
            del alive[old]


def _sized(model: ir.Model, n: int) -> ir.Model:
    """Give every dynamic dimension the size n, and infer what does not follow from its own expression."""
    shapes = [value.shape for value in model.graph.inputs if value.shape is not None]
    sizes = {symbol: n for shape in shapes for symbol in shape.free_symbols()}
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if value.shape is not None:
            shape = value.shape.evaluate(sizes)
            value.shape = shape if shape.is_static() else None
    common.ShapeInferencePass()(model)
    return model


def _steps(model: ir.Model, in_blocks: bool) -> Iterator[_Step]:
    """What every operator allocates and reads; the graph's own inputs and outputs, and weights, are left out."""
    home: dict[ir.Value, _Memory] = {}
    known: set[_Memory] = set()
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None and value in home]
        reads_blocks, makes_blocks = _layouts(node, [home[value] for value in inputs]) if in_blocks else (False, False)
        read = [(home[value][0], reads_blocks) for value in inputs]
        for value, memory in zip(inputs, read, strict=True):
            if memory not in known:
                known.add(memory)
                yield _Step({memory: _bytes(*memory)}, [home[value]])
        if node.op_type in _VIEWS:
            home.update({node.outputs[0]: read[0]} if read else {})
            yield _Step({}, read)
            continue
        made = {value: (value, makes_blocks) for value in node.outputs if not value.is_graph_output()}
        home |= made
        known |= {*made.values()}
        yield _Step({memory: _bytes(*memory) for memory in made.values()}, read, node.op_type in _IN_PLACE)


def _layouts(node: ir.Node, inputs: list[_Memory]) -> tuple[bool, bool]:
    """Whether ONNX Runtime lets a node read, and write, channels in blocks."""
    if node.op_type == "Conv":
        return _channels(node.inputs[0]) >= _CHANNEL_BLOCK, True
    keeps = node.op_type in _KEEP_BLOCKS and bool(inputs) and all(in_blocks for _, in_blocks in inputs)
    if keeps and node.op_type in _KEEP_FULL_BLOCKS:
        keeps = all(_channels(value) % _CHANNEL_BLOCK == 0 for value, _ in inputs)
    return keeps, keeps


def _channels(value: ir.Value | None) -> int:
    size = None if value is None or value.shape is None else value.shape[1]
    return size if isinstance(size, int) else 0


def _bytes(value: ir.Value, in_blocks: bool) -> int:
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        node = value.producer()
        subject = "an input" if node is None else describe(node)
        raise GraphError(subject, f"makes '{value.name}' of unknown size", "use operators whose sizes follow from n")
    sizes = list(value.shape.numpy())
    if in_blocks and len(sizes) > 1:  # a bias has no channels to pad
        sizes[1] += -sizes[1] % _CHANNEL_BLOCK
    return math.ceil(math.prod(sizes) * value.dtype.itemsize)


def _weights_bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
