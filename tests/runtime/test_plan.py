"""What is read from a manifest."""

import pytest

from cascadert.bundle import OutputEntry
from cascadert.errors import BundleError, InvalidRequest
from cascadert.runtime.options import RuntimeOptions, kept_tensors
from cascadert.runtime.plan import make_plan
from tests.runtime.plant import FAST, THREE, TWO, entry, manifest, refining

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
    dynamic = OutputEntry(name="boxes", dtype="float32", shape=("n", 4))
    stage = FAST.model_copy(update={"outputs": (*FAST.outputs, dynamic)})
    with pytest.raises(BundleError, match=r"^tensor 'fast.boxes': has a dynamic size in \['n', 4\]"):
        make_plan(manifest(stage))


def test_tensors_to_keep_are_outputs() -> None:
    plan = make_plan(TWO)
    assert kept_tensors(plan, RuntimeOptions()) == set()
    assert kept_tensors(plan, RuntimeOptions(tensors=("fast.order",))) == {"fast.order"}
    assert kept_tensors(plan, RuntimeOptions(tensors="all")) == set(plan.tensors)
    with pytest.raises(InvalidRequest, match=r"^tensor 'fast.entropy': is no output; outputs are fast.labels, "):
        kept_tensors(plan, RuntimeOptions(tensors=("fast.labels", "fast.entropy")))


@pytest.mark.parametrize(
    "options",
    [{"slots": -1}, {"queue": 0}, {"mode": "serial", "slots": 2}, {"timeout_s": 0.0}, {"timeout_s": float("nan")}],
)
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(InvalidRequest):
        RuntimeOptions(**options)
