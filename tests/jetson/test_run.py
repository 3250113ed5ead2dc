import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from cascadert.errors import ExecutionError, InvalidRequest, SourceError
from cascadert.jetson.outputs import OutputOptions, refined_blocks
from cascadert.jetson.policies import chosen_policies
from cascadert.jetson.run import RunOptions, run
from cascadert.jetson.video import VideoReader
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.profiling.profile_file import profile_json
from cascadert.spec import FrameRatePolicy, LatencyPolicy, ThresholdPolicy, TopKPolicy


def top(k: int) -> TopKPolicy:
    return TopKPolicy(policy="top-k", k=k)


@pytest.fixture
def streets(tmp_path, toy_frames):
    """A folder with six frames of the toy's size."""
    folder = tmp_path / "streets"
    folder.mkdir()
    for index, frame in enumerate(toy_frames):
        Image.fromarray(frame).save(folder / f"s{index}.png")
    return folder


def read_labels(folder):
    return {path.stem: read_image(path) for path in folder.iterdir()}


def read_image(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_labels_and_statistics_are_those_of_the_pipeline(toy_bundle, streets, tmp_path, toy_frames):
    options = RunOptions(outputs=OutputOptions(labels=tmp_path / "labels", stats=tmp_path / "stats.json"), threads=1)
    seen = []
    summary = run(toy_bundle.path, streets, options, lambda done, total: seen.append((done, total)))
    assert seen == [(index, 6) for index in range(1, 7)]
    labels = read_labels(tmp_path / "labels")
    assert sorted(labels) == [f"s{index}" for index in range(6)]
    with open_pipeline(toy_bundle) as pipeline:
        results = [pipeline.infer(frame) for frame in toy_frames]
    for index, result in enumerate(results):
        np.testing.assert_array_equal(labels[f"s{index}"], result.labels[0])
        first, second = summary.frames[index].stages
        assert (first.stage, first.n, first.scores) == ("fast", None, None)
        assert second.n == result.runs[1].n
        np.testing.assert_allclose(second.scores, result.runs[1].scores, atol=6e-5)
    assert summary.mean_n["accurate"] == pytest.approx(np.mean([r.runs[1].n for r in results]), abs=1e-4)
    assert summary.blocks == toy_bundle.spec.make_grid().size
    share = np.mean([(r.labels == 1).mean() for r in results])
    assert summary.class_shares["b"] == pytest.approx(share, abs=1e-6)
    assert sum(summary.class_shares.values()) == pytest.approx(1)


def test_the_statistics_file_says_what_the_summary_does(toy_bundle, streets, tmp_path):
    summary = run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(stats=tmp_path / "stats.json"), limit=2))
    written = json.loads((tmp_path / "stats.json").read_text())
    assert written == json.loads(summary.to_json())
    assert written["schema"] == "cascadert-run-3"
    assert written["frame_count"] == len(written["frames"]) == 2
    assert written["policies"] == {"accurate": toy_bundle.spec.stages[1].select.model_dump()}
    assert [frame["name"] for frame in written["frames"]] == ["s0", "s1"]
    assert all(frame["latency_ms"] > 0 for frame in written["frames"])
    latencies = [frame["latency_ms"] for frame in written["frames"]]
    assert written["latency_ms"]["mean"] == pytest.approx(np.mean(latencies), abs=2e-3)
    assert all(0 <= frame["queue_ms"] <= frame["latency_ms"] for frame in written["frames"])
    assert written["fps"] == pytest.approx(2 / written["wall_s"], rel=1e-2)


@pytest.mark.parametrize(("policy", "n"), [(top(0), 0), (top(3), 3), (ThresholdPolicy(theta=-1), 15)])
def test_a_policy_replaces_the_bundles(toy_bundle, streets, policy, n):
    summary = run(toy_bundle.path, streets, RunOptions(policy=policy, limit=2))
    assert summary.blocks == 15
    assert summary.mean_n == {"accurate": n}
    assert summary.policies == {"accurate": policy}


def test_overlay_video(toy_bundle, streets, tmp_path):
    run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(overlay=tmp_path / "out.mp4")))
    reader = VideoReader(tmp_path / "out.mp4")
    frames = list(reader)
    reader.close()
    assert len(frames) == 6
    assert frames[0][0].shape == (40, 56, 3)


def test_overlays_show_the_refined_blocks(toy_bundle, streets, tmp_path):
    none, some = tmp_path / "none", tmp_path / "some"
    run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(overlay=none), policy=top(0), limit=1))
    run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(overlay=some), policy=top(15), limit=1))
    plain, outlined = (read_image(folder / "s0.jpg").astype(int) for folder in (none, some))
    assert np.abs(plain - outlined)[20:].max() > 60


