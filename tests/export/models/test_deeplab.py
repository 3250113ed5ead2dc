"""DeepLabV3 against torchvision's and DeepLabV3+ against segmentation_models.pytorch's: parameters, cost, structure."""

import pytest
import torch
from torch import nn

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import deeplabv3, deeplabv3_plus
from cascadert.export.models.deeplab import AtrousPyramid, DeepLabHead
from cascadert.export.models.fcn import FCNHead
from cascadert.export.models.mobilenet import MobileNetShape, MobileNetV2
from cascadert.export.models.segmenter import Segmenter

AUXILIARY = FCNHead(1024, 21)  # what torchvision trains with, on the map of 1/8


@pytest.mark.parametrize(
    ("backbone", "output_stride", "parameters", "macs"),
    [
        ("resnet50", 8, 39_638_869, 168.731e9),
        ("resnet101", 8, 58_630_997, 248.752e9),
        ("mobilenet-v2", 8, 5_113_877, 21.50e9),
        ("mobilenet-v2", 16, 5_113_877, 6.015e9),
        ("mobilenet-v2", 32, 5_113_877, 2.483e9),
    ],
)
def test_counts_are_those_published(backbone: str, output_stride: int, parameters: int, macs: float) -> None:
    with torch.device("meta"):
        network = deeplabv3(21, backbone, output_stride)
    assert count_parameters(network) == parameters
    assert count_macs(network, (1, 3, 520, 520)) == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize(
    ("backbone", "parameters", "macs"), [("resnet50", 42_004_074, 178.722e9), ("resnet101", 60_996_202, 258.743e9)]
)
def test_with_an_auxiliary_head_it_is_torchvisions(backbone: str, parameters: int, macs: float) -> None:
    with torch.device("meta"):
        network = deeplabv3(21, backbone)
    assert count_parameters(network) + count_parameters(AUXILIARY) == parameters
    both = count_macs(network, (1, 3, 520, 520)) + count_macs(AUXILIARY, (1, 1024, 65, 65))
    assert both == pytest.approx(macs, rel=1e-3)


def test_cost_on_a_street_scene() -> None:
    with torch.device("meta"):
        assert count_macs(deeplabv3(19), (1, 3, 1024, 2048)) == pytest.approx(1308.6e9, rel=1e-3)


@pytest.mark.parametrize(("output_stride", "macs"), [(8, 52.31e9), (16, 13.96e9)])
def test_counts_on_the_expanded_mobilenet(output_stride: int, macs: float) -> None:
    with torch.device("meta"):
        backbone = MobileNetV2(MobileNetShape(output_stride=output_stride, last=1280))
        network = Segmenter(backbone, DeepLabHead(1280, 21))
    assert count_parameters(network) == 12_653_077
    assert count_macs(network, (1, 3, 520, 520)) == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize(
    ("backbone", "parameters", "small", "large"),
    [
        ("mobilenet-v2", 4_383_139, 6.001e9, 48.01e9),
        ("resnet50", 26_682_211, 36.64e9, 293.1e9),
        ("resnet101", 45_674_339, 56.03e9, 448.2e9),
    ],
)
def test_plus_counts_are_those_published(backbone: str, parameters: int, small: float, large: float) -> None:
    with torch.device("meta"):
        network = deeplabv3_plus(19, backbone)
    assert count_parameters(network) == parameters
    assert count_macs(network, (1, 3, 512, 512)) == pytest.approx(small, rel=1e-3)
    assert count_macs(network, (1, 3, 1024, 2048)) == pytest.approx(large, rel=1e-3)


@pytest.mark.parametrize("separable", [False, True])
def test_the_pyramid_sees_at_its_rates_and_the_mean(separable: bool) -> None:
    pyramid = AtrousPyramid(4, 6, (2, 3), separable).eval()
    wide = [m for m in pyramid.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [(m.dilation, m.padding, m.groups) for m in wide] == [
        ((rate, rate), (rate, rate), 4 if separable else 1) for rate in (2, 3)
    ]
    x = torch.randn(2, 4, 9, 11)
    with torch.no_grad():
        mean = pyramid.mean[1](x.mean((2, 3), keepdim=True)).expand(-1, -1, 9, 11)
        joined = torch.cat([*(branch(x) for branch in pyramid.branches), mean], 1)
        torch.testing.assert_close(pyramid(x), pyramid.project(joined))
    assert joined.shape == (2, 24, 9, 11)


def test_the_classifier_comes_apart_from_the_features() -> None:
    head = DeepLabHead(16, 5, channels=8, rates=(1, 2)).eval()
    x = torch.randn(2, 16, 7, 9)
    with torch.no_grad():
        features, logits = head.features(x), head(x)
        assert features.shape == (2, head.channels, 7, 9)
        assert torch.equal(head.classifier(features), logits)


def test_plus_joins_the_context_with_the_map_of_stride_4() -> None:
    torch.manual_seed(0)
    network = deeplabv3_plus(5, "resnet18", width=0.125, channels=8).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        low, *_, high = network.backbone.levels(x)
        assert (low.shape[2:], high.shape[2:]) == ((16, 24), (4, 6))
        context = nn.UpsamplingBilinear2d(scale_factor=4)(network.context(high))
        expected = network.classifier(network.decoder(torch.cat([context, network.low_level(low)], 1)))
        torch.testing.assert_close(network(x), expected)
    assert network.low_level[0].out_channels == 48


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet-v2"])
@pytest.mark.parametrize(("build", "logits"), [(deeplabv3, (13, 8)), (deeplabv3_plus, (25, 16))])
def test_a_narrow_form_is_tiny(backbone: str, build, logits: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build(5, backbone, width=0.125, channels=16).eval()
        assert network(torch.empty(1, 3, 100, 64)).shape == (1, 5, *logits)
    assert count_parameters(network) < 300_000
