"""Running a network with exits: thresholds that exits have in common, deadlines, and who answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from cascadert.bundle import Bundle
from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.export.rewire import until
from cascadert.jetson.outputs import OutputOptions
from cascadert.jetson.policies import exit_policies
from cascadert.jetson.run import RunOptions, run
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.spec import ThresholdPolicy, TopKPolicy

NEVER = 1.01


@pytest.fixture
def images(exits_streets: tuple[Path, Path]) -> Path:
    return exits_streets[0]


@pytest.fixture(scope="module")
def middle(exits_bundle: Bundle, exits_streets: tuple[Path, Path]) -> float:
    """A threshold at which some of the images leave at the first exit and some do not."""
    summary = run(exits_bundle.path, exits_streets[0], RunOptions(exit_threshold=NEVER, serial=True, threads=1))
    scores = sorted(frame.stages[2].scores[0] for frame in summary.frames)
    return 1 - (scores[5] + scores[6]) / 2


@pytest.mark.parametrize("serial", [True, False])
def test_at_0_the_first_exit_always_answers_and_above_1_the_last(
    exits_bundle: Bundle, images: Path, serial: bool
) -> None:
    for threshold, stage in ((0.0, "exit1"), (NEVER, "final")):
        options = RunOptions(exit_threshold=threshold, serial=serial, threads=1)
        summary = run(exits_bundle.path, images, options)
        assert summary.answered == {name: 12 if name == stage else 0 for name in ("exit1", "exit2", "final")}
        assert {frame.labels_from for frame in summary.frames} == {stage}
        assert summary.expired == 0
        assert summary.deadline is None
        assert summary.ran["final"] == (12 if stage == "final" else 0)
        assert (summary.stage_ms["final"] is None) == (stage != "final")


def test_statistics_say_who_answered(exits_bundle: Bundle, images: Path, middle: float, tmp_path: Path) -> None:
    outputs = OutputOptions(stats=tmp_path / "stats.json")
    run(exits_bundle.path, images, RunOptions(exit_threshold=middle, threads=1, outputs=outputs))
    stats = json.loads((tmp_path / "stats.json").read_text())
    answered = [frame["labels_from"] for frame in stats["frames"]]
    assert stats["answered"] == {name: answered.count(name) for name in ("exit1", "exit2", "final")}
    assert stats["answered"]["exit1"] == 6
    assert [stats["ran"][stage] for stage in ("segment1", "segment2", "exit2")] == [12, 6, 6]
    assert stats["mean_n"] == {}
    assert stats["confidences"] == {stage: pytest.approx(middle, abs=1e-6) for stage in ("segment2", "segment3")}
    ran = [f["stages"][2]["milliseconds"] for f in stats["frames"] if f["stages"][2]["outcome"] == "ran"]
    assert stats["stage_ms"]["segment2"] == pytest.approx(sum(ran) / 6, abs=1e-3)
    for frame in stats["frames"]:
        (score,) = frame["stages"][2]["scores"]
        assert (frame["labels_from"] == "exit1") == (score <= 1 - middle)
        assert frame["expired"] is False


@pytest.mark.parametrize("serial", [True, False])
def test_a_deadline_is_met_with_what_there_is(exits_bundle: Bundle, images: Path, serial: bool) -> None:
    def answered(deadline_ms: float) -> tuple[dict[str, int], int, int]:
        options = RunOptions(exit_threshold=NEVER, deadline_ms=deadline_ms, serial=serial, threads=1)
        summary = run(exits_bundle.path, images, options)
        assert summary.deadline is not None
        slowest = max(frame.latency_ms for frame in summary.frames)
        assert summary.deadline.latest_by_ms == pytest.approx(max(0.0, slowest - deadline_ms), abs=2e-3)
        assert summary.deadline.in_time + summary.deadline.late == 12
        return dict(summary.answered), summary.expired, summary.deadline.late

    assert answered(1e-3) == ({"exit1": 12, "exit2": 0, "final": 0}, 12, 12)
    assert answered(1e6) == ({"exit1": 0, "exit2": 0, "final": 12}, 0, 0)


def test_labels_of_an_overdue_frame_are_those_of_its_exit(exits_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    for name, options in (
        ("late", RunOptions(exit_threshold=NEVER, deadline_ms=1e-3)),
        ("first", RunOptions(exit_threshold=0.0)),
    ):
        outputs = OutputOptions(labels=tmp_path / name)
        options = RunOptions(
            exit_threshold=options.exit_threshold, deadline_ms=options.deadline_ms, outputs=outputs, threads=1, limit=4
        )
        run(exits_bundle.path, images, options)
    late, first = (sorted((tmp_path / name).iterdir()) for name in ("late", "first"))
    assert [path.read_bytes() for path in late] == [path.read_bytes() for path in first]
    assert len(late) == 4


def test_policies_of_exits_are_in_the_precision_of_scores(exits_bundle: Bundle, toy_bundle: Bundle) -> None:
    policies = exit_policies(exits_bundle.manifest, 0.3)
    assert set(policies) == {"segment2", "segment3"}
    assert policies["segment2"] == ThresholdPolicy(theta=0.699999988079071)
    narrowed = exit_policies(exits_bundle.manifest, 0.3, "segment3")
    assert narrowed == {"segment2": exits_bundle.manifest.stages[2].select.policy, "segment3": policies["segment2"]}
    with pytest.raises(InvalidRequest, match="is for exits, and 'toy' has none"):
        exit_policies(toy_bundle.manifest, 0.3)
    with pytest.raises(InvalidRequest, match="'multi-exit-tiny-until-exit2' has one and decides nothing"):
        exit_policies(until(exits_bundle.manifest, "exit2"), 0.3)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InvalidRequest, match="is no confidence"):
            exit_policies(exits_bundle.manifest, wrong)


def test_one_decision_at_a_time(exits_bundle: Bundle, images: Path) -> None:
    for options, found in (
        (RunOptions(exit_threshold=0.5, policy=TopKPolicy(k=1), stage="segment2"), "exit_threshold and a policy: both"),
        (RunOptions(exit_threshold=0.5, stage="exit2"), "exit threshold 0.5 before stage 'exit2': follows no decision"),
    ):
        with pytest.raises(InvalidRequest, match=found):
            run(exits_bundle.path, images, options)


@pytest.fixture
def second_frame_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first stage fail on the second frame."""
    original, seen = OnnxRuntimeExecutable.enqueue, list[str]()

    def enqueue(self: OnnxRuntimeExecutable, bindings: Any, stream: Any) -> None:
        if self.name == "segment1":
            seen.append(self.name)
            if len(seen) == 2:
                raise ExecutionError("stage 'segment1'", "ran out of memory", "give it less")
        original(self, bindings, stream)

    monkeypatch.setattr(OnnxRuntimeExecutable, "enqueue", enqueue)


@pytest.mark.usefixtures("second_frame_fails")
def test_with_a_deadline_a_failure_ends_the_run(exits_bundle: Bundle, images: Path) -> None:
    with pytest.raises(ExecutionError, match=r"frame 01: stage 'segment1': ran out of memory; give it less"):
        run(exits_bundle.path, images, RunOptions(deadline_ms=1e6, threads=1))


@pytest.mark.usefixtures("second_frame_fails")
def test_or_is_listed_where_the_run_goes_on(exits_bundle: Bundle, images: Path) -> None:
    summary = run(exits_bundle.path, images, RunOptions(deadline_ms=1e6, threads=1, keep_going=True))
    assert [failure.name for failure in summary.failures] == ["01"]
    assert len(summary.frames) == 11
