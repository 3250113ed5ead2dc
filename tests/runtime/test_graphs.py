"""Any graph of stages: what runs side by side, what is skipped, and what waits for the host. Proved by order."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.errors import ExecutionError
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.lanes import make_lanes
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.plan import make_plan
from cascadert.runtime.results import Submission
from cascadert.spec import TopKPolicy
from tests.runtime.faults import (
    ALWAYS,
    LONG_S,
    NEVER,
    SETUPS,
    Faults,
    Hold,
    faulty_pipeline,
    numbered,
    soon,
    submit,
    take,
)
from tests.runtime.plant import (
    BLOCKS,
    COMPUTE,
    FAST,
    THREE,
    TWO,
    PlantedStage,
    entry,
    expected,
    fast,
    manifest,
    refining,
)

Compute = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
setups = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: f"{setup[0]}-{'one' if setup[1] else 'two'}")


def open_graph(
    plan: BundleManifest, compute: Mapping[str, Compute], setup: Any = ("overlapped", True), **options: Any
) -> Pipeline:
    """Open planted stages, some of which compute what is given here."""
    computes = {"final": COMPUTE["fast"], **COMPUTE, **compute}
    stages = {stage.name: PlantedStage(stage, computes[stage.name]) for stage in plan.stages}
    return Pipeline(plan, stages, HostDevice(setup[1]), RuntimeOptions(setup[0], timeout_s=LONG_S, **options))


def meeting(count: int, compute: Compute) -> list[Compute]:
    """The same work for `count` stages, none of which ends before all have begun."""
    barrier = threading.Barrier(count)

    def meet(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        barrier.wait(LONG_S)
        return compute(inputs)

    return [meet] * count


def features(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = next(iter(inputs.values())).astype(np.float32)
    return {"features": np.resize(values.sum(axis=tuple(range(1, values.ndim))) % 97, 16)}


def reduced(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Labels from everything that is read."""
    total = int(sum(value.astype(np.float64).sum() for value in inputs.values()))
    return {"labels": np.full((1, 4, 8), total % 251, np.uint8)}


MEMBERS = ("left", "middle", "right")
ENSEMBLE = manifest(
    *(entry(name, {"frame": "frame"}, {"features": None}) for name in MEMBERS),
    entry("reduce", {name: f"{name}.features" for name in MEMBERS}, {"labels": None}),
)
DIAMOND = manifest(
    entry("stem", {"frame": "frame"}, {"features": None}),
    entry("left", {"stem": "stem.features"}, {"features": None}),
    entry("right", {"stem": "stem.features"}, {"features": None}),
    entry("reduce", {"a": "left.features", "b": "right.features", "frame": "frame"}, {"labels": None}),
)


def test_members_of_an_ensemble_run_side_by_side() -> None:
    compute = dict(zip(MEMBERS, meeting(3, features), strict=True))
    with open_graph(ENSEMBLE, {**compute, "reduce": reduced}) as pipeline:
        for number in range(5):
            member = features({"frame": numbered(number)})["features"]
            assert np.array_equal(
                pipeline.infer(numbered(number)).labels, reduced(dict.fromkeys(MEMBERS, member))["labels"]
            )
        assert pipeline.slots == 3  # the longest chain has two stages


@setups
def test_a_diamond_reads_both_sides(setup: Any) -> None:
    sides = meeting(2, features) if setup[0] == "overlapped" else [features, features]
    compute = {"stem": features, "left": sides[0], "right": sides[1], "reduce": reduced}
    with open_graph(DIAMOND, compute, setup) as pipeline:
        results = list(pipeline.stream(numbered(i) for i in range(20)))
    for number, result in enumerate(results):
        side = features({"s": features({"f": numbered(number)})["features"][:, np.newaxis]})["features"]
        assert np.array_equal(result.labels, reduced({"a": side, "b": side, "frame": numbered(number)})["labels"]), (
            number
        )
        assert [run.stage for run in result.runs] == ["stem", "left", "right", "reduce"]