def test_a_video_source(toy_bundle, save_video, tmp_path):
    summary = run(
        toy_bundle.path, save_video("clip.mp4"), RunOptions(outputs=OutputOptions(labels=tmp_path / "labels"))
    )
    assert [frame.name for frame in summary.frames] == [f"clip_{index:06d}" for index in range(5)]
    assert summary.frames[2].timestamp_s == pytest.approx(0.16)
    assert len(read_labels(tmp_path / "labels")) == 5


def test_labels_have_the_size_of_their_source(toy_bundle, save_images, tmp_path):
    shutil.copytree(toy_bundle.path, tmp_path / "bundle")
    manifest = tmp_path / "bundle" / "bundle.json"
    data = json.loads(manifest.read_text())
    data["spec"]["frame"]["fit"] = "letterbox"
    manifest.write_text(json.dumps(data))
    folder = save_images("a.png", "b.png", size=(60, 70))[0].parent
    run(
        tmp_path / "bundle",
        folder,
        RunOptions(outputs=OutputOptions(labels=tmp_path / "labels", overlay=tmp_path / "overlay")),
    )
    assert {image.shape for image in read_labels(tmp_path / "labels").values()} == {(60, 70)}
    assert {image.shape for image in read_labels(tmp_path / "overlay").values()} == {(40, 56, 3)}


def test_two_cameras(cameras_bundle, streets, tmp_path):
    options = RunOptions(outputs=OutputOptions(labels=tmp_path / "labels", overlay=tmp_path / "overlay"), limit=2)
    summary = run(cameras_bundle.path, [streets, streets], options)
    assert summary.blocks == 30
    left, right = (read_labels(tmp_path / "labels" / f"camera{index}") for index in (0, 1))
    for name in ("s0", "s1"):
        np.testing.assert_array_equal(left[name], right[name])
    assert read_image(tmp_path / "overlay" / "s0.jpg").shape == (40, 112, 3)


def test_refined_blocks_belong_to_their_camera(cameras_bundle, toy_frames):
    with open_pipeline(cameras_bundle) as pipeline:
        result = pipeline.infer(toy_frames[:2], {"accurate": top(11)})
    grid = cameras_bundle.spec.make_grid()
    ((left,), (right,)) = (refined_blocks(result, grid, camera) for camera in (0, 1))
    assert len(left) + len(right) == 11
    assert sorted([*left, *(15 + index for index in right)]) == sorted(result.runs[1].order[:11].tolist())


def test_three_stages_on_nv12(chain_bundle, streets):
    summary = run(chain_bundle.path, streets, RunOptions(policy=top(5), stage="middle", limit=2))
    assert [stage.stage for stage in summary.frames[0].stages] == ["fast", "middle", "accurate"]
    assert summary.mean_n["middle"] == 5
    last = summary.frames[0].stages[2]
    assert last.scores[5:] == (None,) * (summary.blocks - 5)
    assert json.loads(summary.to_json())["frames"][0]["stages"][2]["scores"][-1] is None


class TestRequests:
    def test_a_stage_that_makes_no_decision(self, toy_bundle):
        with pytest.raises(InvalidRequest, match=r"stage 'fast': makes no decision; stages that do: accurate"):
            chosen_policies(toy_bundle.manifest, top(1), "fast")

    def test_a_stage_without_a_decision_for_it(self, toy_bundle):
        with pytest.raises(
            InvalidRequest, match=r"stage 'accurate': is named, but no decision for it; give theta or k"
        ):
            chosen_policies(toy_bundle.manifest, None, "accurate")

    def test_a_decision_for_one_of_several_stages(self, chain_bundle):
        with pytest.raises(InvalidRequest, match=r"policy top-k: 2 stages decide; name one of: middle, accurate"):
            chosen_policies(chain_bundle.manifest, top(1), None)

    def test_no_frame_at_all(self, toy_bundle, streets):
        with pytest.raises(InvalidRequest, match=r"limit = 0: leaves no frame to run; give 1 or more"):
            run(toy_bundle.path, streets, RunOptions(limit=0))

    def test_a_source_is_never_overwritten(self, toy_bundle, streets):
        with pytest.raises(InvalidRequest, match=r"streets: is both a source and an output; choose another output"):
            run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(labels=streets, replace=True)))

    def test_outputs_in_the_way_are_found_before_anything_runs(self, toy_bundle, streets, tmp_path):
        (tmp_path / "stats.json").write_text("mine")
        done = []
        with pytest.raises(InvalidRequest, match=r"stats.json: exists already"):
            run(
                toy_bundle.path,
                streets,
                RunOptions(outputs=OutputOptions(stats=tmp_path / "stats.json")),
                lambda *args: done.append(args),
            )
        assert not done
        assert (tmp_path / "stats.json").read_text() == "mine"


