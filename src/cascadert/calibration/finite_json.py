"""JSON of numbers that may not be finite."""

from __future__ import annotations

import json
import math
from typing import Any


def dump(content: Any) -> str:
    """Return content as JSON; a number that is not finite is null, which JSON has no other word for."""
    return json.dumps(_finite(content), indent=1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
