"""FCN against torchvision's: parameters and cost on each backbone, and a head that comes apart."""

import pytest
import torch
from torch import nn

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import fcn
from cascadert.export.models.fcn import FCNHead

AUXILIARY = FCNHead(1024, 21)  # what torchvision trains with, on the map of 1/8


@pytest.mark.parametrize(
    ("backbone", "output_stride", "parameters", "macs"),
    [
        ("resnet50", 8, 32_957_013, 142.726e9),
        ("resnet101", 8, 51_949_141, 222.747e9),
        ("mobilenet-v2", 8, 2_043_973, 8.893e9),
        ("mobilenet-v2", 16, 2_043_973, 2.764e9),
        ("mobilenet-v2", 32, 2_043_973, 1.620e9),
    ],
)
def test_counts_are_those_published(backbone: str, output_stride: int, parameters: int, macs: float) -> None:
    with torch.device("meta"):
        network = fcn(21, backbone, output_stride)
    assert count_parameters(network) == parameters
    assert count_macs(network, (1, 3, 520, 520)) == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize(
    ("backbone", "parameters", "macs"), [("resnet50", 35_322_218, 152.717e9), ("resnet101", 54_314_346, 232.738e9)]
)
def test_with_an_auxiliary_head_it_is_torchvisions(backbone: str, parameters: int, macs: float) -> None:
    with torch.device("meta"):
        network = fcn(21, backbone)
    assert count_parameters(network) + count_parameters(AUXILIARY) == parameters
    both = count_macs(network, (1, 3, 520, 520)) + count_macs(AUXILIARY, (1, 1024, 65, 65))
    assert both == pytest.approx(macs, rel=1e-3)


def test_a_head_has_a_quarter_of_the_channels_or_those_asked_for() -> None:
    assert FCNHead(32, 5).channels == 8
    head = FCNHead(32, 5, channels=12, dilation=3)
    assert head.features[0][0].weight.shape == (12, 32, 3, 3)
    assert (head.features[0][0].dilation, head.features[0][0].padding) == ((3, 3), (3, 3))


def test_the_classifier_comes_apart_from_the_features() -> None:
    head = FCNHead(16, 5).eval()
    x = torch.randn(2, 16, 7, 9)
    with torch.no_grad():
        features, logits = head.features(x), head(x)
        assert features.shape == (2, head.channels, 7, 9)
        assert torch.equal(head.classifier(features), logits)
        head.classifier = nn.Conv2d(head.channels, 1, 3, padding=1)
        assert head(x).shape == (2, 1, 7, 9)


@pytest.mark.parametrize(("backbone", "limit"), [("resnet18", 200_000), ("mobilenet-v2", 100_000)])
def test_a_narrow_form_is_tiny(backbone: str, limit: int) -> None:
    with torch.device("meta"):
        network = fcn(5, backbone, width=0.125)
        assert network(torch.empty(1, 3, 100, 64)).shape == (1, 5, 13, 8)
    assert count_parameters(network) < limit
