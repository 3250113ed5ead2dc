"""Narrow forms of every family become ONNX that computes the same, in the semantic form and in both lowered ones."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.export.models import NETWORKS
from cascadert.graph import Graph

TINY = {
    "fcn": {"backbone": "resnet18", "output_stride": 16},
    "deeplabv3": {"backbone": "mobilenet-v2", "output_stride": 8, "channels": 16},
    "deeplabv3-plus": {"backbone": "resnet18", "channels": 16},
}


def tiny(family: str) -> nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[family](classes=5, width=0.125, **TINY[family]).eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.weight, 1.0, 2.0)
    return network


def run(graph: Graph, x: torch.Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.onnx, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.numpy()})[0]


@pytest.mark.parametrize("family", TINY)
def test_every_family_exports_and_lowers_to_what_pytorch_computes(family: str) -> None:
    network, x = tiny(family), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(x).numpy()
    assert expected.std() > 0.05
    semantic = export_graph(network, {"x": x}, ["logits"])
    for graph in (semantic, lower(semantic, "tensorrt"), lower(semantic, "onnxruntime")):
        np.testing.assert_allclose(run(graph, x), expected, atol=1e-4, rtol=0)
