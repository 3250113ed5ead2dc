"""MobileNetV2 against the published network: parameters, cost, widths, dilation in the place of stride."""

import pytest
import torch
from torch import nn

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models.mobilenet import InvertedResidual, MobileNetShape, MobileNetV2


def meta(shape: MobileNetShape) -> MobileNetV2:
    with torch.device("meta"):
        return MobileNetV2(shape)


def test_parameters_and_cost_are_the_published_ones_with_the_classifier() -> None:
    network = meta(MobileNetShape(last=1280))
    assert count_parameters(network) + 1280 * 1000 + 1000 == 3_504_872
    assert count_macs(network, (1, 3, 224, 224)) + 1280 * 1000 == pytest.approx(0.301e9, rel=1e-3)


def test_levels_are_the_maps_before_each_halving() -> None:
    network = meta(MobileNetShape())
    maps = network.levels(torch.empty(2, 3, 96, 160, device="meta"))
    assert [tuple(level.shape) for level in maps] == [(2, 24, 24, 40), (2, 32, 12, 20), (2, 96, 6, 10), (2, 320, 3, 5)]
    assert network.widths == (24, 32, 96, 320) and network.ends == (3, 6, 13, 17)
    assert meta(MobileNetShape(last=1280)).widths == (24, 32, 96, 1280)


@pytest.mark.parametrize(
    ("output_stride", "dilations"),
    [(32, [1] * 17), (16, [1] * 13 + [2] * 4), (8, [1] * 6 + [2] * 7 + [4] * 4)],
)
def test_dilation_takes_the_place_of_stride(output_stride: int, dilations: list[int]) -> None:
    network = meta(MobileNetShape(output_stride=output_stride))
    depthwise = [m for m in network.layers.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [m.dilation[0] for m in depthwise] == dilations
    assert network(torch.empty(1, 3, 97, 64, device="meta")).shape[2:] == (-(-97 // output_stride), 64 // output_stride)


def test_a_dilated_network_sees_what_the_strided_one_does() -> None:
    """Every second pixel of each dimension is what stride would have kept."""
    torch.manual_seed(0)
    strided = MobileNetV2(MobileNetShape(width=0.25, output_stride=32)).eval()
    dilated = MobileNetV2(MobileNetShape(width=0.25, output_stride=8)).eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = strided(x), dilated(x)
    assert expected.std() > 0
    torch.testing.assert_close(found[:, :, ::4, ::4], expected, rtol=1e-4, atol=1e-6)


def test_widths_are_multiples_of_8_near_what_was_asked() -> None:
    shape = MobileNetShape(width=0.35)
    assert [shape.channels(nominal) for nominal in (32, 16, 24, 64, 96, 160, 320)] == [16, 8, 8, 24, 32, 56, 112]
    assert MobileNetShape(width=1.4).channels(1280) == 1792
    assert meta(MobileNetShape(width=0.5, last=1280)).channels == 1280
    assert meta(MobileNetShape(width=1.4, last=1280)).channels == 1792


def test_units_are_residual_where_shape_is_kept() -> None:
    units = [m for m in meta(MobileNetShape()).layers if isinstance(m, InvertedResidual)]
    assert [unit.residual for unit in units] == [
        bool(int(mark)) for row in ("0", "01", "011", "0111", "011", "011", "0") for mark in row
    ]
    unit = InvertedResidual((4, 4), 2, 1, 1).eval()
    nn.init.zeros_(unit.project[1].weight)
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        assert torch.equal(unit(x), x)


def test_rows_make_a_shorter_network() -> None:
    shape = MobileNetShape(width=0.25, rows=((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2)))
    network = MobileNetV2(shape)
    assert network.ends == (2, 3) and count_parameters(network) < 10_000
