"""Costs, predictions and figures, on planted stages that sleep for known times. Bounds are loose: sleeps are late."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cascadert.bundle import Bundle, BundleManifest, MemoryEntry
from cascadert.errors import ExecutionError, InvalidRequest
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.profiling.bench import OVERLAPPED, SERIAL, Bench, BenchOptions, bench, matching_n
from cascadert.runtime.profiling.figures import (
    Bottleneck,
    batching,
    predicted_period_ms,
    where_overlapped,
    where_serial,
)
from cascadert.runtime.profiling.footprint import measure_footprint, predict_footprint
from cascadert.runtime.profiling.passage import Passage, Traced, run_through
from cascadert.runtime.profiling.profile import Profile, ProfileOptions, counts_of, measure_profile
from cascadert.runtime.profiling.profile_file import profile_json, read_profile
from cascadert.runtime.profiling.report import BenchReport, Memory, Origin
from cascadert.runtime.profiling.times import Times
from cascadert.runtime.profiling.trace import trace_events
from cascadert.runtime.results import Span
from cascadert.spec import LatencyPolicy, TopKPolicy
from tests.runtime.exits import CHAIN
from tests.runtime.plant import (
    BLOCKS,
    COMPUTE,
    FAST,
    THREE,
    TWO,
    Compute,
    Jitter,
    PlantedStage,
    entry,
    frame,
    manifest,
)
from tests.runtime.wild import Wild

MEMORY = MemoryEntry(weights_bytes=100, activation_bytes=20, activation_bytes_per_block=3)
FAST_MS, BLOCK_MS = 9.0, 3.0


def timed(compute: Compute) -> Compute:
    """A computation that takes as long as it should."""

    def late(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        time.sleep((BLOCK_MS * len(inputs["indices"]) if "indices" in inputs else FAST_MS) / 1e3)
        return compute(inputs)

    return late


class UpTo(PlantedStage):
    """A stage whose engine takes 5 blocks at most, and rounds up to odd numbers."""

    def blocks(self, n: int) -> int:
        if n > 5:
            raise ExecutionError(self.name, "was built for 5 blocks", "ask for fewer")
        return n | 1


def known(manifest: BundleManifest) -> BundleManifest:
    """A manifest of planted stages with what benches read of real ones."""
    more = {"network": SimpleNamespace(macs=1), "memory": MEMORY}
    return manifest.model_copy(update={"stages": tuple(stage.model_copy(update=more) for stage in manifest.stages)})


def opener(manifest: BundleManifest, kind: type[PlantedStage] = PlantedStage) -> Callable[[RuntimeOptions], Pipeline]:
    def opened(options: RuntimeOptions) -> Pipeline:
        stages = {stage.name: kind(stage, timed(COMPUTE[stage.name])) for stage in manifest.stages}
        return Pipeline(manifest, stages, HostDevice(unified=False), options)

    return opened


def top(k: int) -> TopKPolicy:
    return TopKPolicy(policy="top-k", k=k)


FRAMES = [frame(i) for i in range(4)]
QUICK = ProfileOptions(repeats=5, warm_up=0, batching=True)
TWO_KNOWN, THREE_KNOWN = known(TWO), known(THREE)


@pytest.fixture(scope="module")
def profile() -> Profile:
    with opener(TWO_KNOWN)(RuntimeOptions(mode="serial")) as pipeline:
        return measure_profile(pipeline, FRAMES, QUICK)


@pytest.fixture(scope="module")
def found() -> Bench:
    """Refinement of 3 blocks takes as long as the stage before."""
    return bench(TWO_KNOWN, opener(TWO_KNOWN), FRAMES, BenchOptions(match="accurate", rounds=5, profile=QUICK))


@pytest.fixture
def report(found: Bench) -> BenchReport:
    predicted = predict_footprint(found.manifest, found.plan, found.slots)
    return BenchReport(
        found, Origin("cascadert bench x", {"numpy": "2"}, "a machine", "planted"), Memory(predicted, {})
    )


class TestProfile:
    def test_times_of_stages_are_those_planted(self, profile: Profile) -> None:
        assert FAST_MS <= profile.stages["fast"][None].median <= 2 * FAST_MS
        for n, times in profile.stages["accurate"].items():
            assert n is not None
            assert n * BLOCK_MS <= times.median <= 2 * n * BLOCK_MS + 5
            assert len(times.samples) == 5

    def test_every_n_up_to_8_and_all_blocks(self, profile: Profile) -> None:
        assert list(profile.stages["accurate"]) == list(range(1, 9))

    def test_powers_of_two_where_batching_is_not_asked_for(self) -> None:
        with opener(TWO_KNOWN)(RuntimeOptions(mode="serial")) as pipeline:
            assert counts_of(pipeline, "accurate", batching=False) == [1, 2, 4, 8]

    def test_no_more_than_the_engine_takes_and_what_it_makes_of_it(self) -> None:
        with opener(TWO_KNOWN, UpTo)(RuntimeOptions(mode="serial")) as pipeline:
            assert counts_of(pipeline, "accurate", batching=True) == [1, 3, 5]

    def test_costs_are_the_medians(self, profile: Profile) -> None:
        costs = profile.costs["accurate"]
        upload, fast = profile.copies["upload"].median, profile.stages["fast"][None].median
        assert costs.before_ms == pytest.approx(upload + fast, rel=0.3)
        assert costs.points == tuple((n, times.median) for n, times in profile.stages["accurate"].items())
        assert 0 <= costs.spread < 1

    def test_the_host_is_measured_too(self, profile: Profile) -> None:
        assert profile.submit.median > 0
        assert set(profile.decide) == set(profile.hand_over) == {"accurate"}
        assert 0 < profile.decide["accurate"].median < profile.hand_over["accurate"].median
        assert set(profile.copies) == {"upload", "download"}

    def test_later_decisions_stand_on_what_the_earlier_really_refine(self) -> None:
        with opener(THREE_KNOWN)(RuntimeOptions(mode="serial")) as pipeline:
            options = ProfileOptions(repeats=5, warm_up=0)
            found = measure_profile(pipeline, FRAMES, options, {"middle": top(2), "accurate": top(1)})
        assert set(found.costs) == {"middle", "accurate"}
        assert [n for n, _ in found.costs["accurate"].points] == [1, 2, 4, 8]
        between = found.costs["accurate"].before_ms - found.costs["middle"].before_ms
        assert 2 * BLOCK_MS <= between <= 7 * BLOCK_MS  # two blocks, not all eight

    def test_a_timed_decision_needs_no_profile_to_be_profiled(self) -> None:
        with opener(TWO_KNOWN)(RuntimeOptions(mode="serial")) as pipeline:
            budget = {"accurate": LatencyPolicy(policy="latency", budget_ms=1)}
            assert measure_profile(pipeline, FRAMES, ProfileOptions(5, 0), budget).costs

    def test_progress_ends_where_it_says(self) -> None:
        told = []
        with opener(TWO_KNOWN)(RuntimeOptions(mode="serial")) as pipeline:
            measure_profile(pipeline, FRAMES[:1], ProfileOptions(5, 1), progress=lambda *done: told.append(done))
        assert told == [(i + 1, 30) for i in range(30)]  # six rounds of four n and the cascade's own

    def test_an_overlapped_pipeline_is_refused(self) -> None:
        with (
            opener(TWO_KNOWN)(RuntimeOptions()) as pipeline,
            pytest.raises(InvalidRequest, match="in overlapped mode; give a serial pipeline"),
        ):
            measure_profile(pipeline, FRAMES)
        with (
            opener(TWO_KNOWN)(RuntimeOptions(mode="serial", deadline_ms=9.0)) as pipeline,
            pytest.raises(InvalidRequest, match="with a deadline of 9 ms on a pipeline in serial mode; give a serial"),
        ):
            measure_profile(pipeline, FRAMES)

    def test_few_repeats_are_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="repeats: is 4; give 5 or more"):
            ProfileOptions(repeats=4)

    def test_on_disk_and_back(self, profile: Profile, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text(profile_json(TWO_KNOWN, "planted", profile.costs))
        assert read_profile(tmp_path / "p.json", TWO_KNOWN) == profile.costs


ROWS = Wild(
    manifest(
        FAST,
        entry("crops", {"frame": "frame", "indices": "fast.order"}, {"rows": None}, ("fast.scores", "fast.order")),
        entry("fuse", {"rows": "crops.rows"}, {"labels": "fast.labels"}, follows="crops"),
    ),
    {"fast": 1, "crops": 1, "fuse": 3},
)


def opening(wild: Wild, ms: float) -> Callable[[RuntimeOptions], Pipeline]:
    """Opens a planted cascade whose stages take as long, and a millisecond for each block."""

    def opened(options: RuntimeOptions) -> Pipeline:
        stages = wild.stages(Jitter())
        for stage in stages.values():
            stage._compute = lambda inputs, compute=stage._compute: (
                time.sleep((ms + sum(len(a) for name, a in inputs.items() if name in ("indices", "rows"))) / 1e3),
                compute(inputs),
            )[1]
        return Pipeline(known(wild.manifest), stages, HostDevice(unified=False), options)

    return opened


class TestAnyGraph:
    """Costs around a decision are those of all that runs because of it."""

    def test_stages_that_see_no_blocks(self) -> None:
        with opening(CHAIN, 4.0)(RuntimeOptions(mode="serial")) as pipeline:
            assert counts_of(pipeline, "seg2", batching=True) == [1]
            found = measure_profile(pipeline, FRAMES, QUICK)
        assert set(found.costs) == {"seg2", "seg3"}
        for stage, after in (("seg2", "exit2"), ("seg3", "exit3")):
            ((n, milliseconds),) = found.costs[stage].points
            assert n == 1
            assert 8.0 <= milliseconds <= 24.0
            assert milliseconds == pytest.approx(found.stage_ms(stage, 1) + found.stage_ms(after, None), rel=0.3)
        assert found.costs["seg2"].before_ms >= 8.0

    def test_rows_that_others_read(self) -> None:
        with opening(ROWS, 2.0)(RuntimeOptions(mode="serial")) as pipeline:
            assert counts_of(pipeline, "crops", batching=True) == [3, 6, 8]  # as the stage that follows takes them
            found = measure_profile(pipeline, FRAMES, QUICK)
        assert list(found.stages["fuse"]) == list(found.stages["crops"]) == [3, 6, 8]
        for n, milliseconds in found.costs["crops"].points:
            assert 2 * (2.0 + n) <= milliseconds
            assert milliseconds == pytest.approx(found.stage_ms("crops", n) + found.stage_ms("fuse", n), rel=0.3)

    @pytest.mark.parametrize("wild", [CHAIN, ROWS], ids=["chain", "rows"])
    def test_both_are_benched(self, wild: Wild) -> None:
        plan = known(wild.manifest)
        found = bench(plan, opening(wild, 2.0), FRAMES, BenchOptions(rounds=5, profile=ProfileOptions(5, 0)))
        assert found.same_labels is True
        predicted = predict_footprint(found.manifest, found.plan, found.slots)
        report = BenchReport(found, Origin("b", {}, "m", "planted"), Memory(predicted, {}))
        data = json.loads(report.to_json())
        assert data["predicted_period_ms"][SERIAL] > data["predicted_period_ms"][OVERLAPPED] > 0
        assert set(data["costs"]) == set(found.plan.followers)
        assert json.loads(report.trace_json())["traceEvents"]

    def test_what_was_dropped_refined_nothing(self) -> None:
        spans = (Span("seg2", "seg2", 0.0, 4.0, 1, dropped=True), Span("download", "download", 5.0, 6.0))
        passage = Passage(tuple(Traced(i, spans if i else spans[1:], 1.0) for i in range(3)))
        assert passage.mean_n("seg2") == 0
        (event,) = [e for e in trace_events(1, "a", passage.frames[1:2], {}) if e["name"] == "seg2"]
        assert event["args"] == {"frame": 1, "n": 1, "dropped": True}

    def test_arrows_are_of_stages_that_waited_for_their_scores(self) -> None:
        def arrows(start_ms: float) -> int:
            spans = (Span("exit1", "exit1", 0.0, 4.0), Span("seg2", "seg2", start_ms, 8.0, 1))
            return sum(e["ph"] == "s" for e in trace_events(1, "a", [Traced(0, spans, 1.0)], {"seg2": "exit1"}))

        assert (arrows(4.5), arrows(2.0)) == (1, 0)


class TestBench:
    def test_periods_are_predicted(self, found: Bench, report: BenchReport) -> None:
        predicted = predicted_period_ms(found)
        assert 2 * FAST_MS <= predicted[SERIAL] <= 4 * FAST_MS
        assert FAST_MS <= predicted[OVERLAPPED] <= 2 * FAST_MS
        for mode in (SERIAL, OVERLAPPED):
            assert 0.6 < report.periods[mode].median / predicted[mode] < 2

    def test_what_sleeps_overlaps(self, report: BenchReport) -> None:
        assert report.gains[SERIAL].median > 1.3
        assert report.overlap_ratios[OVERLAPPED].median > 1.3
        assert report.overlap_ratios[SERIAL].median <= 1

    def test_n_matches_the_stage_before(self, found: Bench) -> None:
        assert abs(matching_n(found.profile, "accurate") - FAST_MS / BLOCK_MS) <= 1
        assert found.policies["accurate"] == top(matching_n(found.profile, "accurate"))

    def test_runs_are_paired(self, found: Bench) -> None:
        assert {len(passes) for passes in found.passes.values()} == {5}
        assert {len(p.frames) for passes in found.passes.values() for p in passes} == {4}
        assert found.same_labels is True
        assert found.settings[SERIAL].threads == found.settings[OVERLAPPED].threads

    def test_parts_add_up_to_periods(self, found: Bench) -> None:
        serial, overlapped = found.passes[SERIAL][0], found.passes[OVERLAPPED][0]
        assert sum(where_serial(serial, found.plan).values()) == pytest.approx(serial.period_ms)
        parts = where_overlapped(overlapped, serial, found.plan)
        total = parts.alone_ms + parts.slow_down_ms + parts.input_ms + parts.hand_over_ms
        assert total == pytest.approx(overlapped.period_ms)
        assert parts.stream in ("fast", "accurate")
        assert parts.input_ms >= 0

    def test_batching(self, profile: Profile) -> None:
        ratios = batching(profile)
        assert set(ratios) == {"accurate"}
        assert ratios["accurate"][1] == 1
        assert all(0.5 < ratio < 1.5 for ratio in ratios["accurate"].values())

    def test_json_has_what_the_issue_names(self, report: BenchReport) -> None:
        data = json.loads(report.to_json())
        assert data["schema"] == "cascadert-bench-1"
        assert {"serial", "best_serial", "overlapped"} <= data["period_ms"].keys()
        assert data["period_ms"]["best_serial"] <= data["period_ms"]["serial"]
        assert data["predicted_period_ms"].keys() == {"serial", "overlapped"}
        assert set(data["stage_ms"]["accurate"]) == {str(n) for n in range(1, 9)}
        assert set(data["stage_ms"]["fast"]) == {"frame"}
        assert data["overlap_ratio"] > 1.3
        assert set(data["slow_down"]) == {"fast", "accurate"}
        assert set(data["latency_ms"]["overlapped"]) == {"p50", "p90"}
        assert data["memory_bytes"]["predicted"]["weight_bytes"] == 200
        assert data["memory_bytes"]["predicted"]["activation_bytes"] == 2 * (20 + 3 * BLOCKS)
        assert data["settings"]["policies"]["accurate"]["policy"] == "top-k"
        assert data["command"] == "cascadert bench x"
        assert {"device", "versions", "machine", "costs", "batching", "spread", "where_ms"} <= data.keys()

    def test_a_report_is_a_profile(self, report: BenchReport, tmp_path: Path) -> None:
        (tmp_path / "b.json").write_text(report.to_json())
        costs = read_profile(tmp_path / "b.json", TWO_KNOWN)["accurate"]
        assert costs.before_ms == pytest.approx(report.bench.profile.costs["accurate"].before_ms, abs=1e-3)

    def test_its_trace_has_both_runs(self, report: BenchReport) -> None:
        events = json.loads(report.trace_json())["traceEvents"]
        assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == ["serial", "overlapped"]

    def test_decisions_by_the_clock_get_the_profile_and_are_not_compared(self) -> None:
        budget = LatencyPolicy(policy="latency", budget_ms=1000)
        options = BenchOptions(policies={"accurate": budget}, rounds=5, profile=ProfileOptions(5, 0))
        found = bench(TWO_KNOWN, opener(TWO_KNOWN), FRAMES[:3], options)
        assert found.same_labels is None
        assert found.passes[OVERLAPPED][-1].mean_n("accurate") > 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rounds": 4}, "rounds: is 4; give 5 or more"),
            ({"runtime": RuntimeOptions(mode="serial")}, "runtime of a bench: is serial"),
            ({"runtime": RuntimeOptions(overflow="drop-oldest")}, "overflow drop-oldest"),
            ({"runtime": RuntimeOptions(deadline_ms=5.0)}, r"deadline 5\.0; give one that is overlapped and waits"),
        ],
    )
    def test_wrong_options(self, options: dict, message: str) -> None:
        with pytest.raises(InvalidRequest, match=message):
            BenchOptions(**options)

    def test_a_stage_that_makes_no_decision(self) -> None:
        with pytest.raises(InvalidRequest, match="stage 'fast': makes no decision; stages that do: accurate"):
            bench(TWO_KNOWN, opener(TWO_KNOWN), FRAMES, BenchOptions(match="fast", rounds=5, profile=QUICK))

    def test_too_few_frames(self) -> None:
        with pytest.raises(InvalidRequest, match="frames: are 2; give 3 or more"):
            bench(TWO_KNOWN, opener(TWO_KNOWN), FRAMES[:2])


def two_stages(number: int, fast: tuple[float, float], accurate: tuple[float, float]) -> Traced:
    """A frame by when each stage began and how long it took."""
    named = (("fast", fast, None), ("accurate", accurate, 3))
    return Traced(number, tuple(Span(name, name, at, at + ms, n) for name, (at, ms), n in named), 1.0)


class TestPassage:
    """Figures of planted spans, exactly."""

    @pytest.fixture
    def passage(self) -> Passage:
        """Fast takes 10, accurate 20: from 10 on, accurate is never idle; its first input comes at 10."""
        frames = []
        for i in range(4):
            fast, accurate = Span("fast", "fast", 10 * i, 10 * i + 10), 10 + 20 * i
            refined = Span("accurate", "accurate", accurate, accurate + 20, 3)
            frames.append(Traced(i, (fast, Span("decide accurate", "host", 9, 9.5), refined), 1.0))
        return Passage(tuple(frames))

    def test_the_window_begins_with_the_first_result(self, passage: Passage) -> None:
        assert passage.window == (30, 90)
        assert passage.period_ms == 20

    def test_only_what_lies_in_the_window_counts(self, passage: Passage) -> None:
        assert passage.span_ms()["accurate"] == 20
        assert passage.span_ms()["fast"] == pytest.approx(10 / 3)  # the last of four
        assert passage.overlap_ratio(["fast", "accurate"]) == pytest.approx((20 + 10 / 3) / 20)
        assert passage.mean_ms("fast") == 10
        assert passage.mean_n("accurate") == 3

    def test_what_a_bottleneck_does_with_its_period(self) -> None:
        """Every 10 ms fast takes 5 and accurate 6, of which 1 is the other's fault; it waits 3 for fast, then 1."""
        serial = [two_stages(i, (10 * i, 5), (10 * i + 5, 5)) for i in range(4)]
        overlapped = [two_stages(i, (10 * i, 5), (10 * i + 6, 6)) for i in range(4)]
        with opener(TWO_KNOWN)(RuntimeOptions()) as pipeline:
            found = where_overlapped(Passage(tuple(overlapped)), Passage(tuple(serial)), pipeline.plan)
        assert found == Bottleneck("accurate", alone_ms=5, slow_down_ms=1, input_ms=3, hand_over_ms=1)

    def test_two_frames_are_no_passage(self) -> None:
        with (
            opener(TWO_KNOWN)(RuntimeOptions()) as pipeline,
            pytest.raises(InvalidRequest, match="a passage: has 2 frame"),
        ):
            run_through(pipeline, FRAMES[:2], {})


