"""Names, numbers and verdicts as the cascade experiments write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.cascade_clips import Size
from experiments.experiment import Verdict


def size_name(size: Size) -> str:
    """Return "120" for a square, "180x240" for others."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def mean_and_sd(values: Sequence[float]) -> str:
    """Return the mean over seeds and their standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Return what each seed gained."""
    return [b - a for a, b in zip(before, after, strict=True)]


def holds_if(true: bool) -> Verdict:
    """Return the verdict of a claim about numbers that nothing was drawn for."""
    return "holds" if true else "does not hold"


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of a claim that needs all of these."""
    order: tuple[Verdict, ...] = ("holds", "not significant", "does not hold")
    return max(verdicts, key=order.index)
