"""A scales and sizes constant of its own for each Resize: conversion to fp16 breaks graphs that share one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.passes.base import GraphPass, constant, describe, nodes_of

_CONSTANT_INPUTS = (1, 2, 3)  # roi, scales, sizes


def _shared(model: ir.Model) -> list[tuple[ir.Node, int, ir.Value]]:
    """List (node, input, value) for all but the first Resize that reads a constant, or one read elsewhere too."""
    reads = [
        (node, i, value)
        for node in nodes_of(model, "Resize")
        for i in _CONSTANT_INPUTS
        if i < len(node.inputs) and (value := node.inputs[i]) is not None and constant(value) is not None
    ]
    left = Counter({value: len(value.uses()) for _, _, value in reads})
    shared = []
    for node, i, value in reads:
        if left[value] > 1:
            shared.append((node, i, value))
            left[value] -= 1
    return shared


class OwnResizeConstants(GraphPass):
    """Give each Resize its own copy of its constants. Run it after any pass that merges equal initialisers."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Copy what is shared."""
        shared = _shared(model)
        taken = set(model.graph.initializers)
        for node, i, value in shared:
            array, stem, number = np.asarray(constant(value)), value.name or "scales", 1
            while (name := f"{stem}_{number}") in taken:
                number += 1
            taken.add(name)
            tensor = ir.tensor(array, name=name)
            copy = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            model.graph.register_initializer(copy)
            node.replace_input_with(i, copy)
        return ir.passes.PassResult(model, bool(shared))

    def ensures(self, model: ir.Model) -> None:
        """No two Resize nodes share a constant."""
        for node, i, _ in _shared(model):
            raise PassError(describe(node), f"still shares its input {i}", "report this network")
