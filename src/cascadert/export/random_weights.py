"""Random weights with which a cascade still decides something.

A freshly initialised network has useless entropy: near log2 K everywhere, or near 0. So batch norms take their
statistics from real pixels, and the last layer is centred per class and scaled until the mean entropy is one bit (half
a bit for two classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cascadert.errors import NetworkError
from cascadert.export.glue import as_class_logits, entropy_bits

MEAN_ENTROPY_BITS = 1.0
_STEPS = 40
_SAMPLED_PIXELS = 1 << 16  # enough for a mean; all of 1024 x 2048 would take a minute
_Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

LogitsOf = Callable[[Any], Tensor | None]


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with torch's generator set to `seed`, and leave the generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


@torch.no_grad()
def prepare(subject: str, network: nn.Module, inputs: Sequence[Tensor], logits_of: LogitsOf) -> None:
    """Give a randomly initialised network sensible statistics, in place.

    Args:
        subject: names it in errors.
        network: one that has no weights of its own yet.
        inputs: what it sees of some picture, float32 `[n, c, h, w]` each.
        logits_of: finds the logits `[n, K, h, w]` in what it returns, if there are any.

    Raises:
        NetworkError: the mean entropy cannot be brought near one bit.
    """
    _take_statistics(network, inputs)
    layer, output, answer = _last_layer(subject, network, inputs, logits_of)
    if logits_of(answer) is None:
        return
    if layer.bias is not None:
        layer.bias -= output.mean(dim=[axis for axis in range(output.dim()) if axis != 1])
    logits = _class_logits(logits_of(network(*inputs)))
    aim = min(MEAN_ENTROPY_BITS, math.log2(logits.shape[1]) / 2)  # one bit is all that two classes can have
    scale = _scale_for(logits, aim)
    layer.weight *= scale
    if layer.bias is not None:
        layer.bias *= scale
    reached = float(entropy_bits(_class_logits(logits_of(network(*inputs)))).mean())
    if math.isnan(reached):
        raise NetworkError(subject, "returns NaN with random weights", "mend the network, or give weights")
    if not 0.5 * aim < reached < 1.5 * aim:
        found = f"random weights reach a mean entropy of {reached:.3f} bits, not {aim:g}"
        raise NetworkError(subject, found, "give weights")


def _class_logits(logits: Tensor | None) -> Tensor:
    assert logits is not None, "it returned logits before"
    return as_class_logits(logits).float()


def _take_statistics(network: nn.Module, inputs: Sequence[Tensor]) -> None:
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over what follows
        norm.train()
    network(*(torch.cat([t, t.flip(3)]) for t in inputs))  # two at least: a pooled map of one image has no variance
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _last_layer(
    subject: str, network: nn.Module, inputs: Sequence[Tensor], logits_of: LogitsOf
) -> tuple[_Layer, Tensor, Any]:
    """Return the layer that the logits come from, what it returned, and what the network did.

    That is the last that ran, among those with a channel for each class where a network does more than logits.
    """
    ran: list[tuple[_Layer, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda layer, _, output: ran.append((layer, output)))
        for module in network.modules()
        if isinstance(module, _LAYERS)
    ]
    answer = network(*inputs)
    for hook in hooks:
        hook.remove()
    if not ran:
        raise NetworkError(subject, "has no layer whose weights could be random", "give weights")
    logits = logits_of(answer)
    fitting = [pair for pair in ran if logits is not None and pair[1].shape[1] == logits.shape[1]]
    return (*(fitting or ran)[-1], answer)


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
