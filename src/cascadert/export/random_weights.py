"""Random weights with which a cascade still decides something.

A freshly initialised network has useless entropy: near log2 K everywhere, or near 0. So batch norms take their
statistics from real pixels, and the last layer is centred per class and scaled until the mean entropy is one bit (half
a bit for two classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cascadert.errors import NetworkError
from cascadert.export.glue import as_class_logits, entropy_bits

MEAN_ENTROPY_BITS = 1.0
_STEPS = 40
_SAMPLED_PIXELS = 1 << 16  # enough for a mean; all of 1024 x 2048 would take a minute
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with torch's generator set to `seed`, and leave the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@torch.no_grad()
def prepare(name: str, network: nn.Module, pixels: Tensor) -> None:
    """Give a randomly initialised network sensible statistics on `pixels`, float32 `[n, 3, h, w]`, in place.

    Raises:
        NetworkError: the mean entropy cannot be brought near one bit.
    """
    _take_statistics(network, pixels)
    layer, output = _last_layer(name, network, pixels)
    if layer.bias is not None:
        layer.bias -= output.mean(dim=[axis for axis in range(output.dim()) if axis != 1])
    logits = as_class_logits(network(pixels)).float()
    aim = min(MEAN_ENTROPY_BITS, math.log2(logits.shape[1]) / 2)  # one bit is all that two classes can have
    scale = _scale_for(logits, aim)
    layer.weight *= scale
    if layer.bias is not None:
        layer.bias *= scale
    reached = float(entropy_bits(as_class_logits(network(pixels))).mean())
    if not 0.5 * aim < reached < 1.5 * aim:
        found = f"random weights reach a mean entropy of {reached:.3f} bits, not {aim:g}"
        raise NetworkError(f"stage '{name}'", found, "give weights")


def _take_statistics(network: nn.Module, pixels: Tensor) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what follows
        norm.train()
    network(torch.cat([pixels, pixels.flip(3)]))  # two at least: a pooled map of one image has no variance
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _last_layer(
    name: str, network: nn.Module, pixels: Tensor
) -> tuple[nn.Conv2d | nn.ConvTranspose2d | nn.Linear, Tensor]:
    """Return the layer that ran last and what it returned."""
    ran: list[tuple[nn.Conv2d | nn.ConvTranspose2d | nn.Linear, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda layer, _, output: ran.append((layer, output)))
        for module in network.modules()
        if isinstance(module, _LAYERS)
    ]
    network(pixels)
    for hook in hooks:
        hook.remove()
    if not ran:
        raise NetworkError(f"stage '{name}'", "has no layer whose weights could be random", "give weights")
    return ran[-1]


def _scale_for(logits: Tensor, aim: float) -> float:
    """Find the factor that brings the mean entropy of `logits` to `aim` bits; entropy falls as the factor grows."""
    low, high = 1e-6, 1e6
    step = 1 + int((logits.shape[2] * logits.shape[3] / _SAMPLED_PIXELS) ** 0.5)
    sampled = logits[:, :, ::step, ::step].contiguous()
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        if float(entropy_bits(sampled * middle).mean()) > aim:
            low = middle
        else:
            high = middle
    return high
