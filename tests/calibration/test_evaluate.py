"""Evaluation on real graphs: every row is what independent runs of the pipeline and plain arithmetic give."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle, StageEntry, read_bundle
from cascadert.calibration.evaluate import EvaluateOptions, evaluate, mean_uncertainty
from cascadert.calibration.evaluation import EvaluatedFrame, Evaluation, EvaluationRow, Sample
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.oracles import block_oracle, pixel_oracle
from cascadert.errors import GridError, InvalidRequest, ParityError
from cascadert.geometry import Grid
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Result
from cascadert.spec import LatencyPolicy, SelectPolicy, ThresholdPolicy, TopKPolicy

EVERY, NONE = ThresholdPolicy(theta=-1.0), ThresholdPolicy(theta=99.0)


def samples_of(bundle: Bundle, frames: np.ndarray) -> list[Sample]:
    """Labels of four classes, unlabelled at the top; each camera sees a frame of its own."""
    cameras, found = bundle.spec.frame.cameras, []
    for first in range(0, len(frames) - cameras + 1, cameras):
        image = frames[first : first + cameras]
        truth = (image[..., 0] // 64).astype(np.uint8)
        truth[:, :4] = 255
        planes = planes_from_rgb(image, bundle.spec.frame.pixel_format)
        found.append(Sample(f"street {first}", image, planes, truth))
    return found


def rows_of(evaluation: Evaluation) -> dict[str, EvaluationRow]:
    return {row.name: row for row in evaluation.rows}


def infer(bundle: Bundle, samples: list[Sample], policies: dict[str, SelectPolicy]) -> list[Result]:
    with open_pipeline(bundle, RuntimeOptions(mode="serial", threads=1, tensors="all")) as pipeline:
        return [pipeline.infer(sample.planes, policies) for sample in samples]


def quality(labels: list[np.ndarray], samples: list[Sample]) -> tuple[float, float]:
    matrix = ConfusionMatrix(4)
    for found, sample in zip(labels, samples, strict=True):
        matrix.add(found, sample.truth)
    return matrix.accuracy(), matrix.mean_iou()


@pytest.fixture(scope="module")
def samples(toy_bundle: Bundle, toy_frames: np.ndarray) -> list[Sample]:
    return samples_of(toy_bundle, toy_frames[:4])


@pytest.fixture(scope="module")
def shown() -> list[EvaluatedFrame]:
    return []


@pytest.fixture(scope="module")
def evaluation(toy_bundle: Bundle, samples: list[Sample], shown: list[EvaluatedFrame]) -> Evaluation:
    return evaluate(toy_bundle, samples, EvaluateOptions(blocks=(8, 40), threads=1), shown.append)


class TestTwoStages:
    def test_every_row_is_there(self, evaluation: Evaluation) -> None:
        assert [(row.kind, row.name) for row in evaluation.rows] == [
            ("stage", "fast"),
            ("stage", "accurate"),
            ("random", "random blocks"),
            ("cascade", "cascade"),
            ("block oracle", "block oracle, 16x16 every 12x12"),
            ("block oracle", "block oracle, 8x8"),
            ("block oracle", "block oracle, 40x40"),
            ("pixel oracle", "pixel oracle"),
        ]
        assert (evaluation.faster, evaluation.better) == ("fast", "accurate")
        assert evaluation.pixels == 4 * 36 * 56

    def test_stages_and_cascade_are_what_the_pipeline_gives(
        self, toy_bundle: Bundle, samples: list[Sample], evaluation: Evaluation
    ) -> None:
        rows = rows_of(evaluation)
        for name, policies in (("fast", {"accurate": NONE}), ("accurate", {"accurate": EVERY}), ("cascade", {})):
            results = infer(toy_bundle, samples, policies)
            assert (rows[name].accuracy, rows[name].miou) == quality([r.labels for r in results], samples)
        (taken,) = rows["cascade"].taken
        wanted = np.mean([result.runs[-1].n for result in infer(toy_bundle, samples, {})])
        assert (taken.mean_n, taken.blocks, taken.stage) == (wanted, toy_bundle.spec.blocks, "accurate")
        assert 0 < taken.mean_n < taken.blocks

    def test_oracles_choose_between_the_two(
        self, toy_bundle: Bundle, samples: list[Sample], evaluation: Evaluation
    ) -> None:
        rows, grid = rows_of(evaluation), toy_bundle.spec.make_grid()
        fast, accurate = (
            [result.labels[0] for result in infer(toy_bundle, samples, {"accurate": policy})]
            for policy in (NONE, EVERY)
        )
        sides = list(zip(fast, accurate, (sample.truth[0] for sample in samples), strict=True))
        blocks = [block_oracle(*side, grid)[None] for side in sides]
        small = [block_oracle(*side, Grid(40, 56, (8, 8), (8, 8)))[None] for side in sides]
        for name, labels in (
            ("pixel oracle", [pixel_oracle(*side)[None] for side in sides]),
            ("block oracle, 16x16 every 12x12", blocks),
            ("block oracle, 8x8", small),
        ):
            assert (rows[name].accuracy, rows[name].miou) == quality(labels, samples)

    def test_bounds_are_bounds(self, evaluation: Evaluation) -> None:
        right = {row.name: row.accuracy for row in evaluation.rows}
        own = right["block oracle, 16x16 every 12x12"]
        assert max(right["fast"], right["accurate"], right["cascade"], right["random blocks"]) <= own
        assert own <= right["pixel oracle"]
        assert right["block oracle, 8x8"] <= right["pixel oracle"]
        assert right["fast"] < right["pixel oracle"]

    def test_random_blocks_are_as_many_as_the_cascades(self, evaluation: Evaluation) -> None:
        rows = rows_of(evaluation)
        assert rows["random blocks"].taken[0].mean_n == rows["cascade"].taken[0].mean_n
        low, high = sorted((rows["fast"].accuracy, rows["accurate"].accuracy))
        assert low - 0.1 < rows["random blocks"].accuracy < high + 0.1

    def test_frames_are_shown_as_they_were_counted(
        self, evaluation: Evaluation, shown: list[EvaluatedFrame], samples: list[Sample]
    ) -> None:
        assert [frame.sample for frame in shown] == samples
        rows = rows_of(evaluation)
        oracle = rows["block oracle, 16x16 every 12x12"]
        assert np.mean([len(frame.oracle.blocks) for frame in shown]) == oracle.taken[0].mean_n
        assert np.mean([len(frame.refined or ()) for frame in shown]) == rows["cascade"].taken[0].mean_n
        missed = sum(frame.missed_pixels for frame in shown)
        assert missed == round((oracle.accuracy - rows["cascade"].accuracy) * evaluation.pixels)

    def test_the_other_way_round(self, toy_bundle: Bundle, samples: list[Sample], evaluation: Evaluation) -> None:
        """Nothing decides which blocks `fast` refines of `accurate`: no random blocks. Bounds hold for any two."""
        turned = rows_of(evaluate(toy_bundle, samples, EvaluateOptions(("accurate", "fast"), threads=1)))
        assert "random blocks" not in turned
        assert turned["pixel oracle"].accuracy == rows_of(evaluation)["pixel oracle"].accuracy

    def test_json_has_no_nan(self, evaluation: Evaluation) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        content = json.loads(evaluation.to_json(), parse_constant=refuse)
        assert content["rows"][0]["name"] == "fast"
        assert content["rows"][3]["taken"][0]["blocks"] == 15


def test_a_chain_has_a_row_and_a_decision_for_every_stage(chain_bundle: Bundle, toy_frames: np.ndarray) -> None:
    samples = samples_of(chain_bundle, toy_frames[:2])
    evaluation = evaluate(chain_bundle, samples, EvaluateOptions(threads=1))
    rows = rows_of(evaluation)
    assert [row.name for row in evaluation.rows if row.kind == "stage"] == ["fast", "middle", "accurate"]
    assert [taken.stage for taken in rows["cascade"].taken] == ["middle", "accurate"]
    assert "random blocks" not in rows  # what accurate refines is chosen of middle's blocks
    results = infer(chain_bundle, samples, {"middle": EVERY, "accurate": EVERY})
    for name in ("fast", "middle", "accurate"):
        labels = [result.tensors[f"{name}.labels"] for result in results]
        assert (rows[name].accuracy, rows[name].miou) == quality(labels, samples)
    pair = rows_of(evaluate(chain_bundle, samples, EvaluateOptions(("fast", "middle"), threads=1)))
    assert pair["random blocks"].taken[0].mean_n == rows["cascade"].taken[0].mean_n


def test_cameras_are_refined_each_in_its_own_blocks(cameras_bundle: Bundle, toy_frames: np.ndarray) -> None:
    samples, shown = samples_of(cameras_bundle, toy_frames[:4]), list[EvaluatedFrame]()
    rows = rows_of(evaluate(cameras_bundle, samples, EvaluateOptions(threads=1), shown.append))
    grid = cameras_bundle.spec.make_grid()
    assert rows["block oracle, 16x16 every 12x12"].taken[0].blocks == 2 * grid.size
    for frame in shown:
        for camera, truth in enumerate(frame.sample.truth):
            sides = (frame.labels.stages[name][camera] for name in ("fast", "accurate"))
            assert np.array_equal(frame.oracle.labels[camera], block_oracle(*sides, truth, grid))
    assert {block // grid.size for frame in shown for block in frame.oracle.blocks} == {0, 1}


def test_policies_that_follow_the_clock_refine_a_quarter(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    fast, accurate = toy_bundle.manifest.stages
    assert accurate.select is not None
    select = accurate.select.model_copy(update={"policy": LatencyPolicy(budget_ms=5.0)})
    stages = (fast, accurate.model_copy(update={"select": select}))
    timed = Bundle(toy_bundle.path, toy_bundle.manifest.model_copy(update={"stages": stages}))
    samples = samples_of(toy_bundle, toy_frames[:2])
    row = rows_of(evaluate(timed, samples, EvaluateOptions(threads=1)))["cascade"]
    wanted = infer(toy_bundle, samples, {"accurate": TopKPolicy(k=4)})
    assert row.taken[0].mean_n == 4  # of 15
    assert (row.accuracy, row.miou) == quality([result.labels for result in wanted], samples)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"stages": ("fast", "slow")}, "stage 'slow': is none that labels; choose two of fast, accurate"),
            ({"stages": ("fast", "fast")}, "stage 'fast': is compared with itself; choose two of fast, accurate"),
        ],
    )
    def test_stages(self, toy_bundle: Bundle, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidRequest, match=f"^{message}$"):
            evaluate(toy_bundle, [], EvaluateOptions(**options))

    def test_blocks_larger_than_the_frame(self, toy_bundle: Bundle) -> None:
        with pytest.raises(GridError, match="the frame's height is 40 pixels"):
            evaluate(toy_bundle, [], EvaluateOptions(blocks=(41,)))

    def test_one_stage_that_labels(self, toy_bundle: Bundle) -> None:
        (fast, accurate) = toy_bundle.manifest.stages
        alone: tuple[StageEntry, ...] = (fast, accurate.model_copy(update={"outputs": ()}))
        bundle = Bundle(toy_bundle.path, toy_bundle.manifest.model_copy(update={"stages": alone}))
        with pytest.raises(InvalidRequest, match="compares stages that label, and there is only fast; let two stages"):
            evaluate(bundle, [])

    def test_no_frames(self, toy_bundle: Bundle) -> None:
        with pytest.raises(InvalidRequest, match="evaluation: there was no frame"):
            evaluate(toy_bundle, [], EvaluateOptions(threads=1))
        with pytest.raises(InvalidRequest, match="uncertainty of stage 'fast': it is none that emits labels and entr"):
            mean_uncertainty(toy_bundle, [], "fast", threads=1)

    def test_labels_without_a_class(self, toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
        (sample,) = samples_of(toy_bundle, toy_frames[:1])
        nothing = Sample(sample.name, sample.image, sample.planes, np.full_like(sample.truth, 255))
        with pytest.raises(ParityError, match="evaluation: no pixel of any frame has a label"):
            evaluate(toy_bundle, [nothing], EvaluateOptions(threads=1)).check()


def test_a_bundle_on_disk_gives_the_same(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    samples, options = samples_of(toy_bundle, toy_frames[:1]), EvaluateOptions(threads=1)
    again = read_bundle(Path(toy_bundle.path))
    assert evaluate(again, samples, options).to_json() == evaluate(toy_bundle, samples, options).to_json()
