"""Costs by hand, variants, periods of exits, and how the parts of a tuning fit together."""

import json
import os
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascadert.bundle import Bundle
from cascadert.calibration.exit_measurement import measure_exits
from cascadert.calibration.exits import Candidate, PlannedExit, run_plan
from cascadert.calibration.refit import Recording
from cascadert.calibration.tuning import TuneOptions, is_exit_chain, split_of, tune, why_not, with_refitted
from cascadert.calibration.tuning_choice import Goal
from cascadert.calibration.tuning_costs import CostModel, StageTimes, read_costs
from cascadert.calibration.tuning_curves import outcome, variant_of
from cascadert.calibration.tuning_exits import OverlappedCosts, plan_by_goal
from cascadert.calibration.tuning_sweep import Counted
from cascadert.calibration.tuning_variants import VariantOptions, make_variants, variant_specs
from cascadert.errors import BundleError, GridError, InvalidRequest
from cascadert.runtime.profiling.report import BENCH_SCHEMA

Frames = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def exit_frames(exits_streets: tuple[Path, Path]) -> Frames:
    images, labels = exits_streets
    pairs = zip(sorted(images.iterdir()), sorted(labels.iterdir()), strict=True)
    return [(np.asarray(Image.open(image))[None], np.asarray(Image.open(label))[None]) for image, label in pairs]


class TestCosts:
    def costs(self, bundle: Bundle) -> CostModel:
        serial = StageTimes({"fast": {None: 10.0}, "accurate": {1: 6.0, 3: 14.0}}, {"upload": 1.0, "download": 0.5})
        beside = StageTimes({"fast": {None: 15.0}, "accurate": {1: 9.0, 3: 21.0}}, serial.copies)
        return CostModel(bundle.manifest, serial, beside, "by hand")

    def test_a_frame(self, toy_bundle: Bundle) -> None:
        costs = self.costs(toy_bundle)
        fast, accurate = (stage.network.macs for stage in toy_bundle.manifest.stages)
        found = {n: costs.frame((n,)) for n in (0, 2, 3, 5)}
        assert {n: one.latency_ms for n, one in found.items()} == {0: 11.5, 2: 21.5, 3: 25.5, 5: 33.5}
        assert {n: one.period_ms for n, one in found.items()} == {0: 15.0, 2: 15.0, 3: 21.0, 5: 33.0}
        assert {n: one.macs for n, one in found.items()} == {n: fast + n * accurate for n in found}

    def test_means_over_frames(self, toy_bundle: Bundle) -> None:
        confusion = np.array([[[3, 1], [0, 4]], [[5, 0], [5, 0]], [[0, 9], [9, 0]]])
        counted = Counted(np.array([[0], [3], [7]]), confusion)
        found = outcome(counted, [0, 1], ["accurate"], self.costs(toy_bundle))
        assert found.latency_ms == pytest.approx((11.5 + 25.5) / 2)
        assert found.period_ms == pytest.approx((15.0 + 21.0) / 2), "of each frame the busiest stage"
        assert found.n["accurate"].mean == pytest.approx(1.5)
        assert found.n["accurate"].p95 == pytest.approx(2.85)
        assert found.quality.accuracy == pytest.approx(12 / 18)
        assert found.miou == pytest.approx((8 / 14 + 4 / 10) / 2), "sums of pixels, not means of frames"

    def test_times_that_are_none(self, toy_bundle: Bundle, tmp_path: Path) -> None:
        report = tmp_path / "bench.json"
        whole, blocks = {"frame": 1.0}, {"1": 2.0}
        for stages, copies, words in (
            ({"fast": {"4": 1.0}, "accurate": blocks}, {}, "no time of stage 'fast' for a whole frame"),
            ({"fast": whole, "accurate": blocks}, {"upload": "1"}, "copy_ms: has something else than milliseconds"),
        ):
            content = {"schema": BENCH_SCHEMA, "name": "toy", "stage_ms": stages, "copy_ms": copies}
            report.write_text(json.dumps(content))
            with pytest.raises(InvalidRequest, match=words):
                read_costs(toy_bundle.manifest, report)

    def test_a_chain_stops_where_nothing_is_refined(self, chain_bundle: Bundle) -> None:
        stages = {"fast": {None: 10.0}, "middle": {1: 2.0}, "accurate": {1: 4.0}}
        times = StageTimes(stages, {})
        costs = CostModel(chain_bundle.manifest, times, times, "by hand")
        assert costs.stages == ("middle", "accurate")
        assert [costs.frame(n).latency_ms for n in ((0, 0), (3, 0), (3, 2))] == [10.0, 16.0, 24.0]


class TestVariants:
    def test_each_once_of_the_same_networks(self, toy_bundle: Bundle) -> None:
        specs = variant_specs(toy_bundle.spec, VariantOptions((8, 16, 8), (0, 3)))
        found = [(spec.make_grid().block, spec.make_grid().stride, spec.stages[1].halo) for spec in specs]
        assert found == [((b, b), (b, b), halo) for b, halo in product((8, 16), (0, 3))]
        (halo,) = variant_specs(toy_bundle.spec, VariantOptions(halos=(5,)))
        assert halo.make_grid() == toy_bundle.spec.make_grid()
        with pytest.raises(GridError, match=r"grid\.block = 64"):
            variant_specs(toy_bundle.spec, VariantOptions((64,)))

    def test_the_bundle_itself_is_not_exported_again(self, toy_bundle: Bundle, tmp_path: Path) -> None:
        said: list[str] = []
        own, other = make_variants(toy_bundle, VariantOptions(halos=(3, 0)), tmp_path, said.append)
        assert own is toy_bundle
        assert said == ["variant 2: exporting fast", "variant 2: exporting accurate"]
        assert str(variant_of(other.manifest)) == "block 16 every 12, halo 0"
        digests = [[s.network.state_sha256 for s in bundle.manifest.stages] for bundle in (own, other)]
        assert digests[0] == digests[1]

    def test_other_weights_are_noticed(self, toy_bundle: Bundle, toy_folder: Path, tmp_path: Path) -> None:
        for name in ("networks.py", "toy.toml", "fast.safetensors", "accurate.safetensors"):
            shutil.copy(toy_folder / name, tmp_path)
        with (tmp_path / "accurate.safetensors").open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(np.float32(0.5).tobytes())
        options = VariantOptions(halos=(0,), spec=tmp_path / "toy.toml")
        with pytest.raises(
            BundleError, match=r"stage 'accurate': the weights in .* are not the ones that were exported"
        ):
            list(make_variants(toy_bundle, options, tmp_path / "work"))

    def test_exits_have_no_blocks(self, exits_bundle: Bundle) -> None:
        with pytest.raises(InvalidRequest, match="no stage sees blocks; leave --block and --halo out"):
            variant_specs(exits_bundle.spec, VariantOptions((8,)))


