"""Every part of a two-column network becomes a graph that equals it, and that TensorRT's dialect takes."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.export.models import dense_columns
from tests.export.models.two_column_chain import TINY, tiny


def check(module: nn.Module, inputs: dict[str, Tensor], dynamic=None, **others: Tensor) -> None:
    """Export with `inputs`, and compare every output on inputs that are changed to `others`."""
    with torch.no_grad():
        answer = module(*inputs.values())
        names = list(answer) if isinstance(answer, dict) else ["logits"]
        graph = export_graph(module, inputs, [f"{name}_out" for name in names], dynamic)
        feeds = {name: tensor.numpy() for name, tensor in (inputs | others).items()}
        wanted = module(*(inputs | others).values())
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    for dialect in (None, "onnxruntime", "tensorrt"):
        content = (lower(graph, dialect) if dialect else graph).onnx
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        found = dict(zip(names, session.run(None, feeds), strict=True))
        for name, tensor in (wanted if isinstance(wanted, dict) else {"logits": wanted}).items():
            assert np.ptp(tensor.numpy()) > 1e-3
            np.testing.assert_allclose(found[name], tensor.numpy(), atol=1e-4, rtol=1e-4)


def test_half_column() -> None:
    network = tiny()
    check(network.half_column, {"image": torch.randn(1, 3, 64, 128)}, image=torch.randn(1, 3, 64, 128))


@pytest.mark.parametrize("in_column", ["frame", "crops"])
def test_crops_of_any_number(in_column: str) -> None:
    crops, fewer = tiny(in_column=in_column).crops, torch.randn(3, 3, 32, 32)
    check(crops, {"regions": torch.randn(8, 3, 32, 32)}, {"regions": {0: "n"}}, regions=fewer)


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"decoder": "basic", "cross_column": False}, marks=pytest.mark.slow),
        pytest.param({"units": "1-1-1-0-1-1-1-1", "in_column": "crops"}, marks=pytest.mark.slow),
    ],
)
def test_fusion(options) -> None:
    network = tiny(**options)
    with torch.no_grad():
        levels = network.crops(torch.randn(1, 3, 128, 256))
        half = network.half_column(torch.randn(1, 3, 64, 128))
    given = {name: tensor for name, tensor in (levels | half).items() if name in network.fuse.reads}
    inputs = {name: given[name] for name in network.fuse.reads}
    mask = torch.rand(1, 1, 4, 8).round()
    check(network.fuse, {**{f"{k}_in": v for k, v in inputs.items()}, "mask": 1 - mask}, mask=mask)


@pytest.mark.parametrize(
    "fusing",
    ["coarse-to-fine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sum", "max", "attention"))],
)
def test_dense_columns(fusing: str) -> None:
    torch.manual_seed(0)
    network = dense_columns(5, units=TINY["units"], fusing=fusing, width=8).eval().requires_grad_(False)
    check(network, {"image": torch.randn(1, 3, 64, 128)}, image=torch.randn(1, 3, 64, 128))