def test_a_stage_that_fails_names_the_frame_and_leaves_no_video(toy_bundle, streets, tmp_path, monkeypatch):
    original, runs = OnnxRuntimeExecutable.enqueue, []

    def enqueue(self, bindings, stream):
        runs.append(self.name)
        if runs.count("accurate") == 2:
            raise ExecutionError("stage 'accurate'", "ran out of memory", "give it less")
        original(self, bindings, stream)

    monkeypatch.setattr(OnnxRuntimeExecutable, "enqueue", enqueue)
    options = RunOptions(outputs=OutputOptions(overlay=tmp_path / "out.mp4", stats=tmp_path / "stats.json"))
    with pytest.raises(ExecutionError, match=r"frame s1: stage 'accurate': ran out of memory; give it less"):
        run(toy_bundle.path, streets, options)
    assert [path.name for path in tmp_path.iterdir()] == ["streets"]


def test_a_damaged_frame_leaves_no_video(toy_bundle, streets, tmp_path):
    path = streets / "s3.png"
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(SourceError, match=r"s3.png: cannot be read as an image"):
        run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(overlay=tmp_path / "out.mp4")))
    assert not (tmp_path / "out.mp4").exists()


class TestModes:
    def test_labels_are_the_same(self, toy_bundle, streets, tmp_path):
        for mode, policy in (("serial", ThresholdPolicy(theta=1.0)), ("overlapped", ThresholdPolicy(theta=1.0))):
            written = OutputOptions(labels=tmp_path / mode)
            options = RunOptions(policy=policy, outputs=written, serial=mode == "serial", threads=1)
            summary = run(toy_bundle.path, streets, options)
            assert summary.mode == mode
            assert 0 < summary.mean_n["accurate"] < 15
        serial, overlapped = (read_labels(tmp_path / mode) for mode in ("serial", "overlapped"))
        assert len(serial) == 6
        for name, labels in serial.items():
            np.testing.assert_array_equal(labels, overlapped[name])

    def test_streams_are_those_of_the_mode(self, toy_bundle, streets):
        assert set(run(toy_bundle.path, streets, RunOptions(serial=True)).busy) == {"serial"}
        busy = run(toy_bundle.path, streets, RunOptions(threads={"fast": 1})).busy
        assert {"fast", "accurate"} <= set(busy)
        assert all(0 < share <= 1 for share in busy.values())

    def test_a_trace_has_every_frame(self, toy_bundle, streets, tmp_path):
        run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(trace=tmp_path / "trace.json")))
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        assert {event["args"]["frame"] for event in events if event["ph"] == "X"} == set(range(6))

    def test_outputs_of_every_kind_are_claimed_first(self, toy_bundle, streets, tmp_path):
        (tmp_path / "trace.json").write_text("mine")
        with pytest.raises(InvalidRequest, match=r"trace.json: exists already"):
            run(toy_bundle.path, streets, RunOptions(outputs=OutputOptions(trace=tmp_path / "trace.json")))


class TestTimedDecisions:
    def test_a_budget_measures_what_it_needs_and_says_so(self, toy_bundle, streets):
        said = []
        budget = LatencyPolicy(policy="latency", budget_ms=10_000)
        summary = run(toy_bundle.path, streets, RunOptions(policy=budget, threads=1), say=said.append)
        assert said == ["no profile was given: measuring one on the first 3 frames at most"]
        assert summary.mean_n == {"accurate": 15}
        assert all(frame.stages[1].predicted_ms > 0 for frame in summary.frames)

    def test_a_budget_by_a_profile(self, toy_bundle, streets, tmp_path):
        costs = StageCosts(10, tuple((n, float(n)) for n in range(1, 16)))
        (tmp_path / "p.json").write_text(profile_json(toy_bundle.manifest, "planted", {"accurate": costs}))
        said = []
        options = RunOptions(
            policy=LatencyPolicy(policy="latency", budget_ms=14.8), profile=tmp_path / "p.json", limit=1
        )
        summary = run(toy_bundle.path, streets, options, say=said.append)
        assert not said
        assert summary.frames[0].stages[1].n == 4
        assert summary.frames[0].stages[1].predicted_ms == 14

    def test_a_budget_that_nothing_fits(self, toy_bundle, streets):
        policy = LatencyPolicy(policy="latency", budget_ms=1e-6)
        assert run(toy_bundle.path, streets, RunOptions(policy=policy)).mean_n == {"accurate": 0}

    def test_a_frame_rate_learns_by_itself_and_tells_its_theta(self, toy_bundle, streets):
        said = []
        policy = FrameRatePolicy(policy="frame-rate", fps=0.1, theta_min=0.5)
        summary = run(toy_bundle.path, streets, RunOptions(policy=policy), say=said.append)
        assert not said
        assert all(frame.stages[1].theta >= 0.5 for frame in summary.frames)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", r"p.json: is no JSON: .*; measure one with"),
            ('{"schema": "x"}', r"p.json: has schema 'x'; give cascadert-profile-1 or cascadert-bench-1"),
            ('{"schema": "cascadert-profile-1", "name": "toy"}', r"p.json: costs: is missing"),
            (
                '{"schema": "cascadert-profile-1", "name": "other", "costs": {}}',
                r"p.json: is of the cascade 'other', not of 'toy'",
            ),
            (
                '{"schema": "cascadert-profile-1", "name": "toy", "costs": {"fast": {}}}',
                r"p.json: has costs of \['fast'\] where \['accurate'\] decide",
            ),
            (
                '{"schema": "cascadert-profile-1", "name": "toy", "costs": {"accurate": {"before_ms": 1}}}',
                r"p.json: costs.accurate: points: ",
            ),
        ],
    )
    def test_wrong_profiles(self, toy_bundle, streets, tmp_path, content, message):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(InvalidRequest, match=message):
            run(toy_bundle.path, streets, RunOptions(profile=tmp_path / "p.json"))


