"""PSPNet against the published network: parameters, stride, dilations, pyramid."""

import pytest
import torch
from torch import nn

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import pspnet_r50, pspnet_r101, pspnet_small
from cascadert.export.models.pspnet import PyramidPooling


@pytest.mark.parametrize(
    ("build", "deep_stem", "parameters", "macs"),
    [
        (pspnet_r50, True, 46_715_347, 363.8e9),
        (pspnet_r50, False, 46_591_571, 350.0e9),
        (pspnet_r101, True, 65_707_475, 517.2e9),
    ],
)
def test_counts_of_the_full_forms_are_those_published(build, deep_stem: bool, parameters: int, macs: float) -> None:
    with torch.device("meta"):
        network = build(19, deep_stem=deep_stem)
    assert count_parameters(network) == parameters
    assert count_macs(network, (1, 3, 713, 713)) == pytest.approx(macs, rel=1e-3)


def test_resnet_50_form_keeps_stride_8_by_dilating_layers_3_and_4() -> None:
    with torch.device("meta"):
        backbone = pspnet_r50(19).backbone
    convolutions = [m for m in backbone.layers.modules() if isinstance(m, nn.Conv2d)]
    assert [m.dilation[0] for m in convolutions if m.kernel_size == (3, 3)] == [1] * 7 + [2] * 6 + [4] * 3


@pytest.mark.parametrize(("size", "logits"), [((64, 96), (8, 12)), ((60, 100), (8, 13))])
def test_logits_keep_stride_8_rounded_up(size: tuple[int, int], logits: tuple[int, int]) -> None:
    network = pspnet_small(11, width=8).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, *size)).shape == (1, 11, *logits)


def test_small_form_is_small_and_its_width_and_depth_are_arguments() -> None:
    default = count_parameters(pspnet_small(19))
    assert 1_000_000 < default < 3_000_000
    assert count_parameters(pspnet_small(19, width=32)) > default
    assert count_parameters(pspnet_small(19, blocks=(2, 2, 2, 2))) > default


def test_pyramid_sees_the_means_of_its_bins() -> None:
    pyramid = PyramidPooling(channels=2, width=3, bins=(1, 2)).eval()
    x = torch.randn(1, 2, 4, 6)
    with torch.no_grad():
        y = pyramid(x)
        one = pyramid.branches[0][1](x.mean((2, 3), keepdim=True)).expand(-1, -1, 4, 6)
    assert torch.equal(y[:, :2], x)
    torch.testing.assert_close(y[:, 2:5], one)
    assert y.shape == (1, 8, 4, 6)


def test_enlarging_equals_an_enlarged_image() -> None:
    torch.manual_seed(0)
    plain, enlarged = pspnet_small(5, width=8).eval(), pspnet_small(5, width=8, enlarge=1.25).eval()
    enlarged.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        big = nn.functional.interpolate(x, size=(80, 120), mode="bilinear", align_corners=False)
        assert torch.equal(enlarged(x), plain(big))
