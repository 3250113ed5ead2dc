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
from cascadert.stage_spec import LABELS

Array = NDArray[Any]

PERTURBATION = 1e-5
"""Relative change of what the network sees: 1/400 of a grey level at full scale, and more than float32 rounds by."""

DRAWS = 16
"""Perturbed runs. A tie inside the network goes either way in each, so that 16 miss one in 65,536."""


@dataclass(frozen=True)
class Doubt:
    """How sure the reference is of each output.

    `margins` float32 `[N, H, W]` tells how far a pixel is from another label in logits; 0 where it is no further than
    twice what perturbation moved it. Absent of a stage without labels. `spread` maps each floating-point port to the
    largest change of each element.
    """

    margins: NDArray[np.float32] | None
    spread: Mapping[str, NDArray[np.float32]]


def doubt_of(
    module: Stage,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    margins: NDArray[np.float32] | None,
    perturbation: float = PERTURBATION,
) -> Doubt:
    """Run a stage's torch module again under perturbations, on the inputs that gave `outputs` and `margins`."""
    arguments = [torch.from_numpy(inputs[name]) for name in module.input_names]
    seen, network = module.network_inputs(*arguments), module.network
    moved = None if margins is None else np.zeros_like(margins)
    spread = {name: np.zeros_like(value) for name, value in outputs.items() if value.dtype == np.float32}
    for seed in range(DRAWS):
        with _answering(module, network(*_perturbed(seen, seed, perturbation))):
            again = dict(zip(module.output_names, (output.numpy() for output in module(*arguments)), strict=True))
            if margins is not None and moved is not None:
                _widen(moved, margins, module.margins(*arguments).numpy())
        for name, largest in spread.items():
            _widen(largest, outputs[name], again[name])
        if margins is not None:
            margins = np.where(again[LABELS] != outputs[LABELS], np.float32(0), margins)
    if margins is None or moved is None:
        return Doubt(None, spread)
    return Doubt(np.where(margins <= 2 * moved, np.float32(0), margins), spread)


def _widen(largest: NDArray[np.float32], before: Array, after: Array) -> None:
    """Raise `largest` to the change of each element; infinities that stay are no change."""
    with np.errstate(invalid="ignore"):
        np.fmax(largest, np.abs(after - before), out=largest)


def _perturbed(seen: tuple[Tensor, ...], seed: int, perturbation: float) -> Iterator[Tensor]:
    """Multiply each value by a random factor in 1 ± `perturbation`."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in seen:
        noise = torch.rand(tensor.shape, generator=generator) * 2 - 1
        yield tensor * (1 + perturbation * noise)


@contextmanager
def _answering(module: Stage, answer: Any) -> Iterator[None]:
    """Let the stage's network return this, so that it need run but once for all that is made of it."""
    network, module.network = module.network, _Answer(answer)
    try:
        yield
    finally:
        module.network = network


class _Answer(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *_: Tensor) -> Any:
        """Return the answer, whatever is asked."""
        return self.answer
