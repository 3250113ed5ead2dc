"""Bundles of fewer stages: equal to an export of them, and to the whole bundle where nothing leaves at what is gone."""

from pathlib import Path

import numpy as np
import pytest

from cascadert.bundle import Bundle, BundleManifest, CalibrationEntry, QualityRow, read_bundle
from cascadert.calibration.parity import ParityOptions, check_parity
from cascadert.errors import InvalidRequest, SpecError
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.rewire import until, with_thetas, without_stages, write_rewired
from cascadert.runtime.open import open_graphs, open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Result
from cascadert.scenes import SceneOptions, render
from cascadert.spec import ThresholdPolicy, TopKPolicy

ONWARD = TopKPolicy(k=1)
NEVER = ThresholdPolicy(theta=-0.01)  # leave here never: the next segment runs whatever the score


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.stack([render(i, 40 * i, SceneOptions(height=128, width=256)).image for i in range(8)])


def infer(bundle: Bundle, frames: np.ndarray, policies: dict | None = None, manifest: BundleManifest | None = None):
    options = RuntimeOptions(mode="serial", threads=1, tensors="all")
    used = manifest or bundle.manifest
    with open_graphs(used, {stage.name: bundle.graphs[stage.name] for stage in used.stages}, options) as pipeline:
        return [pipeline.infer(frame, policies or {}) for frame in frames]


@pytest.fixture(scope="module")
def every(exits_bundle: Bundle, frames: np.ndarray) -> list[Result]:
    return infer(exits_bundle, frames, {"segment2": ONWARD, "segment3": ONWARD})


