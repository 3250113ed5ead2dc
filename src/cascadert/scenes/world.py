"""The street at a moment: it is endless, and every object keeps its identity over the frames."""

from __future__ import annotations

import math

import numpy as np

from cascadert.scenes.camera import Camera
from cascadert.scenes.items import Item, far_to_near
from cascadert.scenes.moving import moving
from cascadert.scenes.standing import BLOCK_M, standing
from cascadert.scenes.style import LOOKAHEAD_M, Style

# Objects this far outside the picture are still drawn, for their shadows and crowns.
_SHADOW_M = 4.0


def items_in_view(style: Style, clutter: float, time_s: float, camera: Camera) -> list[Item]:
    """Return every object that the camera may see, in painter's order."""
    first = math.floor((camera.z_m - 14) / BLOCK_M)
    last = math.floor((camera.z_m + LOOKAHEAD_M) / BLOCK_M)
    items = [item for block in range(first, last + 1) for item in standing(style, clutter, block)]
    items += moving(style, clutter, time_s, camera.z_m)
    items = [i for i in items if i.z1 > camera.z_m + 1.0 and i.z0 < camera.z_m + LOOKAHEAD_M]
    x0, x1, z0, z1 = (np.array(v) for v in zip(*((i.x0, i.x1, i.z0, i.z1) for i in items), strict=True))
    left, right = camera.columns(x0 - _SHADOW_M, x1 + _SHADOW_M, z0, z1)
    seen = (right > 0) & (left < camera.width)
    return far_to_near([item for item, inside in zip(items, seen.tolist(), strict=True) if inside], camera)
