"""What a two-column network costs as its paper counts, for comparison with the paper's tables."""

from __future__ import annotations

from torch import nn

_LEFT_OUT = frozenset(("shortcut", "attention", "sparse"))


def counted_by_paper(name: str, layer: nn.Module) -> bool:
    """Whether Wu et al., arXiv:1712.00213, count a convolution, as `count_macs` asks.

    Their tables only add up without the 1x1 convolutions on shortcuts, and without those of the columns' and the
    regions' weights (less than 0.03 G).
    """
    return _LEFT_OUT.isdisjoint(name.split("."))
