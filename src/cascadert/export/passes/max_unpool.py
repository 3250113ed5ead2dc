"""Max un-pooling without indices: TensorRT has neither MaxPool's second output nor scatter by it.

With the pool's input split into its k x k phases, `[N, k*k, C, h, w]`, the arg-max over phases is the pool's index
(the first maximum wins, as in PyTorch), and un-pooling keeps the value in that phase (systems.md 1.3).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cascadert.errors import PassError
from cascadert.export.functions import DOMAIN
from cascadert.export.passes.base import (
    GraphPass,
    constant,
    describe,
    integer,
    integers,
    is_read,
    literal,
    nodes_of,
    static_size,
    substitute,
)

_REMEDY = "pair nn.MaxUnpool2d(k) with nn.MaxPool2d(k, stride=k, return_indices=True) on a map that k divides"


def _pool_behind(unpool: ir.Node) -> ir.Node:
    """Find the MaxPool whose indices reach `unpool`, through the Mod that makes them count within a plane."""
    indices = unpool.inputs[1]
    producer = None if indices is None else indices.producer()
    if producer is not None and producer.op_type == "Mod" and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    if producer is None or producer.op_type != "MaxPool":
        raise PassError(describe(unpool), "its indices do not come straight from a max pooling", _REMEDY)
    return producer


def _block(unpool: ir.Node, pool: ir.Node) -> int:
    """Return k of a pooling with kernel and stride k x k and nothing else."""
    kernel = integers(pool, "kernel_shape", ())
    plain = (
        len(set(kernel)) == 1
        and integers(pool, "strides", (1, 1)) == kernel
        and not any(integers(pool, "pads", (0,)))
        and set(integers(pool, "dilations", (1, 1))) == {1}
        and integer(pool, "ceil_mode", 0) == 0
    )
    size, asked = static_size(pool.inputs[0], (2, 3)), constant(unpool.inputs[2])
    if not plain:
        found = f"the pooling has kernel {kernel}, strides {integers(pool, 'strides', (1, 1))} or padding"
        raise PassError(describe(unpool), found, _REMEDY)
    if size is None or asked is None or tuple(asked.tolist()) != size or any(length % kernel[0] for length in size):
        found = f"un-pools to {None if asked is None else asked.tolist()} what was pooled from {size} by {kernel[0]}"
        raise PassError(describe(unpool), found, _REMEDY)
    return kernel[0]


class UnpoolWithoutIndices(GraphPass):
    """Turn each `MaxUnpool2d` into arg-max, compare and select."""

    def requires(self, model: ir.Model) -> None:
        """Each un-pooling mirrors a pooling of equal kernel and stride."""
        for unpool in nodes_of(model, "MaxUnpool2d", domain=DOMAIN):
            _block(unpool, _pool_behind(unpool))

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace un-poolings, and drop index outputs that nobody reads any more."""
        unpools = nodes_of(model, "MaxUnpool2d", domain=DOMAIN)
        for unpool in unpools:
            self._rewrite(unpool)
        return ir.passes.PassResult(model, bool(unpools))

    def ensures(self, model: ir.Model) -> None:
        """No un-pooling is left."""
        for unpool in nodes_of(model, "MaxUnpool2d", domain=DOMAIN):
            raise PassError(describe(unpool), "is still there after the pass", "report this network")

    def _rewrite(self, unpool: ir.Node) -> None:
        pool = _pool_behind(unpool)
        block, source, values = _block(unpool, pool), pool.inputs[0], unpool.inputs[0]
        fixed = static_size(values, (1, 2, 3))
        if fixed is None:
            raise PassError(describe(unpool), f"has the shape {values and values.shape}", "use a fixed image size")
        channels, height, width = fixed
        phases = block * block

        def build(tape: ir.tape.Tape) -> list[ir.Value]:
            split = tape.op("SpaceToDepth", [source], {"blocksize": block})
            split = tape.op("Reshape", [split, literal(tape, [0, phases, channels, height, width])])
            winner = tape.op("ArgMax", [split], {"axis": 1, "keepdims": 1})
            phase = literal(tape, np.arange(phases).reshape(1, phases, 1, 1, 1))
            chosen = tape.op("Equal", [winner, phase])
            spread = tape.op("Reshape", [values, literal(tape, [0, 1, channels, height, width])])
            placed = tape.op("Where", [chosen, spread, literal(tape, np.float32(0))])
            placed = tape.op("Reshape", [placed, literal(tape, [0, phases * channels, height, width])])
            return [tape.op("DepthToSpace", [placed], {"blocksize": block, "mode": "DCR"})]

        indices = unpool.inputs[1]
        substitute(unpool, build)
        local = None if indices is None else indices.producer()
        if local is not None and local.op_type == "Mod" and not is_read(local.outputs[0]) and local.graph is not None:
            local.graph.remove(local, safe=True)
        if len(pool.outputs) == 2 and not is_read(pool.outputs[1]):
            pool.resize_outputs(1)
