"""Labels put together from single runs are those of the pipeline, and what depends on n is really run."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascadert.bundle import Bundle, BundleManifest, write_bundle
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.refit import Recording
from cascadert.calibration.tuning_report import EVERY, FAST, PIXEL_ORACLE
from cascadert.calibration.tuning_sweep import (
    THETAS,
    composed_labels,
    composes,
    kept_tensors,
    own_thetas,
    run_frame,
    sweep,
)
from cascadert.errors import InvalidRequest
from cascadert.export.compile import export_bundle
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.spec import ThresholdPolicy

Planes = dict[str, np.ndarray]


def opened(bundle: Bundle) -> Pipeline:
    return open_pipeline(bundle, RuntimeOptions(mode="serial", threads=1, tensors=kept_tensors(bundle.manifest)))


def planes_of(bundle: Bundle, images: np.ndarray) -> list[Planes]:
    """Cut images, uint8 `[I, H, W, 3]`, into frames of as many cameras as there are."""
    cameras = bundle.spec.frame.cameras
    groups = (images[i : i + cameras] for i in range(0, len(images), cameras))
    return [planes_from_rgb(group, bundle.spec.frame.pixel_format) for group in groups]


def truths_of(bundle: Bundle, count: int) -> list[np.ndarray]:
    """Any labels will do to count with."""
    frame, rng = bundle.spec.frame, np.random.default_rng(0)
    shape = (frame.cameras, frame.height, frame.width)
    return [rng.choice([0, 1, 2, 3, 255], shape).astype(np.uint8) for _ in range(count)]


def check_against_the_pipeline(bundle: Bundle, frames: list[Planes]) -> None:
    """Every theta of a sweep gives the n and the labels that the pipeline gives."""
    truths, (stage,) = truths_of(bundle, len(frames)), own_thetas(bundle.manifest)
    with opened(bundle) as pipeline:
        found = sweep(pipeline, Recording(frames, truths), range(len(frames)))
        assert found.composed
        runs = [run_frame(pipeline, planes, truth) for planes, truth in zip(frames, truths, strict=True)]
        counts = set()
        for (theta,), counted in zip(found.thetas, found.at, strict=True):
            assert counted.n is not None
            for index, (planes, run) in enumerate(zip(frames, runs, strict=True)):
                real = pipeline.infer(planes, {stage: ThresholdPolicy(theta=theta)})
                n = next(one.n for one in real.runs if one.stage == stage)
                labels, composed_n = composed_labels(run, stage, theta, bundle.spec.make_grid())
                assert composed_n == counted.n[index, 0] == n
                np.testing.assert_array_equal(labels, real.labels)
                matrix = ConfusionMatrix(bundle.spec.num_classes)
                matrix.add(real.labels, run.truth)
                np.testing.assert_array_equal(counted.confusion[index], matrix.counts)
                counts.add(n)
    assert len(counts) > 3, "thetas differ in what they refine"


def test_overlapping_blocks_with_a_halo(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    check_against_the_pipeline(toy_bundle, planes_of(toy_bundle, toy_frames[:3]))


def test_two_cameras(cameras_bundle: Bundle, toy_frames: np.ndarray) -> None:
    check_against_the_pipeline(cameras_bundle, planes_of(cameras_bundle, toy_frames[:4]))


@pytest.mark.parametrize("kind", ["context", "ensemble"])
def test_carried_features_and_ensembles(
    kind: str, system: Callable[[str], Bundle], system_frames: list[Planes]
) -> None:
    check_against_the_pipeline(system(kind), system_frames[:2])


def test_ends_and_bounds(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    frames = planes_of(toy_bundle, toy_frames[:2])
    truths = truths_of(toy_bundle, 2)
    with opened(toy_bundle) as pipeline:
        found = sweep(pipeline, Recording(frames, truths), [0])
    assert len(found.thetas) in (THETAS, THETAS + 1)
    assert (1.05,) in found.thetas
    lowest, highest = found.at[0], found.at[-1]
    np.testing.assert_array_equal(lowest.confusion[0], found.references[EVERY].confusion[0])
    np.testing.assert_array_equal(highest.confusion[0], found.references[FAST].confusion[0])
    right = {kind: np.einsum("fkk->", counted.confusion) for kind, counted in found.references.items()}
    assert max(right.values()) == right[PIXEL_ORACLE]


def with_merge(folder: Path, data: dict[str, Any], save: Callable[[Path, dict[str, Any]], Path], path: Path) -> Bundle:
    data = copy.deepcopy(data)
    data["name"], data["stages"][1]["merge"] = "average", "average"
    return export_bundle(save(folder, data), path)


def test_averaged_overlaps_are_run(
    toy_folder: Path, toy_data: dict[str, Any], save_spec: Callable[[Path, dict[str, Any]], Path], tmp_path: Path,
    toy_frames: np.ndarray,
) -> None:  # fmt: skip
    bundle = with_merge(toy_folder, toy_data, save_spec, tmp_path / "average")
    assert not composes(bundle.manifest)
    frames = planes_of(bundle, toy_frames[:1])
    truths = truths_of(bundle, 1)
    with opened(bundle) as pipeline:
        found = sweep(pipeline, Recording(frames, truths), [0])
        run, grid = run_frame(pipeline, frames[0], truths[0]), bundle.spec.make_grid()
        differs = 0
        for (theta,), counted in zip(found.thetas, found.at, strict=True):
            matrix = ConfusionMatrix(4)
            labels = pipeline.infer(frames[0], {"accurate": ThresholdPolicy(theta=theta)}).labels
            matrix.add(labels, truths[0])
            np.testing.assert_array_equal(counted.confusion[0], matrix.counts)
            differs += not np.array_equal(labels, composed_labels(run, "accurate", theta, grid)[0])
    assert not found.composed
    assert differs, "here putting blocks together would have been wrong"


def test_two_decisions_are_run_together(chain_bundle: Bundle, toy_frames: np.ndarray) -> None:
    frames, truths = planes_of(chain_bundle, toy_frames[:2]), truths_of(chain_bundle, 2)
    with opened(chain_bundle) as pipeline:
        found = sweep(pipeline, Recording(frames, truths), [0, 1])
    assert not found.composed
    assert found.stages == ("middle", "accurate")
    assert len({first for first, _ in found.thetas}) > 3
    assert (1.05, 1.0) in found.thetas
    for counted in found.at:
        assert counted.n is not None
        assert (counted.n[:, 1] <= counted.n[:, 0]).all(), "the last refines among what the middle one did"


def test_decisions_without_a_threshold_are_refused(toy_bundle: Bundle, tmp_path: Path) -> None:
    data = json.loads(toy_bundle.manifest.to_json())
    data["stages"][1]["select"]["policy"] = {"policy": "top-k", "k": 2}
    bundle = write_bundle(tmp_path / "top-k", BundleManifest.model_validate(data), toy_bundle.graphs)
    with pytest.raises(InvalidRequest, match="theta of 'toy': stage 'accurate' decides by top-k; export it with"):
        own_thetas(bundle.manifest)
