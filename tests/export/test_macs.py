"""Multiply-add counts against the published ones (within 0.1 %), and of single layers by hand."""

import pytest
import torch
from torch import nn

from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.models import enet, pspnet_r50


@pytest.mark.parametrize(
    ("classes", "size", "macs"),
    [
        (11, (360, 480), 1.281e9),
        (19, (360, 480), 1.331e9),
        (11, (360, 640), 1.708e9),
        (19, (360, 640), 1.774e9),
        (11, (512, 1024), 3.886e9),
        (19, (512, 1024), 4.037e9),
        (11, (1024, 2048), 15.55e9),
        (19, (1024, 2048), 16.15e9),
    ],
)
def test_enet_costs_what_is_published(classes: int, size: tuple[int, int], macs: float) -> None:
    assert count_macs(enet(classes), (1, 3, *size)) == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize(
    ("classes", "size", "macs"),
    [
        (19, (256, 256), 46.08e9),
        (19, (480, 480), 161.9e9),
        (19, (512, 512), 184.2e9),
        (19, (713, 713), 363.8e9),
        (19, (864, 864), 524.3e9),
        (19, (1024, 1024), 736.4e9),
        (19, (1024, 2048), 1472.8e9),
        (21, (473, 473), 161.6e9),
    ],
)
def test_pspnet_r50_costs_what_is_published(classes: int, size: tuple[int, int], macs: float) -> None:
    with torch.device("meta"):
        network = pspnet_r50(classes)
    assert count_macs(network, (1, 3, *size)) == pytest.approx(macs, rel=1e-3)


def test_convolutions_by_hand() -> None:
    assert count_macs(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (1, 4, 8, 8)) == 6 * 16 * 2 * 9
    assert count_macs(nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 8, 8)) == 4 * 64 * 6 * 4
    assert count_macs(nn.Conv2d(4, 6, 1), (5, 4, 8, 8)) == 5 * 6 * 64 * 4


class Pair(nn.Module):
    """A network of two inputs, one of whose layers runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, image, features):
        return self.right(self.left(image) + self.right(features))


def test_several_inputs_and_a_choice_of_layers() -> None:
    shapes = (2, 3, 8, 8), (2, 4, 8, 8)
    left, right = 2 * 64 * 4 * 3, 2 * 2 * 64 * 4 * 4 * 9
    assert count_macs(Pair(), *shapes) == left + right
    assert count_macs(Pair(), *shapes, counted=lambda name, _: name == "right") == right


def test_counting_leaves_the_network_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_macs(network, (1, 3, 8, 8))
    assert network.training
    assert not network[0]._forward_hooks
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu" and torch.equal(tensor, before[name])
    assert count_parameters(network) == 3 * 4 * 9 + 4 + 8
