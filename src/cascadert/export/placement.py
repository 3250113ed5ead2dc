"""Which tensors of a network become int8 for TensorRT: what its kernels fuse, and nothing that costs labels.

Rules and their sources: platforms.md 4.1 to 4.3 (NVIDIA's explicit-quantization pages, ModelOpt's ONNX quantizer).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from cascadert.export.network import ends_of_logits, is_pixels, network_nodes
from cascadert.export.passes.base import REARRANGING, constant, integer
from cascadert.precision import Range

THIN_CHANNELS = 16
"""Convolutions with fewer channels on either side gain nothing: int8 kernels work on blocks of 16 and more."""


@dataclass(frozen=True)
class Placement:
    """What to quantize in a network.

    `readers` maps each operator that computes in int8 to the inputs that it reads quantized; `ranges` has the range of
    each of those tensors, one for all that a Concat joins: it then only copies bytes.
    """

    readers: Mapping[ir.Node, tuple[int, ...]]
    ranges: Mapping[ir.Value, Range]

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators, by the name of their first output."""
        return tuple(str(node.outputs[0].name) for node in self.readers)


def place(model: ir.Model, ranges: Mapping[str, Range], keep: Collection[str] = ()) -> Placement:
    """Choose what to quantize.

    Convolutions read int8 unless they are thin, see the pixels, make the logits, or stand for a matrix product (sums
    over H or W, which adaptive pooling is made of). Residual additions read both sides in int8, so that they fuse with
    the convolution before them. Everything else stays in floating point.

    Args:
        model: a stage's graph, lowered for TensorRT.
        ranges: of every tensor that was measured; others are not quantized.
        keep: operators that stay in floating point, by the name of their first output.
    """
    nodes = network_nodes(model)
    head = head_of(model)
    readers: dict[ir.Node, tuple[int, ...]] = {}
    for node in nodes:
        if node.outputs[0].name in keep or node in head:
            continue
        if _is_wide_convolution(node):
            readers[node] = (0,)
        elif _is_residual_addition(node, readers):
            readers[node] = (0, 1)
    measured = {n: i for n, i in readers.items() if all(str(n.inputs[k].name) in ranges for k in i)}  # type: ignore[union-attr]
    wanted = {value for node, inputs in measured.items() for k in inputs if (value := node.inputs[k]) is not None}
    joined = _concatenations(nodes, wanted, ranges)
    measured |= {node: tuple(range(len(node.inputs))) for node in joined if node.outputs[0].name not in keep}
    return Placement(measured, _shared_ranges(measured, ranges))


def _is_wide_convolution(node: ir.Node) -> bool:
    if node.op_type != "Conv":  # no ConvTranspose: TensorRT-RTX would restore its input and weights first
        return False
    weights, source = node.inputs[1], node.inputs[0]
    if constant(weights) is None or weights is None or source is None or _sees_pixels(source):
        return False
    if (producer := source.producer()) is not None and producer.op_type == "Transpose":
        return False  # made by `matrix_convolution`
    made, read = (size for size in list(weights.shape or ())[:2])
    if not isinstance(made, int) or not isinstance(read, int):
        return False
    return min(made, read * integer(node, "group", 1)) >= THIN_CHANNELS


def _sees_pixels(value: ir.Value) -> bool:
    """Whether a tensor is an image that the network is given, put in another order at most; carried maps are wider."""
    while (producer := value.producer()) is not None and producer.op_type in REARRANGING:
        first = producer.inputs[0]
        if first is None:
            return False
        value = first
    channels = value.shape[1] if value.shape is not None and len(value.shape) > 1 else None
    return is_pixels(value) and isinstance(channels, int) and channels < THIN_CHANNELS


def _is_residual_addition(node: ir.Node, quantized: Collection[ir.Node]) -> bool:
    """Whether a node adds two maps of one shape, one of which a convolution in int8 has just made."""
    if node.op_type != "Add" or any(value is None or value.const_value is not None for value in node.inputs):
        return False
    first, second = node.inputs
    if first is None or second is None or first.dtype != ir.DataType.FLOAT or first.shape != second.shape:
        return False
    return any(value.producer() in quantized for value in (first, second))


def head_of(model: ir.Model) -> set[ir.Node]:
    """Return what makes the logits: the last convolution on every way to them, and all that follows it.

    Neighbouring classes differ by less than the steps of int8 there, and entropy is made of those differences. Carried
    tensors have no head: who reads them next reads int8 anyway. At the port itself they are float32.
    """
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in ends_of_logits(model)]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        if node.op_type not in ("Conv", "ConvTranspose"):
            waiting += [value.producer() for value in node.inputs if value is not None]
    return found


def _concatenations(nodes: list[ir.Node], wanted: Collection[ir.Value], ranges: Mapping[str, Range]) -> list[ir.Node]:
    """Return the Concat nodes whose result is quantized, directly or by another Concat."""
    joined, targets = [], set(wanted)
    for node in reversed(nodes):
        if node.op_type == "Concat" and node.outputs[0] in targets:
            inputs = [value for value in node.inputs if value is not None]
            if all(str(value.name) in ranges for value in inputs):
                targets.update(inputs)
                joined.append(node)
    return joined


def _shared_ranges(readers: Mapping[ir.Node, tuple[int, ...]], ranges: Mapping[str, Range]) -> dict[ir.Value, Range]:
    """Give each quantized tensor its range, and all that a Concat joins the widest of theirs."""
    find = _groups([[*node.inputs, *node.outputs] for node in readers if node.op_type == "Concat"])
    values = {value for node, inputs in readers.items() for k in inputs if (value := node.inputs[k]) is not None}
    widest: dict[ir.Value, Range] = {}
    for value in values:
        low, high = ranges[str(value.name)]
        root = find(value)
        known = widest.get(root, (low, high))
        widest[root] = (min(low, known[0]), max(high, known[1]))
    return {value: widest[find(value)] for value in values}


def _groups(together: list[list[ir.Value | None]]) -> Callable[[ir.Value], ir.Value]:
    """Return a function that names the group of a value (union-find)."""
    parent: dict[ir.Value, ir.Value] = {}

    def find(value: ir.Value) -> ir.Value:
        while (above := parent.get(value, value)) is not value:
            value = above
        return value

    for first, *others in together:
        for other in others:
            if first is not None and other is not None:
                parent[find(other)] = find(first)
    return find
