"""The bare network is found in every form of a graph, cut out, and put back."""

import numpy as np
import onnx
import pytest
from onnx import helper

from cascadert.errors import GraphError
from cascadert.export.network import network_graph, network_nodes, with_network
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from tests.export.precision_graphs import SIZE, all_tensors, nodes, run, stage_graph


def test_operators_of_the_network_are_those_between_its_edges() -> None:
    inside = network_nodes(model_from_graph(stage_graph()))
    assert {node.name.split("/")[0] for node in inside} == {"network"}
    wanted = [node.name for node in nodes(stage_graph(), *{node.op_type for node in inside})]
    assert [node.name for node in inside] == [name for name in wanted if name.startswith("network")]


def test_the_network_alone_makes_the_same_logits() -> None:
    network = network_graph(stage_graph())
    assert [(spec.name, spec.shape) for spec in network.inputs] == [("pixels", (2, 3, SIZE, SIZE))]
    found = run(network, pixels=all_tensors()["pixels"])
    np.testing.assert_allclose(found["logits"], all_tensors()["logits"], atol=1e-5)  # fused otherwise


def test_put_back_as_it_is_nothing_changes() -> None:
    network = onnx.load_model_from_string(network_graph(stage_graph()).onnx)
    again = graph_from_model(with_network(stage_graph(), network), "semantic")
    assert (again.inputs, again.outputs) == (stage_graph().inputs, stage_graph().outputs)
    for name, wanted in run(stage_graph()).items():
        np.testing.assert_array_equal(run(again)[name], wanted)


def test_another_network_takes_its_place() -> None:
    other = onnx.load_model_from_string(network_graph(stage_graph(seed=7)).onnx)
    found = run(graph_from_model(with_network(stage_graph(), other), "semantic"))
    np.testing.assert_array_equal(found["peak"], run(stage_graph(seed=7))["peak"])
    assert not np.array_equal(found["peak"], run(stage_graph())["peak"])


def test_a_network_that_ends_elsewhere_is_refused() -> None:
    other = onnx.load_model_from_string(network_graph(stage_graph()).onnx)
    other.graph.output[0].name = "somewhere"
    with pytest.raises(GraphError, match="the network: ends in somewhere; report this network"):
        with_network(stage_graph(), other)


def test_a_graph_without_a_network_is_refused() -> None:
    model = onnx.load_model_from_string(stage_graph().onnx)
    for node in model.graph.node:
        node.input[:] = ["image" if name == "pixels" else name for name in node.input]
        node.output[:] = ["image" if name == "pixels" else name for name in node.output]
    del model.graph.value_info[:]
    graph = graph_from_model(model_from_graph(stage_graph()), "semantic")
    renamed = type(graph)(helper.make_model(model.graph, opset_imports=model.opset_import).SerializeToString(), (), ())
    with pytest.raises(GraphError, match="has no tensors 'pixels' and 'logits'"):
        network_graph(renamed)
