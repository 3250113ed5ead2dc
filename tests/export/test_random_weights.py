"""Random weights that decide something: one bit of entropy, all classes, the same for the same seed."""

import pytest
import torch
from torch import nn

from cascadert.errors import NetworkError
from cascadert.export.glue import as_class_logits, entropy_bits, labels_of
from cascadert.export.models import enet, pspnet_small
from cascadert.export.networks import state_sha256
from cascadert.export.random_weights import prepare, seeded


def _plain(classes: int = 5, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1, bias=bias))


NETWORKS = {
    "plain": _plain,
    "no bias": lambda: _plain(bias=False),
    "binary": lambda: _plain(classes=1),
    "transposed": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.ConvTranspose2d(8, 5, 2, 2)),
    "enet": lambda: enet(5),
    "pspnet-small": lambda: pspnet_small(5, width=8),
}


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_mean_entropy_is_about_one_bit_and_answers_differ(name: str, pixels: torch.Tensor) -> None:
    network = seeded(3, NETWORKS[name]).eval()
    prepare("stage 'fast'", network, [pixels], lambda logits: logits)
    with torch.no_grad():
        logits = as_class_logits(network(pixels))
    aim = 1.0 if logits.shape[1] > 2 else 0.5  # two classes have one bit at most: it would mean no decision anywhere
    assert entropy_bits(logits).mean().item() == pytest.approx(aim, abs=0.05)
    assert entropy_bits(logits).std() > 0.05
    assert labels_of(logits).unique().numel() > 1
    assert not network.training
    assert all(not module.training for module in network.modules())


def test_statistics_are_those_of_the_pixels(pixels: torch.Tensor) -> None:
    network = seeded(0, _plain).eval()
    momentum = network[1].momentum
    prepare("stage 'fast'", network, [pixels], lambda logits: logits)
    with torch.no_grad():
        before = network[0](torch.cat([pixels, pixels.flip(3)]))
    assert torch.allclose(network[1].running_mean, before.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(network[1].running_var, before.var(dim=(0, 2, 3)), rtol=1e-3)
    assert network[1].momentum == momentum


def test_the_same_seed_gives_the_same_network_and_leaves_the_generator_alone(pixels: torch.Tensor) -> None:
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    one, two, other = (seeded(seed, _plain).eval() for seed in (5, 5, 6))
    for network in (one, two, other):
        prepare("stage 'fast'", network, [pixels], lambda logits: logits)
    assert torch.equal(torch.rand(3), wanted)
    assert state_sha256(one) == state_sha256(two) != state_sha256(other)


def test_networks_that_cannot_decide_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(NetworkError, match=r"^stage 'fast': has no layer whose weights could be random; give weights$"):
        prepare("stage 'fast'", nn.ReLU(), [pixels], lambda logits: logits)
    flat = nn.Sequential(_plain(), nn.Softmax(dim=1))  # probabilities as logits: nothing can make them certain
    with pytest.raises(
        NetworkError, match=r"^stage 'fast': random weights reach a mean entropy of .* bits, not 1; give"
    ):
        prepare("stage 'fast'", flat.eval(), [pixels], lambda logits: logits)
    undefined = nn.Sequential(_plain(), nn.Threshold(float("inf"), float("nan")))
    with pytest.raises(NetworkError, match=r"^stage 'fast': returns NaN with random weights; mend the network"):
        prepare("stage 'fast'", undefined.eval(), [pixels], lambda logits: logits)
