"""Objects with the boxes that they stand in, and the order to draw them in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cascadert.scenes.camera import Camera
from cascadert.scenes.pen import Pen
from cascadert.scenes.vehicles import SHAPES, draw_vehicle


@dataclass(frozen=True)
class Item:
    """An object with the box that it stands in, how to draw it, and its id (0: not counted).

    A rider has the id after that of the vehicle below, which the object's id names.
    """

    x0: float
    x1: float
    z0: float
    z1: float
    draw: Callable[[Pen], None]
    instance: int = 0


def item_at(x: float, z: float, draw: Callable[[Pen], None], reach: float = 0.4, instance: int = 0) -> Item:
    """An object that stands within `reach` of (x, z)."""
    return Item(x - reach, x + reach, z - reach, z + reach, draw, instance)


def vehicle_item(kind: str, x: float, z: float, heading: int, key: str, instance: int = 0) -> Item:
    """A vehicle centred at (x, z)."""
    shape = SHAPES[kind]
    half = shape.width / 2
    draw = partial(draw_vehicle, kind=kind, x=x, z=z, heading=heading, key=key)
    return Item(x - half, x + half, z - shape.length / 2, z + shape.length / 2, draw, instance)


def far_to_near(items: list[Item], camera: Camera) -> list[Item]:
    """Sort into painter's order.

    Of two objects that share columns of the picture, the one further along the street comes first, or, where they
    stand side by side, the outer one. Such pairs alone decide: a long wall may need to come between two others.
    """
    if not items:
        return []
    x0, x1, z0, z1 = (np.array(v) for v in zip(*((i.x0, i.x1, i.z0, i.z1) for i in items), strict=True))
    away = np.where(
        (x0 <= camera.x_m) & (x1 >= camera.x_m), 0.0, np.minimum(abs(x0 - camera.x_m), abs(x1 - camera.x_m))
    )
    further = z0[:, None] >= z1[None, :] - 1e-6
    beside = ~(further | further.T)
    middle = z0 + z1
    outer = (away[:, None] > away[None, :]) | ((away[:, None] == away[None, :]) & (middle[:, None] > middle[None, :]))
    left, right = camera.columns(x0, x1, z0, z1)
    shared = (left[:, None] <= right[None, :]) & (left[None, :] <= right[:, None])
    before = (further | (beside & outer)) & shared
    return [items[i] for i in _topological(before, middle)]


def _topological(before: NDArray[np.bool_], far: NDArray[np.float64]) -> list[int]:
    """Order the indices so that i precedes j wherever `before[i, j]`, otherwise by falling `far`."""
    waiting_for = before.sum(axis=0)
    # Ready ones first; should boxes that interlock leave none, the furthest goes.
    rank = far - far.min() + 1.0
    blocked = np.where(waiting_for > 0, -1e9, 0.0)
    order = []
    for _ in range(len(far)):
        chosen = int(np.argmax(rank + blocked))
        order.append(chosen)
        rank[chosen] = -np.inf
        waiting_for -= before[chosen]
        blocked[waiting_for <= 0] = 0.0
    return order
