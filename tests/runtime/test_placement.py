"""Threads and cores of stages."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadert.bundle import BundleManifest
from cascadert.errors import InvalidRequest
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.placement import Placement, place, share_out
from tests.runtime.plant import BLOCKS, FAST, THREE, TWO, entry, manifest

work = st.lists(st.floats(0.01, 1000), min_size=1, max_size=4)


def costing(plan: BundleManifest, *macs: int) -> BundleManifest:
    """The manifest with networks of so many MACs."""
    networks = [SimpleNamespace(macs=count) for count in macs]
    stages = [stage.model_copy(update={"network": net}) for stage, net in zip(plan.stages, networks, strict=True)]
    return plan.model_copy(update={"stages": tuple(stages)})


@given(cores=st.integers(1, 8), work=work)
def test_cores_are_shared_out_to_the_last_and_everybody_has_one(cores: int, work: list[float]) -> None:
    shares = share_out(cores, work)
    assert min(shares) >= 1
    assert sum(shares) == max(cores, len(work))


@given(cores=st.integers(1, 8), work=work)
def test_the_largest_work_per_core_is_as_small_as_can_be(cores: int, work: list[float]) -> None:
    def largest(shares: Any) -> float:
        return max(amount / share for amount, share in zip(work, shares, strict=True))

    total = max(cores, len(work))
    every = (s for s in itertools.product(range(1, total + 1), repeat=len(work)) if sum(s) == total)
    assert largest(share_out(cores, work)) == min(map(largest, every))


def test_in_serial_mode_every_stage_has_all_cores() -> None:
    plan = costing(THREE, 100, 100, 100)
    assert place(plan, RuntimeOptions("serial"), range(6)) == Placement({"fast": 6, "middle": 6, "accurate": 6})
    asked = RuntimeOptions("serial", threads={"middle": 2})
    assert place(plan, asked, range(6)).threads == {"fast": 6, "middle": 2, "accurate": 6}


@pytest.mark.parametrize(
    ("cores", "macs", "wanted"),
    [
        (2, (100, 100), (1, 1)),
        (1, (100, 100), (1, 1)),  # more threads than cores: one each is the least
        (4, (100, 100 // (BLOCKS // 4)), (2, 2)),  # a quarter of the blocks counts
        (8, (600, 100), (6, 2)),
        (8, (1, 10**6), (1, 7)),
    ],
)
def test_side_by_side_stages_share_the_cores_by_their_work(cores: int, macs: Any, wanted: Any) -> None:
    placement = place(costing(TWO, *macs), RuntimeOptions(pin=False), range(cores))
    assert tuple(placement.threads.values()) == wanted
    assert placement.cpus == {}


def test_only_stages_that_see_blocks_work_more_the_more_blocks_there_are() -> None:
    """One with a decision that sees none runs once; one without a network takes what is left over."""
    whole = entry("whole", {"x": "fast.labels"}, {"labels": "fast.labels"}, ("fast.scores", "fast.order"))
    reduce = entry("reduce", {"x": "whole.labels"}, {"labels": None})
    plan = costing(manifest(FAST, whole, reduce), 100, 100, 0)
    assert place(plan, RuntimeOptions(pin=False), range(5)).threads == {"fast": 2, "whole": 2, "reduce": 1}
    nothing = costing(manifest(FAST, reduce), 0, 0)
    assert sum(place(nothing, RuntimeOptions(pin=False), range(4)).threads.values()) == 4


def test_threads_that_are_asked_for_are_given() -> None:
    plan = costing(TWO, 100, 100)
    assert place(plan, RuntimeOptions(threads=3), range(2)).threads == {"fast": 3, "accurate": 3}
    assert place(plan, RuntimeOptions(threads={"accurate": 2}), range(2)).threads == {"fast": 1, "accurate": 2}


def test_with_cores_to_spare_stages_are_held_apart() -> None:
    plan, cores = costing(TWO, 100, 50), [0, 2, 4, 6, 8, 10, 12, 14]
    placement = place(plan, RuntimeOptions(), cores)
    assert placement.threads == {"fast": 4, "accurate": 4}
    assert placement.cpus == {"fast": frozenset(cores[:4]), "accurate": frozenset(cores[4:])}
    assert place(plan, RuntimeOptions(), cores[:7]).cpus == {}
    assert place(plan, RuntimeOptions(pin=False), cores).cpus == {}
    assert place(plan, RuntimeOptions(pin=True), cores[:2]).cpus == {"fast": frozenset([0]), "accurate": frozenset([2])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RuntimeOptions(threads={"slow": 1}), r"^threads of 'slow': is no stage; stages are fast, accurate$"),
        (RuntimeOptions(threads=-1), r"^threads: is -1; give 1 or more"),
        (RuntimeOptions(threads={"fast": -2}), r"^threads: is -2; give 1 or more"),
        (RuntimeOptions(threads=2, pin=True), r"^pin: needs 4 cores for .*, and there are 2; give fewer threads"),
    ],
)
def test_what_cannot_be_placed_is_refused(options: RuntimeOptions, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        place(costing(TWO, 100, 100), options, range(2))
