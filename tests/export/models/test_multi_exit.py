"""Multi-exit networks against paper 004: placement, the 64 heads, costs, and segments in a row equal to the whole."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cascadert.errors import InvalidRequest
from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import NETWORKS
from cascadert.export.models.dilated import BackboneForm, dilated_backbone
from cascadert.export.models.exit_head import ExitHead, exit_heads, exit_network
from cascadert.export.models.multi_exit import MultiExit, candidate_points, multi_exit, unit_costs

SIZE = (1, 3, 520, 520)
EXITS: dict[str, dict[str, Any]] = {
    "resnet18": {
        "backbone": "resnet18",
        "exits": [
            {"point": 1, "blocks": 2, "rapid_dilation": True},
            {"point": 2, "reduction": 2},
            {"point": 4, "head": "deeplab", "reduction": 4, "blocks": 1},
        ],
        "final": {"head": "deeplab"},
    },
    "mobilenet-v2": {"backbone": "mobilenet-v2", "output_stride": 16, "exits": [{"point": 2}, {"point": 5}]},
    "resnet50": {"backbone": "resnet50", "exits": [{"point": 3, "reduction": 8}]},
    "one exit": {
        "backbone": "resnet18",
        "exits": [{"point": 4, "head": "deeplab", "reduction": 4, "blocks": 1, "rapid_dilation": True}],
    },
    "final only": {"backbone": "resnet18", "exits": []},
}


def small(name: str) -> MultiExit:
    torch.manual_seed(0)
    network = multi_exit(5, **EXITS[name], width=0.125, deeplab_channels=16).eval().requires_grad_(False)
    for module in network.modules():  # fresh statistics are 0 and 1, which would hide a normalisation left out
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr, operator]
    return network


def on_meta(**options: Any) -> MultiExit:
    with torch.device("meta"):
        return multi_exit(21, **options)


def test_candidates_of_resnet_50_are_those_of_equal_cost() -> None:
    with torch.device("meta"):
        macs, channels = unit_costs(dilated_backbone("resnet50", BackboneForm()))
    shares = [round(value / macs[-1], 3) for value in macs]
    assert macs[-1] == pytest.approx(102.8e9, rel=1e-3)
    assert shares[2] == 0.041 and shares[6:] == [
        0.095, 0.157, 0.203, 0.249, 0.294, 0.340, 0.386, 0.634, 0.817, 1.0,
    ]  # fmt: skip
    starts = {layer: sum((3, 4, 6, 3)[: layer - 1]) for layer in (1, 2, 3, 4)}
    wanted = [(3, 0), (3, 4), (3, 5), (4, 0), (4, 1), (4, 2)]
    assert candidate_points(macs, 6) == tuple(starts[layer] + unit + 1 for layer, unit in wanted)
    assert channels == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


def test_candidates_that_would_share_a_unit_are_spread() -> None:
    with torch.device("meta"):
        macs, _ = unit_costs(dilated_backbone("mobilenet-v2", BackboneForm()))
    shares = [value / macs[-1] for value in macs]
    nearest = [min(range(17), key=lambda i: abs(shares[i] - k / 6)) + 1 for k in range(1, 7)]
    assert nearest == [10, 13, 15, 16, 16, 17]
    assert candidate_points(macs, 6) == (10, 13, 14, 15, 16, 17)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.data())
def test_candidates_deviate_least_of_all_choices(costs: list[int], data: st.DataObject) -> None:
    macs, count = list(np.cumsum(costs)), data.draw(st.integers(1, len(costs)))
    total = int(macs[-1])

    def deviation(points: tuple[int, ...]) -> int:
        return sum(abs(count * int(macs[p - 1]) - k * total) for k, p in enumerate(points, start=1))

    found = candidate_points([int(value) for value in macs], count)
    assert found[-1] == len(costs)
    assert found == min(combinations(range(1, len(costs) + 1), count), key=lambda points: (deviation(points), points))


@pytest.mark.parametrize("count", [0, 4])
def test_more_candidates_than_units_are_refused(count: int) -> None:
    with pytest.raises(InvalidRequest, match=f"{count} candidates: the backbone has 3 units"):
        candidate_points([1, 2, 3], count)


def test_there_are_64_heads_and_each_is_built_as_it_says() -> None:
    heads = exit_heads()
    assert len(heads) == len(set(heads)) == 64
    assert heads[0] == ExitHead()
    structures = Counter()
    for head in heads:
        with torch.device("meta"):
            network = exit_network(64, 5, head, deeplab_channels=16).eval()
            assert network(torch.empty(1, 64, 9, 12)).shape == (1, 5, 9, 12)
        convolutions = [m for m in network[:-1].modules() if isinstance(m, nn.Conv2d)]
        reduce, blocks = convolutions[: head.reduction > 1], convolutions[head.reduction > 1 :]
        assert [(m.kernel_size, m.out_channels) for m in reduce] == [((1, 1), 64 // head.reduction)] * len(reduce)
        assert [m.kernel_size for m in blocks] == [(3, 3)] * head.blocks
        assert [m.dilation[0] for m in blocks] == ([2, 4, 8] if head.rapid_dilation else [1, 1, 1])[: head.blocks]
        assert type(network[-1]).__name__ == {"fcn": "FCNHead", "deeplab": "DeepLabHead"}[head.head]
        structures[str(network)] += 1
    assert len(structures) == 56, "dilation changes nothing where there are no blocks"


@pytest.mark.parametrize(
    ("reduction", "fcn", "deeplab", "block"),
    [(1, 9.99, 34.9, 39.9), (2, 4.72, 21.6, 9.97), (4, 1.74, 12.8, 2.49), (8, 0.71, 8.33, 0.62)],
)
def test_multiply_adds_of_heads_at_layer_3(reduction: int, fcn: float, deeplab: float, block: float) -> None:
    def giga(**options: Any) -> float:
        with torch.device("meta"):
            return count_macs(exit_network(1024, 21, ExitHead(reduction=reduction, **options)), (1, 1024, 65, 65)) / 1e9

    def as_printed(value: float, paper: float) -> bool:  # which gives three digits, or two decimals
        return abs(value - paper) <= 0.5 * 10 ** -(1 if paper >= 10 else 2)

    assert as_printed(giga(), fcn)
    assert as_printed(giga(head="deeplab"), deeplab)
    assert as_printed(giga(blocks=1) - giga(), block)
    assert giga(blocks=3, rapid_dilation=True) - giga() == pytest.approx(3 * (giga(blocks=1) - giga()))


@pytest.mark.parametrize(
    ("options", "parameters", "giga_macs"),
    [
        ({}, 32_957_013, 142.726),
        ({"final": {"head": "deeplab"}}, 39_638_869, 168.731),
        ({"backbone": "mobilenet-v2"}, 2_043_973, 8.893),
        ({"backbone": "mobilenet-v2", "output_stride": 16}, 2_043_973, 2.764),
    ],
)
def test_parameters_and_multiply_adds_up_to_the_final_exit(
    options: dict[str, Any], parameters: int, giga_macs: float
) -> None:
    network = on_meta(exits=[], **options)
    assert count_parameters(network) == parameters
    assert count_macs(network, SIZE) == pytest.approx(giga_macs * 1e9, rel=1e-3)


@pytest.mark.parametrize("name", EXITS)
def test_chained_stages_equal_the_whole_network(name: str) -> None:
    network, x = small(name), torch.randn(2, 3, 64, 96)
    wanted = network(x)
    assert len(wanted) == len(network.segments) == len(EXITS[name]["exits"]) + 1
    features = x
    for index, logits in enumerate(wanted):
        features = network.get_submodule(f"segments.{index}")(features)
        assert torch.equal(network.get_submodule(f"exits.{index}")(features), logits)
        assert torch.equal(network.budgeted(index)(x), logits)
        assert logits.shape[:2] == (2, 5) and logits.shape[2:] == features.shape[2:]
    assert all(not torch.equal(one, other) for one in wanted for other in wanted if one is not other)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v2"])
def test_segments_in_a_row_are_the_backbone_whatever_the_exits(name: str) -> None:
    options = EXITS[name]
    form = BackboneForm(options.get("output_stride", 8), 0.125)
    backbone, network = dilated_backbone(options["backbone"], form).eval(), small(name)
    row = [module for segment in network.segments for module in segment]
    for target, source in zip([backbone.stem, *backbone.layers], row, strict=True):
        target.load_state_dict(source.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(nn.Sequential(*network.segments)(x), backbone(x))


def test_exits_have_the_stride_of_what_they_read() -> None:
    network = on_meta(exits=[{"point": 1}, {"point": 3}], backbone="mobilenet-v2", output_stride=16)
    shapes = [tuple(logits.shape) for logits in network(torch.empty(SIZE, device="meta"))]
    assert shapes == [(1, 21, 130, 130), (1, 21, 33, 33), (1, 21, 33, 33)]


def test_a_budgeted_network_has_no_later_weights_and_costs_less() -> None:
    network = on_meta(exits=[{"point": point} for point in range(1, 6)])
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    costs = []
    for index in range(6):
        budgeted = network.budgeted(index)
        used = {names[id(parameter)] for parameter in budgeted.parameters()}
        wanted = (*(f"segments.{i}." for i in range(index + 1)), f"exits.{index}.")
        assert used == {name for name in names.values() if name.startswith(wanted)}
        costs.append(count_macs(budgeted, SIZE))
    assert costs == sorted(costs) and len(set(costs)) == 6
    with pytest.raises(InvalidRequest, match="exit 6: there are 6"):
        network.budgeted(6)


def _run(content: bytes, x: torch.Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x.numpy()})[0]
    return result


@pytest.mark.parametrize(
    "name", ["one exit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "mobilenet-v2"))]
)
def test_every_part_exports_and_equals_pytorch(name: str) -> None:
    network, features = small(name), torch.randn(1, 3, 64, 64)
    for index, segment in enumerate(network.segments):
        after = segment(features)
        for part, x in ((segment, features), (network.exits[index], after)):
            graph = export_graph(part, {"x": x}, ["y"])
            for form in (graph, lower(graph, "onnxruntime"), lower(graph, "tensorrt")):
                np.testing.assert_allclose(_run(form.onnx, x), part(x).numpy(), atol=1e-4)
        features = after


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exits": [{"point": 6}]}, "lie at the candidates [6]; name each once, ascending, from 1 to 5"),
        ({"exits": [{"point": 3}, {"point": 2}]}, "lie at the candidates [3, 2]"),
        ({"exits": [{"point": 1}, {"point": 1}]}, "lie at the candidates [1, 1]"),
        ({"exits": [{"point": 0}]}, "lie at the candidates [0]"),
        ({"exits": [{"point": 1, "reduction": 3}]}, "reduction of an exit: is 3; choose one of 1, 2, 4, 8"),
        ({"exits": [], "final": {"head": "psp"}}, "head of an exit: is 'psp'; choose one of fcn, deeplab"),
        ({"exits": [], "width": 0.03125, "final": {"reduction": 8}}, "leaves 2 of 16 channels"),
        ({"exits": [], "candidates": 9}, "9 candidates: the backbone has 8 units"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught, torch.device("meta"):
        multi_exit(5, backbone="resnet18", **options)
    assert message in str(caught.value)


def test_a_head_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExitHead().reduction = 2  # type: ignore[misc]


def test_the_network_is_known_by_name() -> None:
    assert NETWORKS["multi-exit"] is multi_exit
