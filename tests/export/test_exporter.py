import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from cascadert.errors import ExportError, GraphError, PassError
from cascadert.export.exporter import OPSET, export_graph, semantic_passes, trace
from cascadert.export.lowering import run_passes
from cascadert.export.models import enet, pspnet_small
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.graph import Graph


def run(content: bytes, **feeds: torch.Tensor) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})


class Crops(nn.Module):
    """Gathers rows of a table, runs a network on them, and writes them back."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.PReLU(), nn.Conv1d(4, 1, 1))

    def forward(self, table, indices):
        rows = table.index_select(0, indices)
        refined = self.network(rows[:, None] / 2)[:, 0]
        return table.index_put((indices.to(torch.int64),), refined), refined.sum(1)


@pytest.fixture(scope="module")
def crops() -> tuple[Crops, Graph]:
    torch.manual_seed(0)
    module = Crops()
    inputs = {"table": torch.rand(6, 8), "indices": torch.tensor([4, 0, 3], dtype=torch.int32)}
    return module, export_graph(module, inputs, ["refined", "sums"], {"indices": {0: "n"}})


def test_ports_have_the_names_types_and_order_asked_for(crops):
    _, graph = crops
    assert [str(spec) for spec in graph.inputs] == ["table float32 [6, 8]", "indices int32 [n]"]
    assert [str(spec) for spec in graph.outputs] == ["refined float32 [6, 8]", "sums float32 [n]"]
    model = onnx.load_model_from_string(graph.onnx)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert not model.functions


@pytest.mark.parametrize("indices", [[5], [1, 2], [0, 1, 2, 3, 4, 5]])
def test_a_dynamic_size_is_not_specialised(crops, indices):
    module, graph = crops
    table, chosen = torch.rand(6, 8), torch.tensor(indices, dtype=torch.int32)
    with torch.no_grad():
        expected = module(table, chosen)
    for got, want in zip(run(graph.onnx, table=table, indices=chosen), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_bare_network_lies_between_pixels_and_logits(crops):
    module, graph = crops
    bare = onnx.utils.Extractor(onnx.load_model_from_string(graph.onnx)).extract_model(["pixels"], ["logits"])
    rows = torch.rand(3, 1, 8)
    with torch.no_grad():
        expected = module.network(rows)
    np.testing.assert_allclose(run(bare.SerializeToString(), pixels=rows)[0], expected, atol=1e-6)
    assert {node.op_type for node in bare.graph.node} == {"Conv", "LeakyRelu"}


def test_nodes_remember_the_module_they_came_from(crops):
    model = model_from_graph(crops[1])
    scopes = {node.name: node.metadata_props.get("pkg.torch.onnx.name_scopes", "") for node in model.graph}
    assert "'network.0'" in scopes["network.0/Conv"]
    assert "'network.1'" in scopes["network.1/LeakyRelu"], "a pass hands the scopes on to what it makes"


def test_export_is_silent_and_leaves_warnings_and_logging_alone(capfd):
    filters, level = list(warnings.filters), logging.getLogger("torch.onnx").level
    export_graph(nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)), {"x": torch.rand(1, 3, 4, 4)}, ["y"])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert (list(warnings.filters), logging.getLogger("torch.onnx").level) == (filters, level)


def test_a_warning_of_the_network_itself_passes_through():
    class Warns(nn.Module):
        def forward(self, x):
            warnings.warn("old weights", UserWarning, stacklevel=1)
            return x + 1

    with pytest.warns(UserWarning, match="old weights"):
        export_graph(Warns(), {"x": torch.rand(2)}, ["y"])


@pytest.mark.parametrize(("build", "operators"), [(enet, {"DepthToSpace", "LeakyRelu"}), (pspnet_small, {"MatMul"})])
def test_our_networks_export_to_standard_operators_and_equal_pytorch(build, operators):
    torch.manual_seed(0)
    module, x = build(5).eval(), torch.rand(1, 3, 32, 64)
    model = trace(module, {"x": x}, ["y"])
    before = graph_from_model(model, "semantic")
    run_passes(model, semantic_passes())
    graph = graph_from_model(model, "semantic")
    with torch.no_grad():
        expected = module(x).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(run(graph.onnx, x=x)[0] / scale, expected / scale, atol=1e-5)
    np.testing.assert_allclose(run(before.onnx, x=x)[0] / scale, expected / scale, atol=1e-5)
    used = {node.op_type for node in onnx.load_model_from_string(graph.onnx).graph.node}
    assert operators <= used
    assert not used & {"PRelu", "MaxUnpool2d", "AdaptiveAvgPool2d", "GatherND", "ScatterElements", "Mod"}


class Branches(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such luck\nsecond line")


class Untranslatable(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branches(), "module 'Branches': .*data-dependent"),
        (Fails(), "module 'Fails': RuntimeError: no such luck; make the network traceable"),
        (Untranslatable(), "module 'Untranslatable': .*linalg_eig.*; replace the operator"),
    ],
)
def test_what_cannot_be_exported_says_why_in_one_line(module, message, capsys):
    with pytest.raises(ExportError, match=message) as caught:
        export_graph(module, {"x": torch.rand(3, 3)}, ["y"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert capsys.readouterr().err == ""  # PyTorch prints its graph there


def test_an_operator_without_portable_form_names_the_module():
    class Overlap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.ModuleDict({"pool": nn.MaxPool2d(2, 1, return_indices=True), "up": nn.MaxUnpool2d(2, 1)})

        def forward(self, x):
            return self.network["up"](*self.network["pool"](x))

    with pytest.raises(PassError, match=r"MaxUnpool2d, from module 'network.up'.*pair nn.MaxUnpool2d"):
        export_graph(Overlap(), {"x": torch.rand(1, 1, 4, 4)}, ["y"])


@pytest.mark.parametrize(
    ("inputs", "outputs", "dynamic", "message"),
    [
        (["x"], ["x"], {}, "output 'x': an input has the same name"),
        (["x"], ["y", "z"], {}, "outputs y, z: the module returns 1 tensors"),
        (["x"], ["y"], {"z": {0: "n"}}, r"dynamic\['z'\]: inputs are x"),
        (["x"], ["y"], {"x": {1: "n"}}, r"dynamic axis 1 \('n'\) of input 'x': the example has size 1"),
    ],
)
def test_a_wrong_request_is_refused(inputs, outputs, dynamic, message):
    with pytest.raises(ExportError, match=message):
        export_graph(nn.ReLU(), {name: torch.rand(3, 1) for name in inputs}, outputs, dynamic)


def test_a_size_that_the_network_fixes_is_refused():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(3, 2)

    with pytest.raises(ExportError, match="n"):
        export_graph(Fixed(), {"x": torch.rand(3, 2)}, ["y"], {"x": {0: "n"}})


@pytest.mark.parametrize("content", [b"", b"\x00garbage", None])
def test_truncated_onnx_is_refused(crops, content):
    graph = crops[1]
    broken = Graph(graph.onnx[: len(graph.onnx) // 2] if content is None else content, graph.inputs, graph.outputs)
    with pytest.raises(GraphError, match=r"ONNX graph of \d+ bytes, sha256 .*truncated or no ONNX") as caught:
        model_from_graph(broken)
    assert "\n" not in str(caught.value)


def test_a_graph_survives_the_way_there_and_back(crops):
    graph = crops[1]
    again = graph_from_model(model_from_graph(graph), "semantic")
    assert again == graph
    assert again.sha256 == graph.sha256
