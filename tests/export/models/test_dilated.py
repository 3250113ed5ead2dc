"""Backbones by name: counts, strides and dilations of the public implementations; cuts anywhere."""

import pytest
import torch
from torch import nn

from cascadert.errors import InvalidRequest
from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models.dilated import RESNETS, BackboneForm, dilated_backbone


@pytest.mark.parametrize(
    ("name", "with_classifier", "channels"),
    [
        ("resnet18", 11_689_512, 512),
        ("resnet34", 21_797_672, 512),
        ("resnet50", 25_557_032, 2048),
        ("resnet101", 44_549_160, 2048),
    ],
)
def test_resnets_have_the_published_parameters(name: str, with_classifier: int, channels: int) -> None:
    with torch.device("meta"):
        backbone = dilated_backbone(name, BackboneForm(output_stride=32))
    assert count_parameters(backbone) + channels * 1000 + 1000 == with_classifier


@pytest.mark.parametrize(("size", "macs"), [(224, 4.089e9 - 2048e3), (192, 3.003e9), (768, 48.045e9)])
def test_resnet_50_costs_what_is_published(size: int, macs: float) -> None:
    with torch.device("meta"):
        backbone = dilated_backbone("resnet50", BackboneForm(output_stride=32))
    assert count_macs(backbone, (1, 3, size, size)) == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize("name", [*RESNETS, "mobilenet-v2"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_output_stride_rounds_up_and_the_first_level_has_stride_4(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = dilated_backbone(name, BackboneForm(output_stride, width=0.25))
        low, *_, high = backbone.levels(torch.empty(1, 3, 100, 64))
    assert low.shape == (1, backbone.widths[0], 25, 16)
    assert high.shape == (1, backbone.channels, -(-100 // output_stride), 64 // output_stride)


@pytest.mark.parametrize(
    ("form", "dilations"),
    [
        (BackboneForm(8), [1] * 8 + [2] * 5 + [2, 4, 4]),
        (BackboneForm(8, gradual=False), [1] * 7 + [2] * 6 + [4] * 3),
        (BackboneForm(16), [1] * 14 + [2] * 2),
        (BackboneForm(16, gradual=False), [1] * 13 + [2] * 3),
        (BackboneForm(32), [1] * 16),
    ],
)
def test_dilations_are_those_of_torchvision_or_of_the_layer(form: BackboneForm, dilations: list[int]) -> None:
    with torch.device("meta"):
        backbone = dilated_backbone("resnet50", form)
    convolutions = [m for m in backbone.layers.modules() if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convolutions if m.kernel_size == (3, 3)] == dilations


@pytest.mark.parametrize("name", ["resnet50", "mobilenet-v2"])
def test_a_row_cut_anywhere_is_the_whole(name: str) -> None:
    torch.manual_seed(0)
    backbone = dilated_backbone(name, BackboneForm(8, width=0.125)).eval()
    x = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        whole, levels = backbone(x), backbone.levels(x)
        for cut in range(len(backbone.layers) + 1):
            features = backbone.layers[:cut](backbone.stem(x))
            if cut in backbone.ends:
                assert torch.equal(features, levels[backbone.ends.index(cut)])
            assert torch.equal(backbone.layers[cut:](features), whole)


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("resnet50", BackboneForm(12), "output_stride: is 12; choose 8, 16 or 32"),
        ("resnet152", BackboneForm(), "backbone: is 'resnet152'; choose one of resnet18, .*, mobilenet-v2"),
    ],
)
def test_what_is_not_there_is_refused(name: str, form: BackboneForm, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        dilated_backbone(name, form)
