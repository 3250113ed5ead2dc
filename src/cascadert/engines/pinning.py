"""Which layers of a parsed network must stay float32 where TensorRT may choose (weakly typed, before version 10)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# The parser makes the layers of a node unique by a number, and adds helpers (broadcasts, casts) of no node's name.
_NUMBER = re.compile(r"_\d+$")
_HELPERS = ("ONNXTRT_", "(Unnamed Layer")


def float32_layers(network: Any, nodes: Iterable[str]) -> list[Any]:
    """Return the layers of the named ONNX nodes, and the parser's helpers that touch them.

    A node whose name is another one's with a number counts as that one: too much float32 is slow, too little is wrong.
    """
    wanted, layers = set(nodes), [network.get_layer(i) for i in range(network.num_layers)]
    pinned = [layer for layer in layers if layer.name in wanted or _NUMBER.sub("", layer.name) in wanted]
    helpers = [layer for layer in layers if layer.name.startswith(_HELPERS)]
    touched = {name for layer in pinned for name in _tensors(layer)}
    while near := [helper for helper in helpers if touched & _tensors(helper)]:
        pinned += near
        helpers = [helper for helper in helpers if helper not in near]
        touched |= {name for helper in near for name in _tensors(helper)}
    return pinned


def _tensors(layer: Any) -> set[str]:
    inputs = (layer.get_input(i) for i in range(layer.num_inputs))
    outputs = (layer.get_output(i) for i in range(layer.num_outputs))
    return {tensor.name for tensor in (*inputs, *outputs) if tensor is not None}
