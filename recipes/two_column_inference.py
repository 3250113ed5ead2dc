"""What a two-column network makes of chosen regions, in training and in a measurement: what its exported parts make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cascadert.export.models.two_column import TwoColumn
from cascadert.export.models.two_column.decoder import rescale
from cascadert.export.models.two_column.sparse import cut, uncrop

Choose = Callable[[Tensor], Tensor]
"""From raw scores `[N, 1, rows, columns]` to the mask of regions to compute, 1 or 0."""


def top_regions(score: Tensor, k: int) -> Tensor:
    """Return 1 for the k highest of each image and 0 for the others, in the shape of scores `[N, 1, rows, columns]`."""
    flat = score.detach().flatten(1)
    return torch.zeros_like(flat).scatter_(1, flat.topk(k).indices, 1).view_as(score)


class Seen(NamedTuple):
    """What a two-column network makes of images.

    Attributes:
        fused: logits `[N, K, H/4, W/4]`, the network's result.
        half: the half column's own logits, `[N, K, H/8, W/8]`.
        full: the full-resolution column's own logits, `[N, K, H/4, W/4]`.
        score: raw scores s of the regions, `[N, 1, rows, columns]`.
        mask: which of them were computed, in the same shape.
    """

    fused: Tensor
    half: Tensor
    full: Tensor
    score: Tensor
    mask: Tensor


def segment(network: TwoColumn, image: Tensor, choose: Choose, *, crop: bool = True) -> Seen:
    """Run the three parts as a runtime does, on images `[N, 3, H, W]`: only chosen regions are computed.

    In training mode the normalisations of the backbone therefore see chosen regions alone. With `crop` off the backbone
    sees whole frames, nothing of its levels is masked, and the mask counts in the fusion only: the classic inference
    of a network without cropping (SCTF).
    """
    with output_of(network.half_column.column.classifier) as half_logits:
        half = network.half_column(rescale(image, 0.5))
    mask = choose(half["score"])
    levels = _of_regions(network, image, mask) if crop else network.crops(image)
    given = {**levels, **half}
    with output_of(network.fuse.classifier) as full_logits:
        fused = network.fuse(*(given[name] for name in network.fuse.reads), mask)
    return Seen(fused, half_logits[0], full_logits[0], half["score"], mask)


def _of_regions(network: TwoColumn, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    chosen = mask.flatten().nonzero().squeeze(1)
    maps = {}
    for name, level in network.crops(cut(image, network.region)[chosen]).items():
        every = level.new_zeros(mask.numel(), *level.shape[1:]).index_copy(0, chosen, level)
        maps[name] = uncrop(every, mask.shape[-2:])
    return maps


@contextmanager
def output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a part returns inside of a larger one."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda part, inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


class FastInference(nn.Module):
    """The network as it is exported: images `[N, 3, H, W]` to logits, from the k regions with the highest scores."""

    def __init__(self, network: TwoColumn, k: int) -> None:
        super().__init__()
        self.network, self.k = network, k

    def forward(self, image: Tensor) -> Tensor:
        """Map images to logits `[N, K, H/4, W/4]`."""
        return segment(self.network, image, lambda score: top_regions(score, self.k)).fused
