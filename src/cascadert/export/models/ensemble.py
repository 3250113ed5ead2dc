"""An ensemble's mean, and what its members disagree about (Almeida et al., arXiv:2407.12609, section 3)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from cascadert.export.glue import as_class_logits, resize

_LEAST = 1e-30  # a probability that float32 holds, and whose logarithm is no NaN times 0


class Ensemble(nn.Module):
    """Averages the probabilities of M members; it has no weights.

    Args:
        size: height and width at which probabilities are averaged; none: that of the first member's logits.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.size = size

    def forward(self, *members: Tensor) -> dict[str, Tensor]:
        """Map logits of the members, float32 `[N, K, h, w]` each, to those of their mean.

        Returns:
            "logits": log p of the mean p = (1 / M) sum softmax, `[N, K, H, W]`, whose softmax is p and whose entropy
            H[p] is the predictive uncertainty; "aleatoric": the mean of H[p_m], and "epistemic": H[p] - aleatoric
            (eq. 2 and 3), both in bits, `[N, H, W]`.
        """
        height, width = self.size or tuple(members[0].shape[2:])
        total: Tensor | None = None
        aleatoric: Tensor | None = None
        for member in members:
            p = resize(as_class_logits(member), height, width).softmax(dim=1)
            total = p if total is None else total + p
            aleatoric = entropy_of(p) if aleatoric is None else aleatoric + entropy_of(p)
        assert total is not None
        assert aleatoric is not None
        mean, aleatoric = total / len(members), aleatoric / len(members)
        return {
            "logits": mean.clamp(min=_LEAST).log(),
            "aleatoric": aleatoric,
            "epistemic": entropy_of(mean) - aleatoric,
        }


def entropy_of(p: Tensor) -> Tensor:
    """Entropy of probabilities in bits: `[N, K, h, w]` to `[N, h, w]`."""
    return -(p * p.clamp(min=_LEAST).log()).sum(dim=1) / math.log(2)


def ensemble(size: tuple[int, int] | None = None) -> Ensemble:
    """Builds the stage that reduces an ensemble; see `Ensemble`."""
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size is {list(size)}: give [height, width]")
    return Ensemble(None if size is None else (int(size[0]), int(size[1])))
