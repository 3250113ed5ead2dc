"""The confidence of an image (paper 004, eqs. 7 to 9): its meaning, a reference in NumPy, and every backend's form."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cascadert.engines.process import run_worker
from cascadert.engines.recipe import EngineRecipe
from cascadert.export.confidence import Confidence, label_edges, top_probability, windows
from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.graph import Dialect
from cascadert.stage_spec import Smoothing

SMOOTHINGS = get_args(Smoothing)
SMOOTH = {"mean": np.mean, "median": np.median, "max": np.max}

logits_arrays = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(2, 4), st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(-8, 8, width=32),
)


def by_the_book(logits: np.ndarray, pixel: float | None, smoothing: Smoothing, window: int) -> np.ndarray:
    """Equations 7 to 9 in float64, pixel by pixel."""
    z = np.exp(logits.astype(np.float64))
    c_map = (z / z.sum(axis=1, keepdims=True)).max(axis=1)
    labels = logits.argmax(axis=1)
    smoothed = c_map.copy()
    n, height, width = labels.shape
    for i, row, column in np.ndindex(n, height, width):
        beside = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        inside = [(r, c) for r, c in beside if 0 <= r < height and 0 <= c < width]
        if smoothing != "none" and any(labels[i, r, c] != labels[i, row, column] for r, c in inside):
            rows = np.clip(np.arange(row - window, row + window + 1), 0, height - 1)
            columns = np.clip(np.arange(column - window, column + window + 1), 0, width - 1)
            smoothed[i, row, column] = SMOOTH[smoothing](c_map[i][np.ix_(rows, columns)])
    return (smoothed if pixel is None else smoothed >= pixel).mean(axis=(1, 2))


def confidence(logits: np.ndarray, pixel: float | None, smoothing: Smoothing = "none", window: int = 2) -> np.ndarray:
    found: np.ndarray = Confidence(pixel, smoothing, window)(torch.from_numpy(logits)).numpy()
    assert found.dtype == np.float32 and found.shape == logits.shape[:1]
    return found


def two_objects(shares_at_edge: float = 0.55, inside: float = 0.99) -> np.ndarray:
    """Two sure halves `[1, 2, 20, 20]`, and two columns of doubt where they meet."""
    right = np.full((20, 20), inside)
    right[:, 9:11] = shares_at_edge
    right[:, :10] = 1 - right[:, :10]
    probabilities = np.stack([1 - right, right])[None]
    return np.log(probabilities).astype(np.float32)


def random_logits(shape: tuple[int, ...], scale: float = 2.0, seed: int = 0) -> np.ndarray:
    """Noise in patches of 3x3, so that there are objects with edges."""
    n, classes, height, width = shape
    coarse = np.random.default_rng(seed).normal(0, scale, (n, classes, -(-height // 3), -(-width // 3)))
    fine = np.random.default_rng(seed + 1).normal(0, scale / 4, shape)
    return (coarse.repeat(3, 2).repeat(3, 3)[:, :, :height, :width] + fine).astype(np.float32)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("pixel", [None, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_equals_the_equations_in_float64(smoothing: Smoothing, pixel: float | None, window: int) -> None:
    logits = random_logits((2, 5, 13, 11))
    wanted = by_the_book(logits, pixel, smoothing, window)
    assert 0.02 < wanted.min() <= wanted.max() < 1
    assert np.abs(confidence(logits, pixel, smoothing, window) - wanted).max() < 1e-6


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_smoothing_changes_the_result_at_edges_only(smoothing: Smoothing) -> None:
    logits = torch.from_numpy(random_logits((1, 5, 24, 24)))
    plain, edges = top_probability(logits), label_edges(logits)
    assert 0.1 < edges.float().mean() < 0.9
    module = Confidence(None, smoothing, 2)
    changed = torch.zeros_like(edges)
    if smoothing != "none":
        changed = (module._smoothed(windows(plain, 2)) != plain) & edges
        assert changed.any()
    difference = module(logits) - plain.mean()
    assert bool(changed.any()) == (abs(float(difference)) > 1e-4)


@given(logits_arrays.filter(lambda logits: logits.size > 0), st.sampled_from(SMOOTHINGS))
@settings(max_examples=40, deadline=None)
def test_all_pixels_confident_is_1_and_none_is_0(logits: np.ndarray, smoothing: Smoothing) -> None:
    certain = logits.copy()
    certain[:, 0] += 100
    assert confidence(certain, 0.999, smoothing).tolist() == [1.0] * len(logits)
    assert confidence(np.zeros_like(logits), 0.51, smoothing).tolist() == [0.0] * len(logits)


@given(logits_arrays, st.sampled_from(SMOOTHINGS), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_higher_pixel_threshold_never_raises_it(
    logits: np.ndarray, smoothing: Smoothing, one: float, other: float
) -> None:
    low, high = sorted((one, other))
    assert (confidence(logits, high, smoothing) <= confidence(logits, low, smoothing)).all()


@given(logits_arrays, st.floats(0.1, 1), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_maximum_of_a_window_never_lowers_it(logits: np.ndarray, pixel: float, window: int) -> None:
    assert (confidence(logits, pixel, "max", window) >= confidence(logits, pixel)).all()


@pytest.mark.parametrize("smoothing", ["median", "max"])
def test_smoothing_discounts_the_edges_of_sure_objects(smoothing: Smoothing) -> None:
    logits = two_objects()
    mean, share = confidence(logits, None), confidence(logits, 0.9)
    assert share == pytest.approx(0.9) and mean == pytest.approx(0.1 * 0.55 + 0.9 * 0.99)
    assert confidence(logits, 0.9, smoothing) == 1.0


def test_the_spread_between_good_and_bad_images_widens_as_in_table_9() -> None:
    """Paper 004, table 9: eq. 7 is below the mean, smoothing is above eq. 7, and images are further apart."""
    good, bad = two_objects(), two_objects(inside=0.85)
    spread = {}
    for name, settings_ in {"mean": (None, "none"), "eq7": (0.9, "none"), "eq7+9": (0.9, "median")}.items():
        spread[name] = float((confidence(good, *settings_) - confidence(bad, *settings_)).item())  # type: ignore[arg-type]
    assert confidence(good, 0.9) < confidence(good, None)
    assert spread["mean"] < spread["eq7"] < spread["eq7+9"]


def test_windows_repeat_the_border() -> None:
    values = torch.arange(6.0).view(1, 2, 3)
    around = windows(values, 1)
    assert around[0, :, 0, 0].tolist() == [0, 0, 1, 0, 0, 1, 3, 3, 4]
    assert around[0, :, 1, 2].tolist() == [1, 2, 2, 4, 5, 5, 4, 5, 5]
    assert torch.equal(windows(values, 3)[:, 24], values)


def run(content: bytes, logits: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"logits": logits})[0]
    return result


@pytest.mark.parametrize(
    "smoothing", ["median", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("none", "mean", "max"))]
)
def test_every_form_equals_pytorch_and_stays_small(smoothing: Smoothing) -> None:
    module, example = Confidence(0.7, smoothing, 2), random_logits((2, 4, 33, 47))
    graph = export_graph(module, {"logits": torch.from_numpy(example)}, ["confidence"])
    assert [str(spec) for spec in graph.outputs] == ["confidence float32 [2]"]
    forms = [graph, lower(graph, "onnxruntime"), lower(graph, "tensorrt")]
    for seed in range(3):
        logits = random_logits((2, 4, 33, 47), seed=seed)
        wanted = confidence(logits, 0.7, smoothing)
        for form in forms:
            np.testing.assert_allclose(run(form.onnx, logits), wanted, atol=1e-6, err_msg=form.dialect)
    assert len(onnx.load_model_from_string(forms[-1].onnx).graph.node) < 40


@pytest.mark.parametrize("compute_capability", ["7.5", pytest.param("8.6", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "smoothing", ["median", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mean", "max"))]
)
def test_tensorrt_rtx_builds_it_at_full_size(smoothing: Smoothing, compute_capability: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    graph = export_graph(Confidence(0.9, smoothing, 2), {"logits": torch.zeros(1, 19, 128, 256)}, ["confidence"])
    recipe = EngineRecipe(
        "exit", lower(graph, "tensorrt"), "fp32", "tensorrt-rtx", compute_capability, strongly_typed=True, shapes={}
    )
    assert run_worker(recipe, tmp_path, "confidence", 60, lambda _: None).engine.startswith(b"vtrt")


@pytest.mark.parametrize("dialect", ["semantic", "onnxruntime", "tensorrt"])
def test_logits_that_are_no_numbers_show(dialect: Dialect) -> None:
    logits = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 2, 3, 4] = torch.nan
    network = Confidence(0.9, "median", 1)
    assert network(logits).isnan().all()
    graph = export_graph(network, {"y": logits}, ["c"])
    graph = graph if dialect == "semantic" else lower(graph, dialect)
    session = onnxruntime.InferenceSession(graph.onnx, providers=["CPUExecutionProvider"])
    assert np.isnan(session.run(None, {"y": logits.numpy()})[0]).all()
