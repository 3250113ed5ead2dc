"""What is there, who runs, and what stands for whom, on arrays made by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle, StageEntry
from cascadert.calibration.walk import Walk, labelled_stages, refines_blocks, undecided_stages
from cascadert.spec import FrameRatePolicy, TopKPolicy

System = Callable[[str], Bundle]


def stages(bundle: Bundle) -> dict[str, StageEntry]:
    return {stage.name: stage for stage in bundle.manifest.stages}


def tensors(*scores: float) -> dict[str, Any]:
    return {"scores": np.float32(scores), "order": np.arange(len(scores), dtype=np.int32)[::-1], "labels": np.uint8(7)}


def test_a_decision_picks_the_first_of_the_order(system: System) -> None:
    entry, walk = stages(system("columns")), Walk({"frame": np.zeros((1, 64, 96, 3), np.uint8)})
    walk.add("half", {**tensors(0.9, 0.8, 0.7), "z2": np.zeros(1)})
    inputs = walk.inputs(entry["crops"], TopKPolicy(k=2))
    assert inputs is not None
    assert inputs["indices"].tolist() == walk.selected["crops"].tolist() == [2, 1]
    walk.add("crops", {"features": np.arange(2)})
    followed = walk.inputs(entry["fuse"], None)
    assert followed is not None
    assert followed["indices"].tolist() == [2, 1]


@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_whole_stage_runs_once_or_not_at_all(system: System, k: int) -> None:
    entry, walk = stages(system("exits")), Walk({})
    walk.add("segment1", {"features": np.ones(3)})
    walk.add("exit1", tensors(0.9, 0.8, 0.7))
    inputs = walk.inputs(entry["segment2"], TopKPolicy(k=k))
    assert (inputs is not None, len(walk.selected["segment2"])) == (k > 0, min(k, 1))


def test_what_is_skipped_is_absent_and_labels_are_stood_for(system: System) -> None:
    entry, walk = stages(system("exits")), Walk({})
    walk.add("segment1", {"features": np.ones(3)})
    walk.add("exit1", tensors(0.9))
    assert walk.inputs(entry["segment2"], TopKPolicy(k=0)) is None
    assert "segment2.features" not in walk.tensors
    assert walk.inputs(entry["exit2"], None) is None
    assert walk.tensors["exit2.labels"] == 7


def test_a_decision_whose_stage_lacks_something_picks_nothing(system: System) -> None:
    entry, walk = stages(system("exits")), Walk({})
    walk.add("exit1", tensors(0.9))
    assert walk.inputs(entry["segment2"], TopKPolicy(k=1)) is None
    assert walk.selected["segment2"].size == 0


def test_a_policy_of_time_takes_a_quarter(system: System) -> None:
    entry, walk = stages(system("context")), Walk({"frame": np.zeros((1, 64, 96, 3), np.uint8)})
    walk.add("low", {**tensors(6, 5, 4, 3, 2, 1), "features": np.zeros(1)})
    inputs = walk.inputs(entry["patches"], FrameRatePolicy(fps=30))
    assert inputs is not None
    assert inputs["indices"].tolist() == [5, 4]


def test_stages_are_told_apart(system: System) -> None:
    exits, columns, ensemble = (system(kind) for kind in ("exits", "columns", "ensemble"))
    assert [name for name, entry in stages(columns).items() if refines_blocks(entry)] == ["crops", "fuse"]
    assert not any(map(refines_blocks, stages(exits).values()))
    assert labelled_stages(exits.manifest) == ("exit1", "exit2")
    assert undecided_stages(exits.manifest) == {"segment1", "exit1"}
    assert undecided_stages(columns.manifest) == {"half"}
    assert undecided_stages(ensemble.manifest) == {"wide", "narrow", "reduce"}
