"""Counts parameters and convolution multiply-adds without computing anything."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trainable or not; buffers (batch-norm statistics) are not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(
    module: nn.Module, *input_shapes: tuple[int, ...], counted: Callable[[str, nn.Module], bool] | None = None
) -> int:
    """Multiply-adds of every convolution and transposed convolution in one forward pass.

    Runs a copy of the module in evaluation mode on meta tensors. Bias, normalisation, activation, pooling
    and interpolation are left out, as is usual for published counts. A transposed convolution costs its
    kernel once per *input* pixel.

    Args:
        module: network of float tensors.
        input_shapes: shape of each of its inputs, ``(N, C, H, W)``; the count is for all N images.
        counted: whether a convolution counts, by its name in the module; by default all do.
    """
    total = 0

    def add(layer: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        # weight[0] holds the products of one position of the map that the kernel walks over.
        walked = inputs[0] if isinstance(layer, _TRANSPOSED) else output
        total += math.prod(walked.shape) * math.prod(weight.shape[1:])

    shadow = copy.deepcopy(module).to("meta").eval()
    for name, layer in shadow.named_modules():
        if isinstance(layer, _CONVOLUTIONS) and (counted is None or counted(name, layer)):
            layer.register_forward_hook(add)
    with torch.no_grad():
        shadow(*(torch.empty(shape, device="meta") for shape in input_shapes))
    return total
