"""Clean-up, names, the network's boundary, and the contract that all passes share."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from cascadert.errors import PassError
from cascadert.export.exporter import trace
from cascadert.export.lowering import run_passes
from cascadert.export.network import ends_of_logits, network_edges, network_nodes
from cascadert.export.passes.base import GraphPass, describe, name_scopes
from cascadert.export.passes.clean_up import CleanUp
from cascadert.export.passes.network_boundary import MARKER, MarkNetworkBoundary, NameNetworkBoundary
from cascadert.export.passes.node_names import NameNodes


class Glued(nn.Module):
    """A network with code of the stage before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        return self.network(x / 255).argmax(1)


def test_clean_up_folds_batch_norm_and_constants(apply_checked, op_types):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    module[1].running_mean.normal_()
    x = torch.randn(1, 3, 6, 6)
    model = trace(module, {"x": x}, ["y"])
    apply_checked(CleanUp(), model, {"x": x.numpy()}, atol=1e-5)
    assert op_types(model) == ["Conv"]
    assert not model.functions, "functions that nobody calls are gone"


@pytest.mark.parametrize("least", [1e-30, 1e-12, 1e-8, 1e-6])
@pytest.mark.parametrize(("name", "work"), [
    ("add", lambda x, c: (x.relu() + c).log()),
    ("sub", lambda x, c: 1 / (x.relu() - c)),
    ("mul", lambda x, c: ((x * (1 + c)) - x) / c if c > 1e-7 else (x + c).log()),
    ("norm", lambda x, c: x.relu() / (x.relu().norm(dim=1, keepdim=True) + c)),
])  # fmt: skip
def test_a_constant_that_is_nearly_neutral_stays(apply_checked, name: str, work, least: float) -> None:
    class Small(nn.Module):
        def forward(self, x):
            return work(x, least)

    x = torch.zeros(1, 3, 2, 2)  # where it matters most
    x[0, 0] = 2.0
    model = trace(Small(), {"x": x}, ["y"])
    apply_checked(CleanUp(), model, {"x": x.numpy()}, atol=1e-5)


def test_nodes_are_named_after_their_module(apply_checked):
    x = torch.rand(1, 3, 5, 5)
    model = trace(Glued(), {"x": x}, ["y"])
    CleanUp()(model)
    apply_checked(NameNodes(), model, {"x": x.numpy()})
    names = [node.name for node in model.graph]
    assert "network.2/Relu" in names
    assert "ArgMax" in names
    assert len(set(names)) == len(names)


def test_the_boundary_of_the_network_gets_names(apply_checked):
    x = torch.rand(1, 3, 5, 5)
    model = trace(Glued(), {"x": x}, ["y"])
    apply_checked(MarkNetworkBoundary(), model, {"x": x.numpy()})
    CleanUp()(model)
    apply_checked(NameNetworkBoundary(), model, {"x": x.numpy()})
    makers = {value.name: node.op_type for node in model.graph for value in node.outputs}
    assert (makers["pixels"], makers["logits"]) == ("Div", "Relu")
    assert MARKER not in {node.op_type for node in model.graph}


def test_ports_keep_their_names_at_the_boundary(apply_checked, op_types):
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.network(x)

    x = torch.rand(1, 3, 5, 5)
    model = trace(Bare(), {"image": x}, ["classes"])
    run_passes(model, [MarkNetworkBoundary(), CleanUp(), NameNetworkBoundary()])
    assert (model.graph.inputs[0].name, model.graph.outputs[0].name) == ("image", "classes")
    assert op_types(model) == ["Identity", "Conv", "Identity"]
    (conv,) = (node for node in model.graph if node.op_type == "Conv")
    assert (conv.inputs[0].name, conv.outputs[0].name) == ("pixels", "logits")


def test_several_tensors_at_the_boundary_are_numbered():
    class Pair(nn.Module):
        def forward(self, x, features):
            return x + features, x * features

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Pair()

        def forward(self, x, features):
            total, product = self.network(x / 2, features * 3)
            return total.relu(), product.relu()

    inputs = {"x": torch.rand(1, 2), "features": torch.rand(1, 2)}
    model = trace(Stage(), inputs, ["a", "b"])
    run_passes(model, [MarkNetworkBoundary(), CleanUp(), NameNetworkBoundary()])
    values = set(ir.convenience.create_value_mapping(model.graph))
    assert {"pixels", "pixels_2", "logits", "logits_2"} <= values


