"""Samples are what the networks of real cascades see, within bounds."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cascadert.bundle import Bundle, BundleManifest, write_bundle
from cascadert.calibration.samples import SampleOptions, _window, collect
from cascadert.errors import InvalidRequest
from cascadert.export.compile import rebuild_stages
from cascadert.geometry import Grid
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions

ONE = SampleOptions(threads=1)


def planes(frames: np.ndarray, cameras: int = 1, pixel_format: Any = "rgb8") -> list[dict[str, np.ndarray]]:
    """Cut frames `[m, H, W, 3]` into what one submission takes."""
    return [planes_from_rgb(frames[i : i + cameras], pixel_format) for i in range(0, len(frames), cameras)]


def with_theta(bundle: Bundle, path: Path, theta: float) -> Bundle:
    """Write the bundle again with another threshold before its second stage."""
    data = json.loads(bundle.manifest.to_json())
    data["stages"][1]["select"]["policy"]["theta"] = theta
    return write_bundle(path, BundleManifest.model_validate(data), bundle.graphs)


@pytest.mark.parametrize(
    ("fixture", "cameras", "pixel_format"),
    [("toy_bundle", 1, "rgb8"), ("cameras_bundle", 2, "rgb8"), ("chain_bundle", 1, "nv12")],
)
def test_they_are_what_the_torch_stages_see_of_what_the_pipeline_picks(
    request: pytest.FixtureRequest, toy_frames: np.ndarray, fixture: str, cameras: int, pixel_format: str
) -> None:
    bundle: Bundle = request.getfixturevalue(fixture)
    frames = planes(toy_frames, cameras, pixel_format)
    samples = collect(bundle, frames, ONE)
    modules = dict(zip([stage.name for stage in bundle.manifest.stages], rebuild_stages(bundle), strict=True))
    wanted: dict[str, list[np.ndarray]] = {name: [] for name in modules}
    with open_pipeline(bundle, RuntimeOptions(mode="serial", threads=1)) as pipeline:
        results = [pipeline.infer(frame) for frame in frames]
    for number, (frame, result) in enumerate(zip(frames, results, strict=True)):
        for run in result.runs:
            arguments = [torch.from_numpy(plane) for plane in frame.values()]
            if run.n is not None:
                assert run.order is not None and run.scores is not None
                selection = samples.selections[run.stage][number]
                assert (selection.n, selection.scores.tolist()) == (run.n, run.scores.tolist())
                assert selection.order.tolist() == run.order.tolist()
                arguments += [torch.from_numpy(run.order[: run.n]), torch.empty(0)]
            if run.n != 0:
                wanted[run.stage].append(modules[run.stage].network_inputs(*arguments)[0].numpy())
    for name, arrays in wanted.items():
        pixels = np.concatenate(arrays)
        assert samples.seen[name].keys() == {"pixels"}
        seen = samples.seen[name]["pixels"]
        assert seen.dtype == np.float32
        assert np.array_equal(seen.shape, pixels.shape)
        assert np.allclose(seen, pixels, atol=1e-5)
        assert samples.offered[name] == (len(pixels) if name in samples.selections else len(frames))
    assert samples.frames == len(frames)


@pytest.mark.parametrize("weighting", ["classes", "uncertainty"])
def test_limits_hold_and_the_seed_decides(toy_bundle: Bundle, toy_frames: np.ndarray, weighting: Any) -> None:
    options = SampleOptions(frames=2, blocks=5, weighting=weighting, seed=3, threads=1)
    first, again = (collect(toy_bundle, planes(toy_frames), options) for _ in range(2))
    assert {name: len(seen["pixels"]) for name, seen in first.seen.items()} == {"fast": 2, "accurate": 5}
    assert first.offered["accurate"] > 5
    for name, seen in first.seen.items():
        assert np.array_equal(seen["pixels"], again.seen[name]["pixels"])
    others = [collect(toy_bundle, planes(toy_frames), replace(options, seed=seed)) for seed in range(4, 8)]
    assert not all(
        np.array_equal(other.seen["accurate"]["pixels"], first.seen["accurate"]["pixels"]) for other in others
    )


def test_weights_by_uncertainty_draw_other_blocks(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    def drawn(weighting: Any, seed: int) -> np.ndarray:
        options = SampleOptions(blocks=5, weighting=weighting, seed=seed, threads=1)
        return collect(toy_bundle, planes(toy_frames), options).seen["accurate"]["pixels"]

    assert any(not np.array_equal(drawn("classes", seed), drawn("uncertainty", seed)) for seed in range(6))


def test_classes_are_those_of_the_truth_where_there_is_one(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    """One frame of six has a class of its own: half of the weight, not a sixth."""
    truths = [np.zeros((1, 40, 56), np.uint8) for _ in range(6)]
    truths[4][:] = 3
    truths[4][:, :5] = 255
    every = collect(toy_bundle, planes(toy_frames), ONE).seen["fast"]["pixels"]

    def times(given: list[np.ndarray] | None) -> int:
        options = (SampleOptions(frames=1, seed=seed, threads=1) for seed in range(12))
        kept = (collect(toy_bundle, planes(toy_frames), o, given).seen["fast"]["pixels"][0] for o in options)
        return sum(np.array_equal(pixels, every[4]) for pixels in kept)

    assert times(truths) >= 4
    assert times([np.zeros((1, 40, 56), np.uint8)] * 6) < 4


def test_the_digest_is_of_the_frames_in_order(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    frames = planes(toy_frames[:3])
    digest = collect(toy_bundle, frames, ONE).frames_sha256
    assert len(digest) == 64
    assert collect(toy_bundle, iter(frames), replace(ONE, seed=9)).frames_sha256 == digest
    assert collect(toy_bundle, frames[::-1], ONE).frames_sha256 != digest
    changed = toy_frames[:3].copy()
    changed[1, 7, 7, 1] ^= 1
    assert collect(toy_bundle, planes(changed), ONE).frames_sha256 != digest


def test_frames_are_read_once_and_one_at_a_time(toy_bundle: Bundle, toy_frames: np.ndarray) -> None:
    done: list[int] = []

    def reading() -> Iterator[dict[str, np.ndarray]]:
        for number, frame in enumerate(planes(toy_frames)):
            assert len(done) == number
            yield frame

    collect(toy_bundle, reading(), ONE, progress=done.append)
    assert done == [1, 2, 3, 4, 5, 6]


def test_a_stage_that_got_no_block_is_an_error(toy_bundle: Bundle, toy_frames: np.ndarray, tmp_path: Path) -> None:
    message = r"^calibration of stage 'accurate': selection picked no block in 2 frames; lower theta, or give other"
    with pytest.raises(InvalidRequest, match=message):
        collect(with_theta(toy_bundle, tmp_path / "high", 99.0), planes(toy_frames[:2]), ONE)


def test_a_stage_after_one_that_was_skipped_sees_no_scores(
    chain_bundle: Bundle, toy_frames: np.ndarray, tmp_path: Path
) -> None:
    """A theta that some frames do not reach: there the last stage decides about nothing."""
    frames = planes(toy_frames, pixel_format="nv12")
    best = [float(s.scores[0]) for s in collect(chain_bundle, frames, ONE).selections["middle"]]
    between = with_theta(chain_bundle, tmp_path / "between", sum(sorted(best)[1:3]) / 2)
    samples = collect(between, frames, ONE)
    skipped = [selection.n == 0 for selection in samples.selections["middle"]]
    assert sum(skipped) == 2
    for was, selection in zip(skipped, samples.selections["accurate"], strict=True):
        assert (len(selection.scores) == 0) is was


@pytest.mark.parametrize(
    ("truths", "message"),
    [
        ([np.zeros((1, 40, 56), np.uint8)], r"^labels: end before frame 1; give one for each frame$"),
        ([np.zeros((40, 56), np.uint8)], r"^labels of frame 0: are \[40, 56\]; fit them to \[1, 40, 56\]$"),
        ([np.full((1, 40, 56), 4, np.uint8)], r"^labels of frame 0: hold label 4 where there are 4 classes; check the"),
    ],
)
def test_truths_that_do_not_fit_are_refused(
    toy_bundle: Bundle, toy_frames: np.ndarray, truths: list[np.ndarray], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        collect(toy_bundle, planes(toy_frames[:2]), ONE, truths)


def test_wrong_requests_are_refused(toy_bundle: Bundle) -> None:
    with pytest.raises(InvalidRequest, match=r"^calibration: there was no frame; give frames$"):
        collect(toy_bundle, [], ONE)
    with pytest.raises(InvalidRequest, match=r"^blocks: is 0; give 1 or more$"):
        SampleOptions(blocks=0)
    with pytest.raises(InvalidRequest, match=r"^weighting: is 'luck'; choose classes or uncertainty$"):
        SampleOptions(weighting="luck")  # type: ignore[arg-type]


def test_a_block_is_found_on_a_smaller_map() -> None:
    grid = Grid(40, 56, (16, 16), (12, 12))
    full = np.arange(2 * 40 * 56).reshape(2, 40, 56)
    top, left, bottom, right = grid.box(7)
    assert np.array_equal(_window(full, grid, grid.size + 7), full[1, top:bottom, left:right])
    quarter = full[:, ::4, ::4]
    assert np.array_equal(_window(quarter, grid, 7), quarter[0, top // 4 : bottom // 4, left // 4 : right // 4])
    for index in range(grid.size):
        assert _window(full[:, ::20, ::28], grid, index).size >= 1