def test_times_are_quantiles() -> None:
    times = Times.of(range(1, 12))
    assert (times.median, times.spread, times.mean) == (6, (2, 10), 6)
    assert times.relative_spread == pytest.approx(8 / 2 / 6)
    assert Times.of([0.0]).relative_spread == 0


class TestFootprint:
    def test_of_a_real_cascade_in_a_process_of_its_own(self, toy_bundle: Bundle) -> None:
        planes = [np.full((40, 56, 3), value, np.uint8) for value in (0, 90)]
        options = RuntimeOptions(threads=1)
        measured = measure_footprint(toy_bundle.path, options, planes, {})
        with open_pipeline(toy_bundle, options) as pipeline:
            assert measured.buffer_bytes == pipeline.device.allocated_bytes
            predicted = predict_footprint(toy_bundle.manifest, pipeline.plan, pipeline.slots)
        assert measured.peak_resident_bytes > measured.before_bytes > 10_000_000
        assert predicted.slot_bytes < measured.buffer_bytes < measured.peak_resident_bytes

    def test_what_was_asked_for_arrives_there(self, chain_bundle: Bundle) -> None:
        """A latency budget needs its costs, NV12 its planes, and a pipeline of one slot is smaller."""
        planes = planes_from_rgb(np.full((1, 40, 56, 3), 90, np.uint8), "nv12")
        costs = {"middle": StageCosts(1.0, ((1, 0.5), (4, 1.5)), 0.1), "accurate": StageCosts(2.0, ((1, 0.5),))}
        policies = {"middle": LatencyPolicy(policy="latency", budget_ms=1e6), "accurate": TopKPolicy(k=2)}
        wide = RuntimeOptions(threads={"fast": 1, "middle": 1, "accurate": 1}, costs=costs)
        found = [
            measure_footprint(chain_bundle.path, options, [planes], policies)
            for options in (wide, replace(wide, mode="serial"))
        ]
        assert found[0].buffer_bytes > found[1].buffer_bytes

    def test_a_process_that_fails_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(ExecutionError, match=r"measures memory: failed with exit code 1: .*no such folder"):
            measure_footprint(tmp_path / "nowhere", RuntimeOptions(), [], {})
