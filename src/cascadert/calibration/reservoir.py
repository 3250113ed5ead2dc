"""A bounded sample in which rare classes have their share, drawn in one pass over items that come one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
T = TypeVar("T")

_LEAST_WEIGHT = 1e-9  # of an item without a labelled pixel: drawn after all others, and not never


class BalancedReservoir(Generic[T]):
    """Weighted sampling without replacement (Efraimidis and Spirakis 2006, algorithm A-Res).

    An item weighs Σ over classes of (its share of the class) / (the class's share of all items offered so far), times
    its own appeal: every class has the same weight in total, so that a class in 2 % of the blocks is drawn as often as
    one in all of them, as long as it has blocks left. Class shares settle while items come; those that stay are weighed
    again with each offer.

    Args:
        capacity: how many items to keep.
        seed: of the draw; the same offers in the same order give the same sample.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self._capacity, self._rng = capacity, np.random.default_rng(seed)
        self._items: list[T] = []
        self._shares: Array | None = None
        self._appeal, self._drawn = np.empty(0), np.empty(0)
        self._totals: Array = np.zeros(1)
        self.offered = 0

    @property
    def items(self) -> Sequence[T]:
        """What was kept, in the order in which it was offered."""
        return tuple(self._items)

    def offer(
        self, counts: NDArray[np.int64], appeal: NDArray[np.float64], fetch: Callable[[NDArray[np.intp]], list[T]]
    ) -> None:
        """Offer some items; only those that are kept for now are fetched.

        Args:
            counts: pixels of each class in each item, `[m, K]`.
            appeal: factor of each item's weight, `[m]`.
            fetch: returns the items at some positions among the m.
        """
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        before = len(self._items)
        self.offered += len(shares)
        self._totals = self._totals + shares.sum(axis=0)
        shares = shares if self._shares is None else np.concatenate([self._shares, shares])
        appeal = np.concatenate([self._appeal, appeal])
        drawn = np.concatenate([self._drawn, np.log(1 - self._rng.random(len(counts)))])

        with np.errstate(divide="ignore"):
            rarity = np.where(self._totals > 0, self.offered / self._totals, 0)
        keys = drawn / np.maximum((shares @ rarity) * appeal, _LEAST_WEIGHT)
        kept = np.sort(np.argsort(-keys, kind="stable")[: self._capacity])

        fetched = fetch(new) if len(new := kept[kept >= before] - before) else []
        self._items = [self._items[i] for i in kept[kept < before]] + fetched
        self._shares, self._appeal, self._drawn = shares[kept], appeal[kept], drawn[kept]
