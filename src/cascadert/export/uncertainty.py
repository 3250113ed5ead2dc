"""How unsure a network is of each pixel: the measures of the papers, as functions of logits."""

from __future__ import annotations

import math

from torch import Tensor

from cascadert.export.glue import entropy_bits
from cascadert.stage_spec import Measure


def uncertainty(logits: Tensor, measure: Measure) -> Tensor:
    """Map float32 logits `[n, K, h, w]` to the uncertainty of each pixel, float32 `[n, h, w]`.

    Args:
        logits: of K classes; two for the measures of paper 001, whose p is the probability of class 1.
        measure: see `ScoreSpec`; "confidence" and "learned" are of whole frames, and show entropy as their map.
    """
    if measure == "normalised-entropy":
        return entropy_bits(logits) / math.log2(logits.shape[1])
    if measure == "triangular":
        return 1 - 2 * (0.5 - foreground(logits)).abs()
    if measure == "one-term":
        p = foreground(logits)
        return -p * _log2(p)
    return entropy_bits(logits)  # of two classes it is the binary entropy


def foreground(logits: Tensor) -> Tensor:
    """Probability of class 1 of two: `[n, 2, h, w]` to `[n, h, w]`."""
    return (logits[:, 1] - logits[:, 0]).sigmoid()


def _log2(p: Tensor) -> Tensor:
    return p.clamp(min=1e-30).log() / math.log(2)  # p log p is 0 where p is
