"""Regions and their uncertainty, against a flood fill and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascadert.calibration.instances import connected_regions, instance_uncertainty

MAPS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 2))


def flooded(labels: np.ndarray) -> np.ndarray:
    """Number regions one pixel at a time."""
    regions, count = np.full(labels.shape, -1), 0
    for start in np.ndindex(labels.shape):
        if regions[start] >= 0:
            continue
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            if regions[y, x] >= 0:
                continue
            regions[y, x] = count
            for near in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and labels[near] == labels[y, x]:
                    waiting.append(near)
        count += 1
    return regions


@settings(max_examples=200, deadline=None)
@given(MAPS)
def test_regions_are_those_of_a_flood_fill(labels: np.ndarray) -> None:
    found, wanted = connected_regions(labels), flooded(labels)
    pairs = set(zip(found.ravel().tolist(), wanted.ravel().tolist(), strict=True))
    assert len(pairs) == wanted.max() + 1 == found.max() + 1  # one to one


def test_a_spiral_is_one_region() -> None:
    spiral = np.zeros((41, 41), np.uint8)
    y, x, step, heading = 20, 20, 2, 0
    while True:
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[heading % 4]
        for _ in range(step):
            if not (0 <= y < 41 and 0 <= x < 41):
                break
            spiral[y, x] = 1
            y, x = y + dy, x + dx
        else:
            heading, step = heading + 1, step + (2 if heading % 2 else 0)
            continue
        break
    assert len(np.unique(connected_regions(spiral)[spiral == 1])) == 1


def test_a_pixel_is_as_uncertain_as_its_region() -> None:
    labels = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 0], [2, 1, 2]], np.uint8)  # the last 1 touches a 1 at a corner
    bits = np.array([[0.0, 3.0, 1.0], [2.0, 0.0, 2.0], [0.0, 2.0, 0.0], [5.0, 4.0, 7.0]])
    wanted = [[1.0, 1.0, 1.5], [2.0, 1.0, 1.5], [2.0, 1.0, 1.0], [5.0, 2.0, 7.0]]
    assert instance_uncertainty(labels, bits).tolist() == wanted


@settings(max_examples=30, deadline=None)
@given(MAPS, st.integers(0, 2**32 - 1))
def test_the_mean_of_a_frame_stays(labels: np.ndarray, seed: int) -> None:
    bits = np.random.default_rng(seed).random(labels.shape)
    assert instance_uncertainty(labels, bits).mean() == pytest.approx(bits.mean())


@settings(max_examples=30, deadline=None)
@given(MAPS, st.integers(0, 2**32 - 1))
def test_the_sum_over_every_region_stays(labels: np.ndarray, seed: int) -> None:
    bits = np.random.default_rng(seed).random(labels.shape)
    spread, regions = instance_uncertainty(labels, bits), flooded(labels)
    for region in np.unique(regions):
        assert spread[regions == region].sum() == pytest.approx(bits[regions == region].sum())
        assert np.ptp(spread[regions == region]) == 0
