"""Rows cut into bands: what is computed of one band stays in the processor's cache."""

from __future__ import annotations

_ROWS = 32


def bands(height: int) -> list[slice]:
    """Return slices that cover `height` rows."""
    return [slice(start, start + _ROWS) for start in range(0, height, _ROWS)]
