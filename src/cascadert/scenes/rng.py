"""Random numbers named by what they are for, so that objects keep their identity from frame to frame."""

from __future__ import annotations

import random


def keyed(*key: int | str) -> random.Random:
    """Return a generator that depends on nothing but `key` (hashed by SHA-512: the same on every platform)."""
    return random.Random("/".join(map(str, key)))


def mix(a: tuple[float, float, float], b: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    """Blend two colours: `share` of `b` in `a`."""
    keep = 1.0 - share
    return (a[0] * keep + b[0] * share, a[1] * keep + b[1] * share, a[2] * keep + b[2] * share)


def vary(rng: random.Random, colour: tuple[float, float, float], amount: float) -> tuple[float, float, float]:
    """Jitter a colour: brightness by +-`amount`, each channel by a third of that."""
    gain = 1.0 + rng.uniform(-amount, amount)
    third = amount / 3.0
    return (
        colour[0] * gain * (1.0 + rng.uniform(-third, third)),
        colour[1] * gain * (1.0 + rng.uniform(-third, third)),
        colour[2] * gain * (1.0 + rng.uniform(-third, third)),
    )
