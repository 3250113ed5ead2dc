"""Comparing precisions on real graphs: the numbers are those of independent runs, and what is broken fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from cascadert.bundle import Bundle, BundleManifest, calibration_part, read_bundle, write_bundle
from cascadert.calibration.metrics import ConfusionMatrix, sqnr_db
from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions, offered_numerics
from cascadert.calibration.precision_report import PrecisionReport
from cascadert.calibration.ranges import measure_ranges
from cascadert.calibration.stage_runs import LOGITS, GraphRunner
from cascadert.errors import InvalidRequest, ParityError
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.network import network_graph
from cascadert.export.precision import as_measured
from cascadert.precision import Numerics, QuantizationPlan, StageCalibration
from cascadert.runtime.open import open_graphs
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Result
from cascadert.spec import ThresholdPolicy

ONE_THREAD = PrecisionOptions(threads=1)
SIZE = (48, 64)
WIDE = """
from torch import nn

def wide(stride=2):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=stride, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1),
    )
"""


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory, save_spec: Any) -> Bundle:
    """Networks that are wide enough to be quantized."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "networks.py").write_text(WIDE)
    stage = {"model": "networks.py:wide"}
    data = {
        "name": "wide",
        "classes": {"names": ["a", "b", "c", "d"], "palette": [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90]]},
        "frame": {"height": SIZE[0], "width": SIZE[1]},
        "grid": {"block": 16},
        "stages": [
            {"name": "fast", "args": {"stride": 4}, **stage},
            {"name": "accurate", "halo": 4, "select": {"policy": "threshold", "theta": 1.0}, **stage},
        ],
    }
    return export_bundle(save_spec(folder, data), folder / "bundle", ExportOptions(random_weights=3))


@pytest.fixture(scope="module")
def streets() -> list[dict[str, np.ndarray]]:
    from cascadert.scenes import SceneOptions, render

    images = [render(seed, 0, SceneOptions(height=64, width=64)).image[: SIZE[0]] for seed in range(5)]
    return [{"frame": image[None]} for image in images]


def calibrated(bundle: Bundle, path: Path, shrink: float = 1.0, thetas: dict[Numerics, float] | None = None) -> Bundle:
    """Write a bundle with int8 ranges `shrink` times those of random pixels, and refitted thetas."""
    calibrations, stages = {}, []
    for stage in bundle.manifest.stages:
        pixels = np.random.default_rng(0).normal(size=(4, *stage.network.input_shapes[0][1:])).astype(np.float32)
        measured = measure_ranges(network_graph(bundle.graphs[stage.name]), {"pixels": pixels}, threads=1)
        ranges = {name: (shrink * low, shrink * high) for name, (low, high) in measured.extremes.items()}
        plan = QuantizationPlan(calibrator="min-max", ranges=ranges)
        found = StageCalibration(
            schema="cascadert-calibration-1", peaks=measured.peaks, int8={"tensorrt": plan, "cpu": plan}
        )
        select = stage.select and stage.select.model_copy(update={"thetas": thetas or {}})
        calibrations[stage.name] = found
        stages.append(stage.model_copy(update={"select": select, "calibration": calibration_part(stage.name, found)}))
    manifest = bundle.manifest.model_copy(update={"stages": tuple(stages)})
    write_bundle(path, manifest, bundle.graphs, calibrations)
    return read_bundle(path)


