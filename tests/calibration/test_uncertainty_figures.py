"""Uncertainty of a small ensemble, exported and run: its parts add up, and PAvPU is that of its maps."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cascadert.bundle import Bundle
from cascadert.calibration.evaluate import EvaluateOptions, evaluate, mean_uncertainty
from cascadert.calibration.evaluation import EvaluatedFrame, Evaluation, Sample, UncertaintyFigures
from cascadert.calibration.instances import instance_uncertainty
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.pavpu import PAvPU
from cascadert.calibration.uncertainty_figures import UncertaintyOptions, UncertaintyTally
from cascadert.errors import InvalidRequest, ParityError
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions

ENSEMBLE = """
import math
import torch
import torch.nn.functional as F
from torch import nn


def member(stride=4):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=stride, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)
    )


class Ensemble(nn.Module):
    def __init__(self, stride=1):
        super().__init__()
        self.members = nn.ModuleList([member(stride), member(stride)])

    def forward(self, pixels):
        p = torch.stack([4 * one(pixels) for one in self.members]).softmax(2)
        mean = p.mean(0)
        aleatoric = -(p * p.log()).sum(2, keepdim=True).mean(0) / math.log(2)
        total = -(mean * mean.log()).sum(1, keepdim=True) / math.log(2)
        return {"logits": mean.log(), "aleatoric": aleatoric, "epistemic": total - aleatoric}
"""
SIZE = (24, 32)

Export = Callable[..., Bundle]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, save_spec: Any) -> Export:
    """`export(...)` makes a bundle of one member and the ensemble, with arguments of the latter's network."""

    def export(emit: tuple[str, ...] = (), **args: Any) -> Bundle:
        folder = tmp_path_factory.mktemp("ensemble")
        (folder / "networks.py").write_text(ENSEMBLE)
        both = ["labels", "scores", "order", "entropy", "aleatoric", "epistemic", *emit]
        data = {
            "name": "ensemble",
            "classes": {"names": ["a", "b", "c", "d"], "palette": [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90]]},
            "frame": {"height": SIZE[0], "width": SIZE[1]},
            "grid": {"block": 8},
            "stages": [
                {"name": "member", "model": "networks.py:member", "input": "frame", "emit": ["logits"]},
                {"name": "reduce", "model": "networks.py:Ensemble", "args": args, "input": "frame", "emit": both},
            ],
        }
        return export_bundle(save_spec(folder, data), folder / "bundle", ExportOptions(random_weights=2))

    return export


@pytest.fixture(scope="module")
def ensemble(export: Export) -> Bundle:
    return export()


@pytest.fixture(scope="module")
def samples(toy_frames: np.ndarray) -> list[Sample]:
    images = toy_frames[:3, : SIZE[0], : SIZE[1]]
    truths = (images[..., 0] // 64).astype(np.uint8)
    truths[:, :3] = 255
    return [Sample(str(i), images[i : i + 1], {"frame": images[i : i + 1]}, truths[i : i + 1]) for i in range(3)]


@pytest.fixture(scope="module")
def threshold(ensemble: Bundle, samples: list[Sample]) -> float:
    return mean_uncertainty(ensemble, [sample.planes for sample in samples[1:]], "reduce", threads=1)


@pytest.fixture(scope="module")
def maps(ensemble: Bundle, samples: list[Sample]) -> list[dict[str, np.ndarray]]:
    with open_pipeline(ensemble, RuntimeOptions(mode="serial", threads=1, tensors="all")) as pipeline:
        return [dict(pipeline.infer(sample.planes).tensors) for sample in samples]


@pytest.fixture(scope="module")
def shown() -> list[EvaluatedFrame]:
    return []


@pytest.fixture(scope="module")
def evaluation(ensemble: Bundle, samples: list[Sample], threshold: float, shown: list[EvaluatedFrame]) -> Evaluation:
    options = EvaluateOptions(uncertainty=UncertaintyOptions("reduce", threshold, (1, 4)), threads=1)
    return evaluate(ensemble, samples, options, shown.append)


@pytest.fixture(scope="module")
def figures(evaluation: Evaluation) -> UncertaintyFigures:
    assert evaluation.uncertainty is not None
    return evaluation.uncertainty


def test_threshold_is_the_mean_of_the_training_frames_alone(
    maps: list[dict[str, np.ndarray]], threshold: float
) -> None:
    entropy = np.stack([tensors["reduce.entropy"] for tensors in maps])
    assert threshold == pytest.approx(entropy[1:].mean(dtype=np.float64), rel=1e-12)
    assert threshold != pytest.approx(entropy.mean(), rel=1e-4)


def test_parts_add_up_and_the_epistemic_is_positive(evaluation: Evaluation, figures: UncertaintyFigures) -> None:
    evaluation.check()
    assert figures.identity_error is not None
    assert 0 < figures.identity_error < 1e-5
    assert figures.least_epistemic is not None
    assert figures.least_epistemic >= -1e-6
    means = figures.means
    assert means["entropy"] == pytest.approx(means["aleatoric"] + means["epistemic"], abs=1e-5)
    assert means["epistemic"] > 0.01  # the members differ


def test_a_member_without_labels_is_judged_by_its_logits(
    evaluation: Evaluation, maps: list[dict[str, np.ndarray]], samples: list[Sample]
) -> None:
    matrix = ConfusionMatrix(4)
    for tensors, sample in zip(maps, samples, strict=True):
        logits = torch.from_numpy(tensors["member.logits"])
        upsampled = torch.nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=False)
        matrix.add(upsampled.argmax(1).to(torch.uint8).numpy(), sample.truth)
    member, reduce, *_ = evaluation.rows
    assert (member.name, member.accuracy, member.miou) == ("member", matrix.accuracy(), matrix.mean_iou())
    assert reduce.name == "reduce"


