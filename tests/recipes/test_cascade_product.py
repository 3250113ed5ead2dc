"""Composed maps are what the product gives, on a tiny cascade that is exported and run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.cascade_bundles import cascade_bundle
from experiments.cascade_clips import AccurateStage, Clip, FastStage, thinned
from experiments.cascade_counts import count_blocks, miou_of
from experiments.cascade_maps import accurate_maps, fast_maps, selective_labels
from experiments.cascade_stages import grid_of
from experiments.cascade_times import medians_in_turn
from files import save_weights

from cascadert.classes import CAMVID
from cascadert.export.models import enet, pspnet_small
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.scenes import SceneOptions, render
from cascadert.spec import ThresholdPolicy


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Three streets with networks of random weights, whose scores lie apart."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save_weights(enet(11), folder / "enet.safetensors")
    save_weights(pspnet_small(11), folder / "pspnet_small.safetensors")
    streets = [render(seed, 0, SceneOptions(height=64, width=96)) for seed in range(3)]
    frames, truths = (np.stack([getattr(one, what) for one in streets]) for what in ("image", "labels"))
    names, fast, accurate = CAMVID.names, FastStage((32, 48)), AccurateStage((32, 32), halo=8, enlarge=1.0)
    return Clip("tiny", "camvid", names, frames, np.minimum(truths, 10), folder, fast, accurate)


@pytest.mark.slow
def test_composition_is_what_the_product_gives(clip: Clip, tmp_path: Path) -> None:
    fast, accurate = fast_maps(tmp_path, clip, clip.fast), accurate_maps(tmp_path, clip, clip.accurate)
    grid = grid_of(clip, clip.accurate)
    scores = fast.scores(grid)
    counts = count_blocks(fast.labels, accurate.labels, clip.truths, grid, scores, 11)
    thetas = [-1.0, float(np.median(scores)) + 1e-4, float(np.quantile(scores, 0.8)) + 1e-4, 9.0]
    bundle = cascade_bundle(tmp_path, clip, clip.fast, clip.accurate)
    with open_pipeline(bundle, RuntimeOptions(mode="serial", threads=1)) as pipeline:
        for theta in thetas:
            results = [pipeline.infer(frame, {"accurate": ThresholdPolicy(theta=theta)}) for frame in clip.frames]
            labels = np.concatenate([result.labels for result in results])
            assert [result.runs[1].n for result in results] == counts.above(theta).sum(1).tolist()
            assert counts.miou(counts.above(theta)) == pytest.approx(miou_of(labels, clip.truths, 11), abs=1e-9)
            np.testing.assert_array_equal(selective_labels(tmp_path, clip, clip.accurate, fast, theta), labels)
        run = pipeline.infer(clip.frames[0]).runs[1]
    assert run.order is not None and run.scores is not None
    np.testing.assert_allclose(scores[0][run.order], run.scores, atol=1e-5)
    assert bundle.path == cascade_bundle(tmp_path, clip, clip.fast, clip.accurate).path  # found again

    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    np.testing.assert_array_equal(fast_maps(tmp_path, clip, clip.fast).entropy, fast.entropy)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")} == written
    fewer = fast_maps(tmp_path, thinned(clip, 2), clip.fast)
    np.testing.assert_array_equal(fewer.labels, fast.labels[::2])


def test_times_are_medians_taken_in_turn() -> None:
    calls: list[str] = []
    ticks = iter([0.0, 1.0, 1.0, 4.0, 4.0, 6.0, 6.0, 7.0])  # two rounds: a takes 1 and 2 s, b takes 3 and 1 s
    timed = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert medians_in_turn(timed, 2, lambda: next(ticks)) == {"a": 1500.0, "b": 2000.0}
    assert calls == ["a", "b"] * 3  # the first of each warms up