class TestExits:
    def test_periods_by_hand(self) -> None:
        costs = OverlappedCosts((5.0, 7.0, 20.0))
        first, second = Candidate("a", 1, 9.0), Candidate("b", 2, 1.0)
        clock = costs.after_head(np.zeros(()), first)
        assert costs.latency_ms(clock, 1) == 9.0
        clock = costs.after_head(clock, second, first)
        assert costs.latency_ms(clock, 2) == 9.0
        assert costs.latency_ms(clock, 3) == 20.0
        assert OverlappedCosts((5.0, 7.0, 20.0), speculative=True).latency_ms(clock, 2) == 20.0, "guessed in vain"

    def test_the_plan_for_a_rate_is_the_best_of_all_tried(self, exits_bundle: Bundle, exit_frames: Frames) -> None:
        recording = Recording([{"frame": image} for image, _ in exit_frames], [truth for _, truth in exit_frames])
        split = split_of(len(exit_frames))
        found = measure_exits(exits_bundle, exit_frames, threads=1)
        periods = OverlappedCosts(found.costs(speculative=False).segment_ms, speculative=True)
        records = found.records(split.seen)
        whole = run_plan([PlannedExit(found.candidates[-1], 0.0)], records, periods)
        manifest, report = plan_by_goal(
            exits_bundle, recording, split, Goal("target-fps", 1000 / (20 * whole.latency_ms)), threads=1
        )
        assert manifest is not None
        assert report.exit_choice is not None
        assert report.exits is not None
        assert report.exits.plan is not None
        assert report.exit_choice.period_ms <= 20 * whole.latency_ms
        best = max(float(alone) for alone in records.alone())
        assert report.exits.plan.miou >= best - 1e-12, "with so much time, nothing is lost"
        assert set(report.class_iou) == {"exit1 alone", "final alone", "chosen"}
        chosen = np.array(report.class_iou["chosen"])
        counts = records.truth.sum(axis=0) > 0
        assert float(chosen[counts].mean()) == pytest.approx(report.exits.plan.miou)

    def test_which_bundles_are_chains(self, exits_bundle: Bundle, toy_bundle: Bundle) -> None:
        assert is_exit_chain(exits_bundle.manifest)
        assert not is_exit_chain(toy_bundle.manifest)
        assert why_not(toy_bundle.manifest) is None


class TestTune:
    def test_what_does_not_go_together(self, toy_bundle: Bundle, tmp_path: Path) -> None:
        from cascadert.calibration.calibrate import CalibrateOptions

        with pytest.raises(InvalidRequest, match="there are no labels"):
            tune(toy_bundle, Recording([], None), tmp_path / "out", TuneOptions(), CalibrateOptions())
        with pytest.raises(InvalidRequest, match="are 0, of which every 4th is held out"):
            tune(toy_bundle, Recording([], []), tmp_path / "out", TuneOptions(), CalibrateOptions())
        with pytest.raises(InvalidRequest, match="--precision int8-tensorrt: has no kernels on a CPU"):
            TuneOptions(numerics=("fp32", "int8-tensorrt")).check()
        TuneOptions(numerics=("fp16",), profile=tmp_path / "bench.json").check()  # times of the device that has them
        labelled, int8 = Recording([{}] * 8, [np.zeros(0)] * 8), TuneOptions(numerics=("fp32", "int8-cpu"))
        with pytest.raises(InvalidRequest, match="--precision int8-cpu: is none that is calibrated here"):
            tune(toy_bundle, labelled, tmp_path / "out", int8, CalibrateOptions(dialects=("tensorrt",)))
        with pytest.raises(InvalidRequest, match="--precision int8-cpu: leaves out fp32, in which blocks"):
            TuneOptions(variants=VariantOptions((8,)), numerics=("int8-cpu",)).check()
        with pytest.raises(InvalidRequest, match=r"--spec street\.toml: .* add --block or --halo"):
            TuneOptions(variants=VariantOptions(spec=Path("street.toml"))).check()

    def test_the_split_is_that_of_calibration(self) -> None:
        split = split_of(10)
        assert (list(split.seen), list(split.held)) == ([0, 1, 2, 4, 5, 6, 8, 9], [3, 7])

    def test_thetas_of_a_precision(self, toy_bundle: Bundle) -> None:
        manifest = with_refitted(toy_bundle.manifest, {"int8-cpu": {"accurate": 0.25}})
        data = json.loads(manifest.to_json())
        assert data["stages"][1]["select"]["thetas"] == {"int8-cpu": 0.25}
        assert data["stages"][1]["select"]["policy"]["theta"] == 1.05
        assert data["stages"][0]["select"] is None
