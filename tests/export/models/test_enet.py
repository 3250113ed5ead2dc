"""ENet against the published layer list: parameters, output size and the path of the pooling indices."""

import pytest
import torch
from torch import nn

from cascadert.export.macs import count_parameters
from cascadert.export.models import NETWORKS, enet


@pytest.mark.parametrize(("classes", "parameters"), [(11, 350_508), (19, 351_660)])
def test_parameters_are_those_of_the_reference_implementation(classes: int, parameters: int) -> None:
    assert count_parameters(enet(classes)) == parameters


def test_logits_have_the_size_of_the_image() -> None:
    network = enet(11).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 40, 56)).shape == (2, 11, 40, 56)


def test_encoder_uses_scalar_prelu_and_decoder_relu() -> None:
    network = enet(11)
    slopes = {name: m.num_parameters for name, m in network.named_modules() if isinstance(m, nn.PReLU)}
    assert set(slopes.values()) == {1}
    decoder = ("up4", "stage4", "up5", "stage5")
    assert not [name for name in slopes if name.startswith(decoder)]
    rectifiers = [name for name, m in network.named_modules() if isinstance(m, nn.ReLU)]
    assert rectifiers and all(name.startswith(decoder) for name in rectifiers)


def test_values_return_to_the_place_they_were_pooled_from() -> None:
    network = enet(11).eval()
    x = torch.randn(1, 16, 8, 8)
    _, indices = network.down1(x)
    up = network.up5
    with torch.no_grad():
        main = up.main(torch.randn(1, 64, 4, 4).abs() + 0.1)
        placed = up.unpool(main, indices)
    assert torch.equal(placed.flatten(2).gather(2, indices.flatten(2)).view_as(main), main)
    assert torch.count_nonzero(placed) <= main.numel()


def test_context_stages_repeat_the_dilations_of_table_1() -> None:
    network = enet(11)
    for stage in (network.stage2, network.stage3):
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
        assert [m.dilation[0] for m in convolutions if m.kernel_size == (3, 3)] == [1, 2, 4, 1, 8, 16]
        assert [m.kernel_size for m in convolutions if 5 in m.kernel_size] == [(5, 1), (1, 5)] * 2


def test_registry_builds_every_network_by_name() -> None:
    for name in ("enet", "pspnet-small"):
        network = NETWORKS[name](5).eval()
        with torch.no_grad():
            assert network(torch.randn(1, 3, 64, 64)).shape[:2] == (1, 5)