def test_stages_of_as_many_frames_run_at_once_as_a_chain_is_long() -> None:
    """With three decisions: stage i of frame t waits for stage i + 1 of frame t - 1, and for all the others."""
    chain = manifest(
        FAST, refining("one", "fast", rescores=True), refining("two", "one", rescores=True), refining("three", "two")
    )
    last = len(chain.stages) - 1
    steps = 12
    barriers = [threading.Barrier(last + 1) for _ in range(steps)]

    def at(place: int, compute: Compute) -> Compute:
        def meet(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            step = int(inputs["frame"].flat[0]) - (last - place)
            if 0 <= step < steps:
                barriers[step].wait(LONG_S)
            return compute(inputs)

        return meet

    original = {"fast": fast, "one": COMPUTE["middle"], "two": COMPUTE["middle"], "three": COMPUTE["accurate"]}
    compute = {name: at(place, original[name]) for place, name in enumerate(original)}
    policies = dict.fromkeys(["one", "two", "three"], ALWAYS)
    with open_graph(chain, compute) as pipeline:
        frames = (Submission(numbered(i), policies=policies) for i in range(steps + last))
        results = list(pipeline.stream(frames))
    assert len(results) == steps + last
    assert all([run.n for run in result.runs] == [None, BLOCKS, BLOCKS, BLOCKS] for result in results)


def final(source: str) -> StageEntry:
    """A last stage without a decision, that reads labels."""
    return entry("final", {"prior_labels": source, "frame": "frame"}, {"labels": None})


def finish(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"labels": inputs["prior_labels"] ^ 1}


@setups
def test_a_stage_after_one_that_was_skipped_reads_what_stands_for_it(setup: Any) -> None:
    plan = manifest(*TWO.stages, final("accurate.labels"))
    with open_graph(plan, {"final": finish}, setup) as pipeline:
        for number, policy in enumerate([NEVER, ALWAYS, NEVER, TopKPolicy(k=2), TopKPolicy(k=0)] * 3):
            labels, (n,) = expected(TWO, numbered(number), {"accurate": policy})
            result = pipeline.infer(numbered(number), {"accurate": policy})
            assert np.array_equal(result.labels, labels ^ 1)
            assert [run.n for run in result.runs] == [None, n, None]
            assert [span.name for span in result.spans if span.stream != "host"][-2:] == ["final", "download"]


def without_stand_in(stage: StageEntry) -> StageEntry:
    outputs = tuple(output.model_copy(update={"when_skipped": None}) for output in stage.outputs)
    return stage.model_copy(update={"outputs": outputs})


@setups
def test_a_stage_behind_one_that_was_skipped_is_skipped_where_nothing_stands_for_it(setup: Any) -> None:
    """And so is the next, up to what does not need them; the result is what is left."""
    plan = manifest(
        FAST,
        without_stand_in(refining("accurate", "fast")),
        entry("inner", {"x": "accurate.labels"}, {"features": None}),
        entry("outer", {"x": "inner.features"}, {"labels": None}),
        entry("beside", {"frame": "frame"}, {"features": None}),
    )
    compute = {"inner": features, "outer": reduced, "beside": features}
    with open_graph(plan, compute, setup, tensors="all") as pipeline:
        for policy in (ALWAYS, NEVER, ALWAYS, NEVER):
            result = pipeline.infer(numbered(1), {"accurate": policy})
            outcomes = {run.stage: run.outcome for run in result.runs}
            counts = [run.n for run in result.runs]
            if policy is NEVER:
                assert list(outcomes.values()) == ["ran", "skipped", "skipped", "skipped", "ran"]
                assert counts == [None, 0, 0, 0, None]
                assert result.labels_from == "fast"
                assert np.array_equal(result.labels, fast({"frame": numbered(1)})["labels"])
                assert {name.split(".")[0] for name in result.tensors} == {"fast", "beside"}
                assert [run.milliseconds > 0 for run in result.runs] == [True, False, False, False, True]
            else:
                assert set(outcomes.values()) == {"ran"}
                assert counts == [None, BLOCKS, None, None, None]
                assert result.labels_from == "outer"
                assert set(result.tensors) == set(pipeline.plan.tensors)


def without_labels(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in outputs.items() if name != "labels"}


@setups
def test_a_frame_without_any_labels_fails_and_not_the_next(setup: Any) -> None:
    stem = entry("stem", {"frame": "frame"}, {"features": None, "scores": None, "order": None})
    only = without_stand_in(entry("only", {"x": "stem.features"}, {"labels": None}, ("stem.scores", "stem.order")))
    compute = {"stem": lambda inputs: without_labels(fast(inputs)) | features(inputs), "only": reduced}
    message = r"^all labels: are of stages that were skipped, and nothing stands for them; give one of them a when_"
    with open_graph(manifest(stem, only), compute, setup) as pipeline:
        for policy in (ALWAYS, NEVER, ALWAYS):
            if policy is NEVER:
                with pytest.raises(ExecutionError, match=message):
                    pipeline.infer(numbered(1), {"only": policy})
            else:
                assert pipeline.infer(numbered(1), {"only": policy}).labels_from == "only"
        assert pipeline.broken is None


@setups
@pytest.mark.parametrize("policy", [ALWAYS, TopKPolicy(k=5)], ids=["threshold", "top-k"])
def test_a_stage_that_sees_no_blocks_runs_once_where_n_is_not_0(setup: Any, policy: Any) -> None:
    whole = entry("whole", {"x": "fast.labels"}, {"labels": "fast.labels"}, ("fast.scores", "fast.order"))
    with open_graph(manifest(FAST, whole), {"whole": reduced}, setup) as pipeline:
        result = pipeline.infer(numbered(1), {"whole": policy})
        assert (result.runs[1].n, result.labels_from) == (1, "whole")
        assert result.runs[1].scores.size == BLOCKS  # the decision saw them all
        assert pipeline.infer(numbered(1), {"whole": NEVER}).runs[1].n == 0
        assert pipeline.refined("whole", 7) == 1


def test_a_decision_behind_one_that_was_skipped_skips_too() -> None:
    with open_graph(THREE, {}) as pipeline:
        result = pipeline.infer(numbered(1), {"middle": NEVER, "accurate": ALWAYS})
        assert [run.n for run in result.runs] == [None, 0, 0]
        assert result.runs[2].scores.shape == (0,)
        assert np.array_equal(result.labels, expected(THREE, numbered(1), {"middle": NEVER, "accurate": ALWAYS})[0])


@setups
def test_with_a_fixed_k_everything_is_queued_before_the_first_stage_ends(setup: Any) -> None:
    """And of as many frames as there are slots, and one more, whatever the host does meanwhile."""
    hold = Hold()
    with faulty_pipeline(setup, Faults({"fast": hold}), manifest=THREE) as pipeline:
        for name in ("middle", "accurate"):
            pipeline.set_policy(name, TopKPolicy(k=3))
        stages, count = pipeline._executables, pipeline.slots + 1
        for number in range(count):
            pipeline.submit(numbered(number))
        assert soon(lambda: stages["accurate"].queued == count)
        assert soon(lambda: all(job.is_queued for job in list(pipeline._scheduler._running.values())))
        assert stages["middle"].queued == count and stages["middle"].runs == stages["fast"].runs == 0
        hold.released.set()
        for number in range(count):
            labels, counts = expected(THREE, numbered(number), dict.fromkeys(["middle", "accurate"], TopKPolicy(k=3)))
            result = pipeline.next(LONG_S)
            assert np.array_equal(result.labels, labels)
            assert [run.n for run in result.runs[1:]] == counts == [3, 3]


def test_with_a_threshold_the_next_stage_is_queued_once_scores_are_there() -> None:
    hold = Hold(on=(1,))
    with faulty_pipeline(faults=Faults({"fast": hold})) as pipeline:
        for number in range(3):
            submit(pipeline, number)
        assert hold.entered.wait(LONG_S)
        assert take(pipeline).number == 0
        assert soon(lambda: pipeline._executables["fast"].queued == 3)
        assert pipeline._executables["accurate"].queued == 1
        hold.released.set()
        assert [take(pipeline).number for _ in range(2)] == [1, 2]


def test_the_fast_stage_of_the_next_frame_begins_while_the_slow_one_runs() -> None:
    """The issue's own overlap: refinement of frame t beside the fast pass of frame t + 1."""
    both = threading.Barrier(2)

    def meet_on(number: int) -> Callable[[int], Any]:
        return lambda found: both.wait(LONG_S) if found == number else None

    with faulty_pipeline(faults=Faults({"fast": meet_on(1), "accurate": meet_on(0)})) as pipeline:
        for number in range(2):
            submit(pipeline, number)
        assert [take(pipeline).name for _ in range(2)] == ["delivered"] * 2


def test_earlier_stages_and_copies_have_the_higher_priority() -> None:
    device, plan = HostDevice(), make_plan(THREE)
    lanes = make_lanes(plan, device, "overlapped", {})
    try:
        assert {name: stream.priority for name, stream in lanes.stages.items()} == {
            "fast": 2,
            "middle": 1,
            "accurate": 0,
        }
        assert lanes.upload.priority == lanes.download.priority == 3
        assert len(lanes.all()) == 5
    finally:
        assert all(stream.close(LONG_S) for stream in lanes.all())


def test_in_serial_mode_there_is_one_stream() -> None:
    lanes = make_lanes(make_plan(THREE), HostDevice(), "serial", {})
    (only,) = lanes.all()
    assert lanes.upload is lanes.download is only
    assert set(lanes.stages) == {"fast", "middle", "accurate"}
    assert only.close(LONG_S)
    with faulty_pipeline(("serial", True), manifest=THREE) as pipeline:
        assert pipeline.slots == 1
        assert {span.stream for span in pipeline.infer(numbered(0)).spans} == {"serial", "host"}
