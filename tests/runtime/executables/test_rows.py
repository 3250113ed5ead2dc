"""Outputs with a row for each of n blocks: in every backend, for every n, in memory that has room for more."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tensorrt_double import DoubleGpu
from tensorrt_runs import ANY_N, BLOCKS, BUCKETS, Load, run

from cascadert.device import Stream
from cascadert.errors import ExecutionError
from cascadert.executable import Executable
from cascadert.export.torch_executable import TorchExecutable
from cascadert.graph import Graph, TensorSpec
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable

INPUTS, OUTPUTS = (TensorSpec("indices", "int32", ("n",)),), (TensorSpec("rows", "float32", ("n", 3)),)


def doubled() -> Graph:
    """Rows of three, each value the double of the block's index."""
    nodes = [
        helper.make_node("Cast", ["indices"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["values", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "two"], ["rows"]),
    ]
    ports = [
        helper.make_tensor_value_info("indices", TensorProto.INT32, ["n"]),
        helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", 3]),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("two", TensorProto.FLOAT, [1, 3], [2.0] * 3),
    ]
    inside = helper.make_graph(nodes, "rows", ports[:1], ports[1:], constants)
    model = helper.make_model(inside, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return Graph(model.SerializeToString(), INPUTS, OUTPUTS, "onnxruntime")


class Doubled(torch.nn.Module):
    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return 2 * indices.float()[:, None].repeat(1, 3)


@pytest.fixture(params=["onnxruntime", "torch", "tensorrt"])
def executable(request: pytest.FixtureRequest, load: Load) -> Executable:
    if request.param == "tensorrt":
        return load("maker", doubled(), ANY_N)
    if request.param == "torch":
        return TorchExecutable("maker", Doubled(), INPUTS, OUTPUTS)
    return OnnxRuntimeExecutable("maker", doubled(), threads=1)


def test_n_rows_are_written_and_those_behind_are_left_alone(
    executable: Executable, gpu: DoubleGpu, stream: Stream
) -> None:
    order, rows = gpu.allocate((BLOCKS,), "int32"), gpu.allocate((BLOCKS, 3), "float32")
    order.array[:] = np.random.default_rng(0).permutation(BLOCKS)
    for n in (3, 1, BLOCKS, 2):
        rows.array.fill(-1)
        run(executable, {"indices": order.prefix(n), "rows": rows.prefix(n)}, stream)
        assert np.array_equal(rows.array[:n], 2.0 * np.repeat(order.array[:n, None], 3, axis=1))
        assert (rows.array[n:] == -1).all()


def test_as_many_rows_as_blocks_must_be_bound(executable: Executable, gpu: DoubleGpu, stream: Stream) -> None:
    bindings = {"indices": gpu.allocate((4,), "int32"), "rows": gpu.allocate((5, 3), "float32")}
    with pytest.raises(ExecutionError, match=r"^stage 'maker': rows float32 \[n, 3\]: is bound to float32 \[5, 3\]"):
        executable.enqueue(bindings, stream)


def test_an_engine_for_some_n_says_which(load: Load) -> None:
    engine = load("maker", doubled(), BUCKETS)
    assert [engine.blocks(n) for n in (1, 2, 3, 4, 5, BLOCKS)] == [1, 2, 4, 4, 8, BLOCKS]
