"""Exits of real bundles: what is recorded of them, the curve and the plans, each against the pipeline itself."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cascadert.bundle import Bundle, BundleManifest, read_bundle
from cascadert.calibration.exit_chain import exits_of
from cascadert.calibration.exit_measurement import ExitMeasurement, measure_exits
from cascadert.calibration.exit_plan import write_planned
from cascadert.calibration.exit_plots import plot_curve, plot_front
from cascadert.calibration.exit_report import HELD_OUT, NEVER, CurvePoint, plan_exits
from cascadert.calibration.exit_search import Best, Fastest
from cascadert.calibration.exits import Candidate, ExitPlan, PlannedExit, run_plan
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.errors import InvalidRequest
from cascadert.export.rewire import until
from cascadert.jetson.policies import exit_policies
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Result
from cascadert.spec import SelectPolicy, ThresholdPolicy

Frames = list[tuple[np.ndarray, np.ndarray]]
SERIAL = RuntimeOptions(mode="serial", threads=1, tensors="all")


@pytest.fixture(scope="module")
def frames(exits_streets: tuple[Path, Path]) -> Frames:
    images, labels = exits_streets
    pairs = zip(sorted(images.iterdir()), sorted(labels.iterdir()), strict=True)
    return [(np.asarray(Image.open(image)), np.asarray(Image.open(label))[None]) for image, label in pairs]


@pytest.fixture(scope="module")
def found(exits_bundle: Bundle, frames: Frames) -> ExitMeasurement:
    return measure_exits(exits_bundle, frames, threads=1)


def infer(bundle: Bundle, frames: Frames, policies: dict[str, SelectPolicy] | None = None) -> list[Result]:
    with open_pipeline(bundle, SERIAL) as pipeline:
        return [pipeline.infer(image, policies or {}) for image, _ in frames]


def miou(results: list[Result], frames: Frames) -> float:
    matrix = ConfusionMatrix(19)
    for result, (_, truth) in zip(results, frames, strict=True):
        matrix.add(result.labels, truth)
    return matrix.mean_iou()


class TestChain:
    def test_exits_and_what_lies_between(self, exits_bundle: Bundle) -> None:
        first, second, final = exits_of(exits_bundle.manifest)
        assert [(one.name, one.segment, one.decision) for one in (first, second, final)] == [
            ("exit1", ("segment1",), None),
            ("exit2", ("segment2",), "segment2"),
            ("final", ("segment3",), "segment3"),
        ]
        assert final.stages == {"segment1", "segment2", "segment3", "final"}
        assert second.speculative
        assert final.speculative

    def test_cascades_of_blocks_have_none(self, toy_bundle: Bundle) -> None:
        with pytest.raises(
            InvalidRequest, match="exits of 'toy': stage 'accurate' sees selected blocks, not whole frames"
        ):
            exits_of(toy_bundle.manifest)

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda manifest: until(manifest, "exit2"), "only exit2 makes labels"),
            (lambda manifest: changed(manifest, "segment3", select=None), "'exit2' does not decide"),
            (lambda manifest: changed_select(manifest, "segment3", unit="bits"), "the scores of 'exit2' are bits"),
            (lambda manifest: changed_source(manifest, "final", "exit1.scores"), "'final' reads what 'exit1' makes"),
            (lambda manifest: changed_source(manifest, "final", "segment1.features"), "does not begin where 'exit2'"),
        ],
    )
    def test_other_cascades_are_refused(
        self, change: Callable[[BundleManifest], BundleManifest], found: str, exits_bundle: Bundle
    ) -> None:
        with pytest.raises(InvalidRequest, match=found):
            exits_of(change(exits_bundle.manifest))


def changed(manifest: BundleManifest, name: str, **update: Any) -> BundleManifest:
    stages = tuple(s.model_copy(update=update) if s.name == name else s for s in manifest.stages)
    return manifest.model_copy(update={"stages": stages})


def changed_select(manifest: BundleManifest, name: str, **update: Any) -> BundleManifest:
    (entry,) = (stage for stage in manifest.stages if stage.name == name)
    assert entry.select is not None
    return changed(manifest, name, select=entry.select.model_copy(update=update))


def changed_source(manifest: BundleManifest, name: str, source: str) -> BundleManifest:
    (entry,) = (stage for stage in manifest.stages if stage.name == name)
    return changed(manifest, name, inputs=(entry.inputs[0].model_copy(update={"source": source}),))


class TestMeasurement:
    def test_every_exit_is_recorded_on_every_image(
        self, found: ExitMeasurement, exits_bundle: Bundle, frames: Frames
    ) -> None:
        every = infer(exits_bundle, frames, exit_policies(exits_bundle.manifest, NEVER))
        assert found.images == len(frames)
        for image, (result, (_, truth)) in enumerate(zip(every, frames, strict=True)):
            for index, name in enumerate(("exit1", "exit2", "final")):
                matrix = ConfusionMatrix(19)
                matrix.add(result.tensors[f"{name}.labels"], truth)
                np.testing.assert_array_equal(found.confusion[index, image], matrix.counts)
            for index, name in enumerate(("exit1", "exit2")):
                assert np.float32(1) - found.confidence[index, image] == result.tensors[f"{name}.scores"][0]
        assert np.isnan(found.confidence[2]).all()
        assert len({*found.confidence[0].tolist()}) > len(frames) // 2  # the images differ

    def test_times_are_those_of_the_run_or_as_given(
        self, found: ExitMeasurement, exits_bundle: Bundle, frames: Frames
    ) -> None:
        stages = [stage.name for stage in exits_bundle.manifest.stages]
        assert list(found.stage_ms) == stages
        assert min(found.stage_ms.values()) > 0
        given = dict(zip(stages, (5.0, 1.0, 2.0, 1.5, 7.0, 0.5), strict=True))
        other = measure_exits(exits_bundle, frames[:1], threads=1, stage_ms=given)
        assert other.costs(speculative=True).segment_ms == (5.0, 2.0, 7.0)
        assert [candidate.head_ms for candidate in other.candidates] == [1.0, 1.5, 0.5]

    def test_no_frame(self, exits_bundle: Bundle) -> None:
        with pytest.raises(InvalidRequest, match="there was no frame"):
            measure_exits(exits_bundle, [], threads=1)


class TestReport:
    def test_each_exit_alone_costs_more_than_the_one_before(self, found: ExitMeasurement, exits_bundle: Bundle) -> None:
        rows = plan_exits(found, None).report.exits
        manifest = exits_bundle.manifest
        wanted = [sum(s.network.macs for s in until(manifest, row.name).stages) for row in rows]
        assert [row.macs for row in rows] == wanted == sorted(set(wanted))
        ms = found.stage_ms
        assert rows[1].latency_ms == pytest.approx(ms["segment1"] + ms["segment2"] + ms["exit2"])

    def test_the_curve_begins_with_the_first_exit_and_ends_with_the_last(self, found: ExitMeasurement) -> None:
        report = plan_exits(found, None).report
        first, last = report.curve[0], report.curve[-1]
        assert (first.threshold, first.rates) == (0, (1, 0, 0))
        assert last.threshold > 1
        assert last.rates == (0, 0, 1)
        assert first.macs == report.exits[0].macs
        exit_heads = found.macs["exit1"] + found.macs["exit2"]
        assert last.macs == report.exits[2].macs + exit_heads
        assert first.miou == pytest.approx(report.exits[0].miou)
        assert last.miou == pytest.approx(report.exits[2].miou)
        macs, early = [point.macs for point in report.curve], [point.rates[0] for point in report.curve]
        assert macs == sorted(macs)
        assert early == sorted(early, reverse=True)

    def test_the_curve_is_what_the_pipeline_does(
        self, found: ExitMeasurement, exits_bundle: Bundle, frames: Frames
    ) -> None:
        curve = plan_exits(found, None).report.curve
        mixed = [point for point in curve if sum(rate > 0 for rate in point.rates) > 1]
        assert mixed
        for point in (curve[0], mixed[len(mixed) // 2], curve[-1]):
            results = infer(exits_bundle, frames, exit_policies(exits_bundle.manifest, point.threshold))
            answered = [result.labels_from for result in results]
            assert point.rates == tuple(answered.count(name) / len(frames) for name in ("exit1", "exit2", "final"))
            assert point.miou == pytest.approx(miou(results, frames))
            ran = [sum(found.macs[run.stage] for run in r.runs if run.outcome == "ran") for r in results]
            assert point.macs == pytest.approx(np.mean(ran))

    def test_no_plan_of_the_front_beats_another(self, found: ExitMeasurement) -> None:
        front = plan_exits(found, None).report.front
        values = [(row.latency_ms, row.miou) for row in front]
        assert values == sorted(set(values))
        assert [row.miou for row in front] == sorted({row.miou for row in front})

    def test_every_fourth_image_judges(self, found: ExitMeasurement) -> None:
        planned = plan_exits(found, Fastest(1.0))
        assert planned.plan is not None
        assert planned.report.plan is not None
        held = list(range(HELD_OUT - 1, found.images, HELD_OUT))
        costs = found.costs(speculative=planned.report.speculative)
        assert planned.report.held_out == len(held) == 3
        assert planned.report.plan.judged == run_plan(planned.plan.exits, found.records(held), costs)
        rest = [image for image in range(found.images) if image not in held]
        assert planned.plan.outcome == run_plan(planned.plan.exits, found.records(rest), costs)

    def test_exits_speculate_where_the_bundle_does_and_nobody_says_serial(self, found: ExitMeasurement) -> None:
        speculative, serial = plan_exits(found, None).report, plan_exits(found, None, serial=True).report
        assert speculative.speculative
        assert not serial.speculative
        ms = found.stage_ms
        assert serial.curve[-1].latency_ms == pytest.approx(sum(ms.values()))
        first = ms["segment1"] + max(ms["exit1"], ms["segment2"])  # each exit runs beside one segment, none beside two
        done = first + max(ms["exit2"], ms["segment3"]) + ms["final"]
        assert speculative.curve[-1].latency_ms == pytest.approx(done)

    def test_too_few_images(self, exits_bundle: Bundle, frames: Frames) -> None:
        few = measure_exits(exits_bundle, frames[:7], threads=1)
        with pytest.raises(InvalidRequest, match=r"measured on 7 image\(s\); give 8 or more"):
            plan_exits(few, None)

    def test_some_plans_stand_for_a_long_front(self, found: ExitMeasurement) -> None:
        report = plan_exits(found, None).report
        row = report.front[0]
        front = tuple(replace(row, latency_ms=float(i), miou=0.3 + i / 100) for i in range(41))
        some = replace(report, front=front).some_of_front(5)
        assert [each.latency_ms for each in some] == [0, 10, 20, 30, 40]
        assert replace(report, front=front[:3]).some_of_front(5) == front[:3]

    def test_json_is_json(self, found: ExitMeasurement) -> None:
        content = json.loads(plan_exits(found, Best(1e6)).report.to_json())
        assert content["exits"][2]["confidence"] is None
        assert content["plan"]["judged"]["quality"] > 0


class TestPlots:
    def test_the_curve_shows_where_images_change_their_exits(self) -> None:
        leaving = [(0.0, 1.0), (0.4, 1.0), (0.5, 0.5), (0.6, 0.0), (0.9, 0.0), (1.01, 0.0)]
        points = [CurvePoint(threshold, (rate, 1 - rate), 1e9 * (2 - rate), 1.0, 0.5) for threshold, rate in leaving]
        rates, macs, _ = plot_curve(points, ["early", "late"]).axes
        low, high = rates.get_xlim()
        assert 0 < low < 0.4
        assert 0.6 < high < 0.9
        assert macs.lines[0].get_ydata() == pytest.approx([1, 1, 1.5, 2, 2, 2])
        flat = [CurvePoint(threshold, (1.0, 0.0), 1e9, 1.0, 0.5) for threshold in (0.0, 1.01)]
        assert plot_curve(flat, ["early", "late"]).axes[0].get_xlim() == (0, 1.01)

    def test_the_front_names_every_exit_and_marks_the_plan(self, found: ExitMeasurement) -> None:
        report = plan_exits(found, Fastest(1.0)).report
        (axes,) = plot_front(report).axes
        assert [text.get_text() for text in axes.texts] == ["exit1", "exit2", "final"]
        assert axes.lines[0].get_xdata() == pytest.approx([row.latency_ms for row in report.front])
        assert axes.get_legend_handles_labels()[1][-1] == "chosen"


class TestPlannedBundle:
    def plan(self, found: ExitMeasurement, thresholds: dict[str, float]) -> ExitPlan:
        by_name: dict[str, Candidate] = {candidate.name: candidate for candidate in found.candidates}
        exits = tuple(PlannedExit(by_name[name], threshold) for name, threshold in thresholds.items())
        return ExitPlan(exits, run_plan(exits, found.records(), found.costs(speculative=True)))

    def test_it_does_what_the_plan_says(
        self, found: ExitMeasurement, exits_bundle: Bundle, frames: Frames, tmp_path: Path
    ) -> None:
        middle = [float(np.median(found.confidence[index])) for index in range(2)]
        plans = [
            {"exit1": middle[0], "exit2": middle[1], "final": 0.0},
            {"exit1": middle[0], "final": 0.0},
            {"exit2": middle[1], "final": 0.0},
            {"exit1": middle[0], "exit2": 0.0},
            {"exit2": 0.0},
        ]
        for number, thresholds in enumerate(plans):
            plan = self.plan(found, thresholds)
            written = write_planned(exits_bundle, found.exits, plan, tmp_path / str(number))
            bundle = read_bundle(written.path)
            labelled = [s.name for s in bundle.manifest.stages if any(o.name == "labels" for o in s.outputs)]
            assert labelled == list(thresholds)
            results = infer(bundle, frames)
            answered = [result.labels_from for result in results]
            assert plan.outcome.rates == tuple(answered.count(name) / len(frames) for name in thresholds)
            assert len(plan.outcome.rates) == 1 or 0 < plan.outcome.rates[0] < 1
            assert plan.outcome.quality == pytest.approx(miou(results, frames))

    def test_thetas_are_in_the_spec_and_the_manifest(
        self, found: ExitMeasurement, exits_bundle: Bundle, tmp_path: Path
    ) -> None:
        plan = self.plan(found, {"exit1": 0.75, "final": 0.0})
        manifest = write_planned(exits_bundle, found.exits, plan, tmp_path / "plan").manifest
        selects = {stage.name: stage.select for stage in manifest.stages if stage.select is not None}
        assert {name: select.policy for name, select in selects.items()} == {"segment2": ThresholdPolicy(theta=0.25)}
        assert [stage.select for stage in manifest.spec.stages if stage.select] == [ThresholdPolicy(theta=0.25)]