def test_pavpu_is_that_of_the_ensembles_labels_and_entropy(
    figures: UncertaintyFigures, maps: list[dict[str, np.ndarray]], samples: list[Sample], threshold: float
) -> None:
    for row in figures.pavpu:
        wanted = PAvPU(threshold, row.window)
        for tensors, sample in zip(maps, samples, strict=True):
            wanted.add(tensors["reduce.labels"], sample.truth, tensors["reduce.entropy"])
        counts = row.accurate_certain, row.accurate_uncertain, row.inaccurate_certain, row.inaccurate_uncertain
        assert (row.value, sum(counts)) == (wanted.value(), wanted.windows)
        assert row.accurate_certain == wanted.accurate_certain > 0
        assert row.inaccurate_uncertain == wanted.inaccurate_uncertain > 0
    assert [row.window for row in figures.pavpu] == [1, 4]


def test_frames_show_their_maps(shown: list[EvaluatedFrame], maps: list[dict[str, np.ndarray]]) -> None:
    for frame, tensors in zip(shown, maps, strict=True):
        assert frame.uncertainty is not None
        assert frame.uncertainty.most == 2
        assert list(frame.uncertainty.maps) == ["entropy", "aleatoric", "epistemic", "entropy by instance"]
        by_instance = instance_uncertainty(tensors["reduce.labels"][0], tensors["reduce.entropy"][0])
        assert np.allclose(frame.uncertainty.maps["entropy by instance"][0], by_instance)
        assert np.array_equal(frame.uncertainty.maps["epistemic"][0], tensors["reduce.epistemic"][0, 0])


def test_parts_at_the_networks_stride_are_compared_there(export: Export, samples: list[Sample]) -> None:
    options = EvaluateOptions(uncertainty=UncertaintyOptions("reduce", 1.0), threads=1)
    evaluation = evaluate(export(("logits",), stride=4), samples, options)
    evaluation.check()
    assert evaluation.uncertainty is not None
    assert evaluation.uncertainty.identity_error is not None
    with pytest.raises(InvalidRequest, match=r"'aleatoric' of stage 'reduce': is \[1, 6, 8\] where entropy is \[1, 24"):
        evaluate(export(stride=4), samples, options)


def test_a_nan_of_one_pixel_is_not_lost(ensemble: Bundle, maps: list[dict[str, np.ndarray]]) -> None:
    tally = UncertaintyTally(ensemble.manifest, UncertaintyOptions("reduce", 1.0))
    truth = np.zeros((1, *SIZE), np.uint8)
    broken = maps[1]["reduce.aleatoric"].copy()
    broken[0, 0, 5, 5] = np.nan
    for tensors in (maps[0], {**maps[1], "reduce.aleatoric": broken}, maps[2]):
        tally.add(tensors, truth)
    with pytest.raises(ParityError, match=r"^entropy of stage 'reduce': aleatoric and epistemic miss it by up to nan"):
        tally.figures().check()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"identity_error": 1.1e-5},
            "entropy of stage 'reduce': aleatoric and epistemic miss it by up to 1.1e-05 bits; ",
        ),
        ({"least_epistemic": -2e-6}, "epistemic uncertainty of stage 'reduce': is as low as -2.0e-06 bits; "),
    ],
)
def test_parts_that_do_not_add_up_fail(figures: UncertaintyFigures, found: dict[str, float], message: str) -> None:
    replace(figures, identity_error=1e-5, least_epistemic=-1e-6).check()
    with pytest.raises(ParityError, match=f"^{re.escape(message)}"):
        replace(figures, **found).check()


def test_refused(ensemble: Bundle) -> None:
    for stage in ("member", "nobody"):
        message = f"uncertainty of stage '{stage}': it is none that emits labels and entropy; choose of reduce"
        with pytest.raises(InvalidRequest, match=message):
            evaluate(ensemble, [], EvaluateOptions(uncertainty=UncertaintyOptions(stage, 1.0)))
    with pytest.raises(InvalidRequest, match="window 0: is no number of pixels"):
        UncertaintyOptions("reduce", 1.0, (0,))
