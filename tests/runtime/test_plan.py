"""What is read from a manifest."""

from typing import Any

import pytest

from cascadert.bundle import InputEntry, OutputEntry, StageEntry
from cascadert.errors import BundleError, InvalidRequest
from cascadert.runtime.options import RuntimeOptions, kept_tensors
from cascadert.runtime.plan import Tensor, make_plan
from tests.runtime.plant import BLOCKS, FAST, THREE, TWO, entry, manifest, refining

FEATURES = {"features": None}


def test_a_stage_waits_for_all_that_it_reads_decides_by_or_is_stood_for_by() -> None:
    plan = make_plan(THREE)
    assert [stage.name for stage in plan.stages] == ["fast", "middle", "accurate"]
    assert [stage.producers for stage in plan.stages] == [set(), {"fast"}, {"middle"}]
    assert plan.stages[1].reads == ("frame", "fast.order", "fast.labels")
    assert plan.stages[1].writes == ("middle.labels", "middle.scores", "middle.order")
    assert plan.stages[1].decides == ("fast.scores", "fast.order")
    assert plan.stages[1].outputs[0] == ("labels", "middle.labels")
    assert plan.decision_tensors == {"fast.scores", "fast.order", "middle.scores", "middle.order"}
    assert plan.labels == "accurate.labels"
    stands_in = entry("late", {"frame": "frame"}, {"labels": "fast.labels"}, ("middle.scores", "middle.order"))
    assert make_plan(manifest(*THREE.stages[:2], stands_in)).stages[2].producers == {"fast", "middle"}


@pytest.mark.parametrize(
    ("stages", "depth"),
    [
        ((FAST,), 1),
        (TWO.stages, 2),
        (THREE.stages, 3),
        ((entry("a", {"frame": "frame"}, FEATURES), entry("b", {"frame": "frame"}, FEATURES), FAST), 1),
        ((FAST, entry("a", {"x": "fast.labels"}, FEATURES), entry("b", {"x": "fast.labels"}, FEATURES)), 2),
        (
            (
                FAST,
                entry("a", {"x": "fast.labels"}, FEATURES),
                refining("c", "fast"),
                entry("d", {"x": "a.features"}, {}),
            ),
            3,
        ),
    ],
)
def test_depth_is_the_longest_chain(stages: tuple, depth: int) -> None:
    assert make_plan(manifest(*stages)).depth == depth


def test_tensors_have_their_largest_size() -> None:
    plan = make_plan(TWO)
    assert plan.tensors["fast.scores"].shape == (8,) and plan.tensors["fast.scores"].nbytes == 32
    assert plan.planes["frame"].nbytes == 4 * 8 * 3


def with_output(stage: StageEntry, *shape: int | str) -> StageEntry:
    made = OutputEntry(name="rows", dtype="float32", shape=shape)
    return stage.model_copy(update={"outputs": (*stage.outputs, made)})


def reading(name: str, source: str, *, prefix: bool, **more: Any) -> StageEntry:
    shape: tuple[int | str, ...] = ("n", 4) if prefix else (BLOCKS, 4)
    item = InputEntry(name="rows", dtype="float32", shape=shape, source=source, prefix=prefix)
    return entry(name, {}, {"features": None}).model_copy(update={"inputs": (item,), **more})


def test_rows_have_room_for_every_block() -> None:
    made = with_output(refining("crops", "fast"), "n", 4)
    plan = make_plan(manifest(FAST, made, reading("fuse", "crops.rows", prefix=True, follows="crops")))
    assert plan.tensors["crops.rows"] == Tensor("crops.rows", "float32", (BLOCKS, 4), rows=True)
    assert not plan.tensors["crops.labels"].rows
    assert plan.stages[2].producers == {"crops"}
    assert plan.followers == {"crops": ("crops", "fuse")}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((with_output(FAST, "n", 4),), "^tensor 'fast.rows': has rows, and nothing decides how many; export"),
        (
            (FAST, with_output(refining("crops", "fast"), 4, "n")),
            r"^tensor 'crops.rows': has a dynamic size in \[4, 'n'\] that is no row for each block",
        ),
        (
            (FAST, with_output(refining("crops", "fast"), "n", 4), reading("fuse", "crops.rows", prefix=False)),
            "^stage 'fuse': reads rows of 'crops.rows', whose n it does not have",
        ),
        (
            (
                FAST,
                with_output(refining("crops", "fast"), "n", 4),
                refining("other", "fast"),
                reading("fuse", "crops.rows", prefix=True, follows="other"),
            ),
            "^stage 'fuse': reads rows of 'crops.rows', whose n it does not have",
        ),
    ],
)
def test_rows_of_which_nobody_knows_the_number_are_refused(stages: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        make_plan(manifest(*stages))


def test_what_runs_because_of_a_decision() -> None:
    """What reads what it makes and nothing stands for, and so on; not what decides for itself."""
    two = entry("two", {"x": "one.features"}, {"features": None}, ("fast.scores", "fast.order"))
    stages = (
        FAST,
        entry("one", {"x": "fast.labels"}, {"features": None}),
        two,
        entry("side", {"x": "two.features"}, {"labels": "fast.labels", "scores": None}),
        entry("last", {"x": "two.features"}, {"features": None}, ("side.scores", "fast.order")),
        entry("end", {"x": "side.labels"}, {"features": None}),
        entry("tail", {"x": "last.features"}, {"features": None}),
    )
    assert make_plan(manifest(*stages)).dependants == {"two": ("two", "side"), "last": ("last", "tail")}
    assert make_plan(manifest(*stages)).labelled == ("fast.labels", "side.labels")


def test_tensors_to_keep_are_outputs() -> None:
    plan = make_plan(TWO)
    assert kept_tensors(plan, RuntimeOptions()) == set()
    assert kept_tensors(plan, RuntimeOptions(tensors=("fast.order",))) == {"fast.order"}
    assert kept_tensors(plan, RuntimeOptions(tensors="all")) == set(plan.tensors)
    with pytest.raises(InvalidRequest, match=r"^tensor 'fast.entropy': is no output; outputs are fast.labels, "):
        kept_tensors(plan, RuntimeOptions(tensors=("fast.labels", "fast.entropy")))


@pytest.mark.parametrize(
    "options",
    [
        {"slots": -1},
        {"queue": 0},
        {"mode": "serial", "slots": 2},
        {"timeout_s": 0.0},
        {"timeout_s": float("nan")},
        {"deadline_ms": 0.0},
        {"deadline_ms": float("inf")},
        {"deadline_ms": float("nan")},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(InvalidRequest):
        RuntimeOptions(**options)