class Carrying(nn.Module):
    """A stage whose network makes features first, and of them logits; both leave it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"body": nn.Conv2d(3, 4, 1), "head": nn.Conv2d(4, 2, 1)})
        self.network.forward = self.both

    def both(self, x):
        features = self.network["body"](x)
        return features, self.network["head"](features)

    def forward(self, x):
        features, logits = self.network(x)
        return features, logits.argmax(1), logits.amax(1)


@pytest.mark.parametrize(
    ("outputs", "logits", "second"),
    [
        (["features", "labels", "scores"], "head", "body"),
        (["features", "order", "scores"], "head", "body"),
        (["features", "other", "peak"], "body", "head"),
    ],
)
def test_of_several_ends_the_one_that_labels_are_made_of_is_the_logits(outputs, logits, second):
    x = torch.rand(1, 3, 5, 5)
    model = trace(Carrying(), {"image": x}, outputs)
    run_passes(model, [MarkNetworkBoundary(), CleanUp(), NameNetworkBoundary()])
    assert [value.name for value in network_edges(model)[1]] == ["logits", "logits_2"]
    weights = {node.outputs[0].name: node.inputs[1].name for node in model.graph if node.op_type == "Conv"}
    assert weights == {"logits": f"network.{logits}.weight", "logits_2": f"network.{second}.weight"}
    assert [value.name for value in model.graph.outputs] == outputs
    wanted = ["logits"] if "scores" in outputs else []
    assert [value.name for value in ends_of_logits(model)] == wanted


def test_no_clean_up_takes_the_edges_of_the_network_away(apply_checked):
    """Where ports enter and leave the network as they are, an Identity stands between two names."""
    x = torch.rand(1, 4, 5, 5)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.network(x)

    model = trace(Bare(), {"segment.features": x}, ["features"])
    run_passes(model, [MarkNetworkBoundary(), CleanUp(), NameNetworkBoundary(), CleanUp()])
    apply_checked(CleanUp(), model, {"segment.features": x.numpy()}, modified=False)
    assert [[value.name for value in edge] for edge in network_edges(model)] == [["pixels"], ["logits"]]
    assert [node.op_type for node in network_nodes(model)] == ["Conv"]
    assert {node.domain for node in model.graph} == {""}


def test_a_network_that_ignores_the_image_is_refused():
    class Deaf(nn.Module):
        def forward(self, x):
            return torch.ones(1, 2) * x.shape[0]

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Deaf()

        def forward(self, x):
            return self.network(x), x + 1

    model = trace(Stage(), {"x": torch.rand(1, 2)}, ["a", "b"])
    with pytest.raises(PassError, match="'pixels' of the module 'network': no floating-point tensor crosses"):
        MarkNetworkBoundary()(model)


def test_a_graph_without_a_network_has_no_boundary(onnx_text, apply_checked):
    model = onnx_text("agraph (float[1] x) => (float[1] y) { y = Relu(x) }")
    feeds = {"x": np.ones(1, np.float32)}
    apply_checked(MarkNetworkBoundary(), model, feeds, modified=False)
    apply_checked(NameNetworkBoundary(), model, feeds, modified=False)


class Promises(GraphPass):
    """Ensures what it does not do."""

    def call(self, model):
        return ir.passes.PassResult(model, False)

    def ensures(self, model):
        raise PassError("node 'a'", "is still there", "report this network")


class Breaks(GraphPass):
    def call(self, model):
        raise KeyError("weights")


def test_a_broken_guarantee_keeps_its_own_message(onnx_text):
    model = onnx_text("agraph (float[1] x) => (float[1] y) { y = Relu(x) }")
    for apply in (lambda: Promises()(model), lambda: run_passes(model, [Promises()])):
        with pytest.raises(PassError, match=r"^node 'a': is still there; report this network$"):
            apply()


def test_a_crash_inside_a_pass_names_the_pass(onnx_text):
    model = onnx_text("agraph (float[1] x) => (float[1] y) { y = Relu(x) }")
    with pytest.raises(PassError, match="pass 'Breaks': failed with KeyError"):
        run_passes(model, [Breaks()])


def test_nodes_are_described_with_their_module(onnx_text):
    (node,) = onnx_text("agraph (float[1] x) => (float[1] y) { y = Relu(x) }").graph
    node.name = "r"
    assert describe(node) == "node 'r' (Relu, from the stage's own code)"
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'network', 'network.head', 'relu']"
    assert name_scopes(node) == ["network", "network.head"]
    assert describe(node) == "node 'r' (Relu, from module 'network.head')"