class TestFailingFrames:
    @pytest.fixture
    def failing(self, monkeypatch):
        """Let the stage `accurate` fail on the frames of these numbers, counted from 0."""
        original, numbers = OnnxRuntimeExecutable.enqueue, set()
        runs = []

        def enqueue(self, bindings, stream):
            if self.name == "accurate":
                runs.append(self.name)
                if len(runs) - 1 in numbers:
                    raise ExecutionError("stage 'accurate'", "ran out of memory", "give it less")
            original(self, bindings, stream)

        monkeypatch.setattr(OnnxRuntimeExecutable, "enqueue", enqueue)
        return numbers

    def test_the_run_goes_on_and_lists_them(self, toy_bundle, streets, tmp_path, failing):
        failing |= {1, 3}
        written = OutputOptions(labels=tmp_path / "labels", stats=tmp_path / "stats.json")
        options = RunOptions(policy=top(3), outputs=written, keep_going=True)
        summary = run(toy_bundle.path, streets, options)
        assert [frame.name for frame in summary.frames] == ["s0", "s2", "s4", "s5"]
        assert sorted(read_labels(tmp_path / "labels")) == ["s0", "s2", "s4", "s5"]
        found = json.loads((tmp_path / "stats.json").read_text())["failures"]
        assert [failure["name"] for failure in found] == ["s1", "s3"]
        with pytest.raises(ExecutionError, match=r"2 of 6 frames: failed, the first of them s1: stage 'accurate': ran"):
            summary.check()

    def test_a_run_without_any_result(self, toy_bundle, streets, failing):
        failing |= set(range(6))
        with pytest.raises(ExecutionError, match=r"stage 'accurate': ran out of memory"):
            run(toy_bundle.path, streets, RunOptions(policy=top(3), keep_going=True))

    def test_a_run_without_failures_passes(self, toy_bundle, streets):
        run(toy_bundle.path, streets, RunOptions(keep_going=True)).check()


class TestLive:
    def test_every_frame_is_run_or_dropped_and_counted(self, toy_bundle, save_video):
        summary = run(toy_bundle.path, save_video("clip.mp4", frames=8, fps=50.0), RunOptions(live=True))
        assert len(summary.frames) + summary.dropped == 8
        assert sum(frame.dropped for frame in summary.frames) == summary.dropped
        assert summary.frames[-1].name == "clip_000007"  # the newest is never dropped
        assert summary.wall_s >= 7 / 50

    def test_a_slow_cascade_drops(self, toy_bundle, save_video, monkeypatch):
        original = OnnxRuntimeExecutable._run

        def late(self, io):
            time.sleep(0.1)
            original(self, io)

        monkeypatch.setattr(OnnxRuntimeExecutable, "_run", late)
        summary = run(toy_bundle.path, save_video("clip.mp4", frames=11, fps=100.0), RunOptions(live=True))
        assert summary.dropped > 0
        assert len(summary.frames) + summary.dropped == 11

    def test_images_have_no_rate(self, toy_bundle, streets):
        with pytest.raises(InvalidRequest, match=r"frame s0: has no time and its source no rate; give a video"):
            run(toy_bundle.path, streets, RunOptions(live=True))
