"""Numbers for objects: the same in every frame, and no two alike in a street."""

from __future__ import annotations

# What can be counted, with how many there are at most along each axis of its place in a block or on a belt. Where
# riders occur, an axis of 2 comes last: the rider's id follows that of the vehicle below.
_PLACES: dict[str, tuple[int, ...]] = {
    "parked": (2, 32),
    "waiting": (2, 2, 32),
    "rack": (2, 2, 64),
    "crossing": (2, 16, 2),
    "ahead": (4,),
    "oncoming": (4,),
    "tram": (2,),
    "walk": (2, 2, 4),
    "ride": (2, 2),
}


def _sizes() -> dict[str, int]:
    sizes = {}
    for kind, axes in _PLACES.items():
        sizes[kind] = 1
        for axis in axes:
            sizes[kind] *= axis
    return sizes


_SIZES = _sizes()
_FIRST = {kind: sum(list(_SIZES.values())[:i]) for i, kind in enumerate(_SIZES)}
_STEP = 1024
_ROWS = 2**31 // _STEP - 1


def instance_id(kind: str, number: int, *place: int) -> int:
    """Return the id of an object, 1 to 2**31 - 1; no other of the million street blocks around has the same.

    Args:
        kind: What it is and where, a key of `_PLACES`.
        number: The street block that it stands in, or its number on the endless belt that it moves on; may be negative.
        place: Which of the objects of this kind there, one index per axis; that for a rider is left out.

    Raises:
        IndexError: There are more of them in one place than `_PLACES` says.
    """
    row = (2 * number if number >= 0 else -2 * number - 1) % _ROWS
    slot = 0
    for axis, size in enumerate(_PLACES[kind]):
        index = place[axis] if axis < len(place) else 0
        if not 0 <= index < size:
            raise IndexError(f"{kind} {place}: index {axis} is not below {size}")
        slot = slot * size + index
    return 1 + row * _STEP + _FIRST[kind] + slot


def of_side(side: int) -> int:
    """Index of a side of the street: 0 left (-1), 1 right (1)."""
    return (side + 1) // 2