@pytest.fixture(scope="module")
def int8_bundle(wide_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return calibrated(wide_bundle, tmp_path_factory.mktemp("int8") / "bundle")


@pytest.fixture(scope="module")
def int8_report(int8_bundle: Bundle, streets: list[dict[str, np.ndarray]]) -> PrecisionReport:
    return compare_precisions(int8_bundle, streets, ONE_THREAD, [street_truth(street) for street in streets])


def street_truth(street: dict[str, np.ndarray]) -> np.ndarray:
    """Labels that depend on the picture, a fifth of them unknown."""
    brightness = street["frame"][..., 1]
    return np.where(street["frame"][..., 0] % 5 == 0, 255, brightness // 64).astype(np.uint8)


def pipeline_results(
    bundle: Bundle, numerics: Numerics, streets: list[dict[str, np.ndarray]], theta: float = 1.0
) -> list[Result]:
    """What the runtime makes of the same graphs."""
    graphs = {name: as_measured(graph, numerics, bundle.calibrations[name]) for name, graph in bundle.graphs.items()}
    options = RuntimeOptions(mode="serial", threads=1, tensors="all")
    with open_graphs(bundle.manifest, graphs, options) as pipeline:
        return [pipeline.infer(street, {"accurate": ThresholdPolicy(theta=theta)}) for street in streets]


def rewritten(bundle: Bundle, path: Path, change: Callable[[dict[str, Any]], None]) -> Bundle:
    data = json.loads(bundle.manifest.to_json())
    change(data)
    return write_bundle(path, BundleManifest.model_validate(data), bundle.graphs, bundle.calibrations)


class TestRows:
    def test_without_calibration(self, toy_bundle: Bundle) -> None:
        report = compare_precisions(toy_bundle, options=PrecisionOptions(threads=1, frames=2))
        assert [row.name for row in report.rows] == ["fp32", "torch", "fp16"]
        assert report.frames == 2
        report.check()
        fp32, torch, fp16 = report.rows
        assert fp32.label_agreement == torch.label_agreement == 1.0
        assert fp32.score_errors["fast"].mean == 0.0
        assert torch.sqnr_db["fast"] > 100 > fp16.sqnr_db["fast"] > 40
        assert 0 < fp16.score_errors["fast"].mean < 0.01
        assert all(row.quality is None for row in report.rows)

    def test_with_calibration(self, int8_bundle: Bundle, int8_report: PrecisionReport) -> None:
        assert offered_numerics(int8_bundle) == ("fp32", "fp16", "int8-tensorrt", "int8-cpu")
        assert [row.name for row in int8_report.rows] == ["fp32", "torch", "fp16", "int8-tensorrt", "int8-cpu"]
        for stage in ("fast", "accurate"):
            noise = [row.sqnr_db[stage] for row in int8_report.rows]
            assert noise[0] == np.inf
            assert noise[1] > noise[2] > max(noise[3:])
            assert min(noise) > 10
        error = int8_report.row("int8-cpu").score_errors["fast"]
        assert error.p99 > error.mean > 0

    def test_only_what_was_asked_for(self, int8_bundle: Bundle, streets: list[dict[str, np.ndarray]]) -> None:
        options = PrecisionOptions(numerics=("int8-cpu",), torch=False, threads=1)
        assert [row.name for row in compare_precisions(int8_bundle, streets[:1], options).rows] == ["fp32", "int8-cpu"]

    def test_int8_without_calibration_is_refused(self, toy_bundle: Bundle) -> None:
        with pytest.raises(InvalidRequest, match=r"precision int8-cpu: not every stage was calibrated .* fp32, fp16"):
            compare_precisions(toy_bundle, options=PrecisionOptions(numerics=("int8-cpu",)))

    def test_torch_is_left_out_where_its_weights_are_gone(self, toy_bundle: Bundle, tmp_path: Path) -> None:
        def move(data: dict[str, Any]) -> None:
            data["spec_folder"] = str(tmp_path / "gone")

        moved = rewritten(toy_bundle, tmp_path / "bundle", move)
        report = compare_precisions(moved, options=PrecisionOptions(numerics=(), threads=1, frames=1))
        assert [row.name for row in report.rows] == ["fp32"]
        (note,) = report.notes
        assert "PyTorch is left out" in note
        assert "which is not there" in note

    def test_chains_and_cameras(self, chain_bundle: Bundle, cameras_bundle: Bundle) -> None:
        options = PrecisionOptions(threads=1, frames=2)
        chain = compare_precisions(chain_bundle, options=options)
        chain.check()
        assert chain.row("fp16").mean_n.keys() == {"middle", "accurate"}
        assert {decision.stage for decision in chain.decisions} == {"middle", "accurate"}
        compare_precisions(cameras_bundle, options=options).check()


class TestNumbers:
    """Against the runtime's pipeline, and metrics over all frames at once."""

    @pytest.mark.parametrize("numerics", ["fp16", "int8-tensorrt", "int8-cpu"])
    def test_labels_and_selection(
        self,
        numerics: Numerics,
        int8_bundle: Bundle,
        int8_report: PrecisionReport,
        streets: list[dict[str, np.ndarray]],
    ) -> None:
        wanted, found = (pipeline_results(int8_bundle, each, streets) for each in ("fp32", numerics))
        row = int8_report.row(numerics)
        agree = [np.mean(a.labels == b.labels) for a, b in zip(wanted, found, strict=True)]
        assert row.label_agreement == pytest.approx(np.mean(agree))
        sets = [[set(r.runs[-1].order[: r.runs[-1].n].tolist()) for r in results] for results in (wanted, found)]
        union = sum(len(a | b) for a, b in zip(*sets, strict=True))
        assert row.after["accurate"].iou == sum(len(a & b) for a, b in zip(*sets, strict=True)) / union
        assert row.mean_n["accurate"] == np.mean([len(each) for each in sets[1]])
        assert 0 < row.mean_n["accurate"] < int8_bundle.spec.blocks

    def test_noise_and_entropy(
        self, int8_bundle: Bundle, int8_report: PrecisionReport, streets: list[dict[str, np.ndarray]]
    ) -> None:
        logits, scores = {}, {}
        for numerics in ("fp32", "int8-cpu"):
            graph, found = int8_bundle.graphs["fast"], int8_bundle.calibrations["fast"]
            runner = GraphRunner("fast", as_measured(graph, numerics, found), 1)
            outputs = [runner.run(street) for street in streets]
            logits[numerics] = np.stack([each[LOGITS] for each in outputs])
            scores[numerics] = np.stack([each["scores"][np.argsort(each["order"])] for each in outputs])
        row = int8_report.row("int8-cpu")
        assert row.sqnr_db["fast"] == pytest.approx(sqnr_db(logits["fp32"], logits["int8-cpu"]))
        errors = np.abs(scores["fp32"] - scores["int8-cpu"])
        assert row.score_errors["fast"].mean == pytest.approx(errors.mean())
        assert row.score_errors["fast"].p99 == pytest.approx(np.percentile(errors, 99))
        (decision,) = [each for each in int8_report.decisions if each.row == "int8-cpu"]
        np.testing.assert_array_equal(decision.found, scores["int8-cpu"])
        np.testing.assert_array_equal(decision.wanted, scores["fp32"] > 1.0)

    def test_labels_of_a_refining_stage_count_where_it_refines(
        self, int8_bundle: Bundle, int8_report: PrecisionReport, streets: list[dict[str, np.ndarray]]
    ) -> None:
        graph, found, different, refined = int8_bundle.graphs["accurate"], int8_bundle.calibrations["accurate"], 0, 0
        runner = GraphRunner("accurate", as_measured(graph, "int8-cpu", found), 1)
        for street, result in zip(streets, pipeline_results(int8_bundle, "fp32", streets), strict=True):
            decision = result.runs[-1]
            prior = result.tensors["fast.labels"]
            outputs = runner.run({**street, "indices": decision.order[: decision.n], "prior_labels": prior})
            different += np.count_nonzero(outputs["labels"] != result.labels)
            refined += decision.n * 16 * 16
        assert different > 0
        assert int8_report.row("int8-cpu").stage_agreement["accurate"] == pytest.approx(1 - different / refined)

    def test_quality(
        self, int8_bundle: Bundle, int8_report: PrecisionReport, streets: list[dict[str, np.ndarray]]
    ) -> None:
        fast, cascade = ConfusionMatrix(4), ConfusionMatrix(4)
        for street, result in zip(streets, pipeline_results(int8_bundle, "int8-cpu", streets), strict=True):
            fast.add(result.tensors["fast.labels"], street_truth(street))
            cascade.add(result.labels, street_truth(street))
        quality = int8_report.row("int8-cpu").quality
        assert quality is not None
        assert (quality.miou_fast, quality.miou) == (fast.mean_iou(), cascade.mean_iou())
        np.testing.assert_array_equal(quality.class_iou, cascade.iou())
        assert quality.miou_every not in (quality.miou, quality.miou_fast)
        assert quality.pavpu == quality.pavpu_before
        assert quality.pavpu is not None
        assert 0 < quality.pavpu < 1

    def test_refitted_theta(self, wide_bundle: Bundle, streets: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
        refitted = calibrated(wide_bundle, tmp_path / "bundle", thetas={"fp16": -1.0})
        options = PrecisionOptions(numerics=("fp16",), torch=False, threads=1)
        report = compare_precisions(refitted, streets[:2], options, [street_truth(street) for street in streets[:2]])
        fp32, fp16 = report.rows
        assert fp16.mean_n["accurate"] == refitted.spec.blocks
        assert fp16.before["accurate"].iou == 1.0
        assert fp16.after["accurate"].iou == fp32.mean_n["accurate"] / refitted.spec.blocks
        before, after = (
            pipeline_results(refitted, *each) for each in (("fp32", streets[:2]), ("fp16", streets[:2], -1.0))
        )
        agree = np.mean([a.labels == b.labels for a, b in zip(before, after, strict=True)])
        assert fp16.label_agreement == agree < 1
        assert fp16.quality is not None
        assert fp16.quality.miou == fp16.quality.miou_every
        assert fp16.quality.pavpu_before != fp16.quality.pavpu
        (decision,) = report.decisions
        assert (decision.theta, decision.refitted) == (1.0, -1.0)
        assert decision.chosen.all()
        gained = sum(map(len, (exhibit.gained for exhibit in report.exhibits)))
        assert gained == len(fp16.after["accurate"].flips) > 0


class TestFailures:
    def test_ranges_that_clip(self, wide_bundle: Bundle, streets: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
        clipped = calibrated(wide_bundle, tmp_path / "bundle", shrink=0.02)
        options = PrecisionOptions(numerics=("int8-tensorrt",), torch=False, threads=1, exhibits=1)
        report = compare_precisions(clipped, streets, options)
        assert not report.passed
        with pytest.raises(ParityError, match=r"parity of int8-tensorrt: label agreement: is [\d.]+ %; the limit is"):
            report.check()
        (worst,) = report.exhibits
        assert worst.row == "int8-tensorrt"
        assert worst.differing > 0

    def test_no_block(self, toy_bundle: Bundle, tmp_path: Path) -> None:
        def raise_theta(data: dict[str, Any]) -> None:
            data["stages"][1]["select"]["policy"]["theta"] = 95.0

        strict = rewritten(toy_bundle, tmp_path / "bundle", raise_theta)
        report = compare_precisions(strict, options=PrecisionOptions(torch=False, threads=1, frames=1))
        with pytest.raises(ParityError, match="is vacuous: stage 'accurate' refined no block"):
            report.check()

    def test_one_class(self, toy_folder: Path, toy_data: dict[str, Any], save_spec: Any, tmp_path: Path) -> None:
        toy_data["name"] = "all_alike"
        toy_data["stages"] = [{"name": "fast", "model": "networks.py:Constant", "weights": "empty_state.safetensors"}]
        safetensors.torch.save_file({}, toy_folder / "empty_state.safetensors")
        constant = export_bundle(save_spec(toy_folder, toy_data), tmp_path / "bundle")
        report = compare_precisions(constant, options=PrecisionOptions(torch=False, threads=1, frames=1))
        with pytest.raises(ParityError, match="is vacuous: one class everywhere"):
            report.check()

    def test_labels_that_name_nothing(self, toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
        unknown = [np.full((1, 40, 56), 255, np.uint8)]
        options = PrecisionOptions(torch=False, threads=1)
        report = compare_precisions(toy_bundle, [{"frame": toy_frames[:1]}], options, unknown)
        with pytest.raises(ParityError, match="is vacuous: the labels name no class"):
            report.check()

    def test_no_frames_and_too_few_labels(self, toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
        options = PrecisionOptions(numerics=(), torch=False, threads=1)
        with pytest.raises(InvalidRequest, match="there was no frame"):
            compare_precisions(toy_bundle, [], options)
        frames = [{"frame": frame[None]} for frame in toy_frames[:2]]
        with pytest.raises(InvalidRequest, match="truths: are not as many as frames"):
            compare_precisions(toy_bundle, frames, options, [np.zeros((1, 40, 56), np.uint8)])