@pytest.fixture(scope="module")
def budgeted(exits_spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("until")
    return export_bundle(exits_spec, folder / "bundle", ExportOptions(random_weights=0, until="exit2"))


class TestUntil:
    def test_what_is_cut_from_a_bundle_is_what_is_exported(
        self, exits_bundle: Bundle, budgeted: Bundle, tmp_path: Path
    ) -> None:
        shorter = until(exits_bundle.manifest, "exit2")
        assert shorter == budgeted.manifest
        cut = read_bundle(write_rewired(exits_bundle, shorter, tmp_path / "cut").path)
        assert cut.manifest == budgeted.manifest
        assert {name: graph.onnx for name, graph in cut.graphs.items()} == {
            name: graph.onnx for name, graph in budgeted.graphs.items()
        }

    def test_it_has_no_later_weights(self, exits_bundle: Bundle, budgeted: Bundle) -> None:
        stages = [stage.name for stage in budgeted.manifest.stages]
        assert stages == ["segment1", "segment2", "exit2"]
        parameters = {stage.name: stage.network.parameters for stage in exits_bundle.manifest.stages}
        assert [stage.network.parameters for stage in budgeted.manifest.stages] == [parameters[n] for n in stages]
        files = [path for path in (budgeted.path / "stages").iterdir() if path.is_file()]
        assert {path.stem for path in files} == set(stages)

    def test_it_decides_nothing_and_gives_the_labels_of_that_exit(
        self, budgeted: Bundle, frames: np.ndarray, every: list[Result]
    ) -> None:
        for found, whole in zip(infer(budgeted, frames), every, strict=True):
            assert [(run.outcome, run.n) for run in found.runs] == [("ran", None)] * 3
            assert found.labels_from == "exit2"
            np.testing.assert_array_equal(found.labels, whole.tensors["exit2.labels"])

    def test_parity(self, budgeted: Bundle) -> None:
        check_parity(budgeted, None, ParityOptions(frames=2, threads=1)).check()

    def test_cost_rises_with_every_exit(self, exits_bundle: Bundle) -> None:
        manifests = [until(exits_bundle.manifest, last) for last in ("exit1", "exit2", "final")]
        macs = [sum(stage.network.macs for stage in manifest.stages) for manifest in manifests]
        assert macs == sorted(set(macs))

    def test_a_stage_without_labels_is_no_end(self, exits_bundle: Bundle) -> None:
        with pytest.raises(SpecError, match="until 'segment2': makes no labels"):
            until(exits_bundle.manifest, "segment2")


class TestWithout:
    @pytest.mark.parametrize("gone", [{"exit1"}, {"exit2"}, {"exit1", "exit2"}, {"final", "segment3"}])
    def test_is_the_whole_where_nothing_leaves_there(
        self, gone: set[str], exits_bundle: Bundle, frames: np.ndarray, every: list[Result]
    ) -> None:
        leads = {"exit1": "segment2", "exit2": "segment3"}
        thetas = {stage: float(np.median([r.tensors[f"{e}.scores"][0] for r in every])) for e, stage in leads.items()}
        shorter = with_thetas(without_stages(exits_bundle.manifest, gone), {
            stage: thetas[stage] for exit, stage in leads.items() if exit not in gone and stage not in gone
        })  # fmt: skip
        policies = {stage: NEVER if exit in gone else ThresholdPolicy(theta=thetas[stage]) for exit, stage in
                    leads.items()}  # fmt: skip
        if "final" in gone:
            policies["segment3"] = TopKPolicy(k=0)
        wanted, found = infer(exits_bundle, frames, policies), infer(exits_bundle, frames, manifest=shorter)
        assert [each.labels_from for each in found] == [each.labels_from for each in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one.labels, other.labels)
        if len(gone) == 1:
            assert len({each.labels_from for each in found}) == 2  # some leave early, some do not

    def test_decisions_and_stand_ins_go_to_what_is_kept(self, exits_bundle: Bundle) -> None:
        shorter = without_stages(exits_bundle.manifest, {"exit1"})
        entries = {stage.name: stage for stage in shorter.stages}
        assert [name for name, entry in entries.items() if entry.select is not None] == ["segment3"]
        assert [name for name, entry in entries.items() if entry.speculative] == ["segment3"]
        assert {o.when_skipped for o in entries["exit2"].outputs} == {None}
        assert {o.when_skipped for o in entries["final"].outputs} == {"exit2.labels"}
        other = without_stages(exits_bundle.manifest, {"exit2"})
        assert {o.when_skipped for o in other.stages[-1].outputs} == {"exit1.labels"}

    def test_parity(self, exits_bundle: Bundle, tmp_path: Path) -> None:
        shorter = without_stages(exits_bundle.manifest, {"exit1"})
        bundle = read_bundle(write_rewired(exits_bundle, shorter, tmp_path / "shorter").path)
        check_parity(bundle, None, ParityOptions(frames=2, threads=1)).check()

    def test_what_others_need_stays(self, exits_bundle: Bundle, chain_bundle: Bundle) -> None:
        with pytest.raises(SpecError, match="stage 'segment1': is needed by 'exit1'; keep it, or leave out both"):
            without_stages(exits_bundle.manifest, {"segment1"})
        with pytest.raises(SpecError, match="stage 'middle': is needed by 'accurate'"):
            without_stages(chain_bundle.manifest, {"middle"})
        with pytest.raises(SpecError, match="make no labels"):
            without_stages(exits_bundle.manifest, {"exit1", "exit2", "final"})

    def test_a_cascade_of_blocks_can_lose_its_last_stage(self, toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
        alone = infer(toy_bundle, toy_frames, manifest=without_stages(toy_bundle.manifest, {"accurate"}))
        with open_pipeline(toy_bundle, RuntimeOptions(mode="serial", threads=1)) as pipeline:
            wanted = [pipeline.infer(frame, {"accurate": TopKPolicy(k=0)}).labels for frame in toy_frames]
        np.testing.assert_array_equal([each.labels for each in alone], wanted)


class TestThetas:
    def refitted(self, bundle: Bundle) -> BundleManifest:
        quality = QualityRow(
            numerics="fp16", label_agreement=1.0, sqnr_db={}, score_errors={}, iou_selected_before=1.0,
            iou_selected=1.0, mean_n=1.0,
        )  # fmt: skip
        calibration = CalibrationEntry(source="streets", images=8, images_sha256="0" * 64, seed=0, chosen={
            stage.name: {"cpu": "min-max"} for stage in bundle.manifest.stages
        }, quality=(quality,))  # fmt: skip
        stages = tuple(
            stage.model_copy(update={"select": stage.select.model_copy(update={"thetas": {"fp16": 0.31}})})
            if stage.select
            else stage
            for stage in bundle.manifest.stages
        )
        return bundle.manifest.model_copy(update={"stages": stages, "calibration": calibration})

    def test_what_was_refitted_goes_with_the_threshold_that_it_was_for(self, exits_bundle: Bundle) -> None:
        found = with_thetas(self.refitted(exits_bundle), {"segment2": 0.5, "segment3": 0.2})
        selects = {stage.name: stage.select for stage in found.stages if stage.select is not None}
        assert (selects["segment2"].policy, selects["segment2"].thetas) == (ThresholdPolicy(theta=0.5), {})
        assert (selects["segment3"].policy, selects["segment3"].thetas) == (ThresholdPolicy(theta=0.2), {"fp16": 0.31})
        assert {s.name: s.select for s in found.spec.stages if s.select} == {
            name: select.policy for name, select in selects.items()
        }

    def test_a_calibration_is_kept_for_stages_and_not_for_the_cascade(self, exits_bundle: Bundle) -> None:
        found = without_stages(self.refitted(exits_bundle), {"exit1"}).calibration
        assert found is not None
        assert list(found.chosen) == ["segment1", "segment2", "exit2", "segment3", "final"]
        assert found.quality == ()

    def test_there_must_be_a_decision(self, exits_bundle: Bundle) -> None:
        with pytest.raises(InvalidRequest, match="theta of 'exit2': decides by no threshold"):
            with_thetas(exits_bundle.manifest, {"exit2": 0.5})
