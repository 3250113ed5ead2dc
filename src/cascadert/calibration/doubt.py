"""Where the reference would not keep its own answer, so that nobody else need give the same.

Two classes whose logits are equal but for rounding are tied. Networks with max pooling and un-pooling (ENet) have ties
inside, too: of two pixels that are equal but for rounding either may be the maximum, and the un-pooled value then lands
a pixel further on, which changes labels around it for good. Those ties cannot be seen in the logits. They are found by
asking the reference again with its input changed by far less than a camera could tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cascadert.export.stages import Stage

Array = NDArray[Any]

PERTURBATION = 1e-5
"""Relative change of the network's input: 1/400 of a grey level at full scale, and more than float32 rounds by."""

DRAWS = 16
"""Perturbed runs. A tie inside the network goes either way in each, so that 16 miss one in 65,536."""


@dataclass(frozen=True)
class Doubt:
    """How sure the reference is of each output.

    `margins` float32 `[N, H, W]` tells how far a pixel is from another label in logits; 0 where the label changed under
    perturbation. `spread` maps each floating-point port to the largest change of each of its elements.
    """

    margins: NDArray[np.float32]
    spread: Mapping[str, NDArray[np.float32]]


def doubt_of(
    module: Stage, inputs: Mapping[str, Array], outputs: Mapping[str, Array], margins: NDArray[np.float32]
) -> Doubt:
    """Run a stage's torch module again under perturbations, on the inputs that gave `outputs` and `margins`."""
    arguments = [torch.from_numpy(inputs[name]) for name in module.input_names]
    spread = {name: np.zeros_like(value) for name, value in outputs.items() if value.dtype == np.float32}
    for seed in range(DRAWS):
        with _perturbed(module.network, seed):
            again = dict(zip(module.output_names, (output.numpy() for output in module(*arguments)), strict=True))
        margins = np.where(again["labels"] != outputs["labels"], np.float32(0), margins)
        for name, largest in spread.items():
            with np.errstate(invalid="ignore"):  # minus infinity less itself, for blocks without a score
                np.fmax(largest, np.abs(again[name] - outputs[name]), out=largest)
    return Doubt(margins, spread)


@contextmanager
def _perturbed(network: nn.Module, seed: int) -> Iterator[None]:
    """Multiply what the network sees by 1 ± PERTURBATION, each value by its own random factor."""
    generator = torch.Generator().manual_seed(seed)

    def change(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        noise = torch.rand(inputs[0].shape, generator=generator) * 2 - 1
        return (inputs[0] * (1 + PERTURBATION * noise), *inputs[1:])

    hook = network.register_forward_pre_hook(change)
    try:
        yield
    finally:
        hook.remove()
