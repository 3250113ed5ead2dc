"""Thresholds from histograms, against numpy, brute force and ONNX Runtime's own calibrators."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadert.calibration.histogram import Histogram, clipped_range
from cascadert.precision import CALIBRATORS, Range

DIALECTS = ("tensorrt", "cpu")


def histogram_of(values: np.ndarray, bins: int = 2048) -> Histogram:
    """Count values as `ranges` does."""
    values = np.asarray(values, np.float32)
    limit = float(np.abs(values).max()) or 1.0
    counts = np.histogram(values, bins, range=(-limit, limit))[0]
    return Histogram(counts, limit, int(np.count_nonzero(values == 0)), float(values.min()), float(values.max()))


def planted(kind: str, seed: int = 0, count: int = 40_000) -> np.ndarray:
    """Values as tensors of networks have them."""
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(size=count),
        "relu": np.maximum(rng.normal(size=count), 0),
        "leaky": (lambda x: np.where(x < 0, 0.1 * x, x))(rng.normal(size=count)),
        "heavy": rng.standard_t(3, size=count),
        "negative": -rng.exponential(size=count),
        "offset": rng.normal(5, 0.5, size=count),
        "uniform": rng.uniform(-1, 3, size=count),
        "outlier": np.append(rng.normal(size=count), 100.0),
    }[kind]
    return values.astype(np.float32)


KINDS = ("normal", "relu", "leaky", "heavy", "negative", "offset", "uniform", "outlier")


def squared_error(values: np.ndarray, found: Range, symmetric: bool) -> float:
    """Quantize for real: levels are multiples of the step, and what lies outside saturates."""
    low, high = found
    step = high / 127 if symmetric else (high - low) / 255
    quantized = np.clip(np.round(np.clip(values.astype(np.float64), low, high) / step) * step, low, high)
    return float(np.square(quantized - values).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_zero_is_inside_and_no_range_is_wider_than_the_values(calibrator, kind: str) -> None:
    values = planted(kind)
    low, high = clipped_range(histogram_of(values), calibrator, "cpu")
    assert min(values.min(), 0) <= low <= 0 <= high <= max(values.max(), 0)
    assert low < high
    if kind == "relu":
        assert low == 0
    low, high = clipped_range(histogram_of(values), calibrator, "tensorrt")
    assert -low == high <= np.abs(values).max()
    assert high > 0


def around(values: np.ndarray, share: float) -> tuple[float, float]:
    """Percentile by numpy, give or take one value: sums of shares round."""
    slack = 1 / values.size
    low, high = np.quantile(values, [max(share - slack, 0), min(share + slack, 1)], method="inverted_cdf")
    return float(low), float(high)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1), st.floats(-6, 6))
def test_percentiles_are_those_of_numpy(kind: str, seed: int, exponent: float) -> None:
    values = (planted(kind, seed, 20_000) * np.float32(10**exponent)).astype(np.float32)
    histogram = histogram_of(values)
    bin_width = 2 * histogram.limit / 2048
    low, high = clipped_range(histogram, "percentile", "cpu")
    least, most = around(values, 0.00005)
    assert min(least, 0) - bin_width <= low <= min(most, 0)
    least, most = around(values, 0.99995)
    assert max(least - bin_width, 0) <= high <= max(most, 0)
    least, most = around(np.abs(values), 0.9999)
    assert least - bin_width <= clipped_range(histogram, "percentile", "tensorrt")[1] <= most


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_as_good_as_any_symmetric_threshold(kind: str) -> None:
    values = planted(kind)
    _, found = clipped_range(histogram_of(values), "mse", "tensorrt")
    largest = float(np.abs(values).max())
    best = min(squared_error(values, (-t, t), True) for t in np.linspace(0.005, 1, 400) * largest)
    assert squared_error(values, (-found, found), True) <= 1.03 * best


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_as_good_as_any_pair_of_ends(kind: str) -> None:
    values = planted(kind, count=5000)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    ends = [(a, b) for a in np.linspace(low, 0, 60) for b in np.linspace(0, high, 60) if a < b]
    best = min(squared_error(values, end, False) for end in ends)
    found = clipped_range(histogram_of(values), "mse", "cpu")
    assert squared_error(values, found, False) <= 1.03 * best


def test_mse_clips_an_outlier_and_keeps_what_is_even() -> None:
    """To clip one value in 40,000 a little costs less than coarser levels for all others."""
    assert clipped_range(histogram_of(planted("outlier")), "mse", "tensorrt")[1] < 90
    even = planted("uniform")
    assert clipped_range(histogram_of(even), "mse", "cpu") == pytest.approx((even.min(), even.max()), abs=0.03)


def test_entropy_clips_an_outlier() -> None:
    _, high = clipped_range(histogram_of(planted("outlier")), "entropy", "tensorrt")
    assert 49 < high < 75  # of 100; half of the largest is the least it tries
    assert clipped_range(histogram_of(planted("uniform")), "entropy", "cpu") == pytest.approx((-1, 3), abs=0.05)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_constant_tensors_get_a_range_with_a_scale(calibrator, dialect) -> None:
    symmetric = dialect == "tensorrt"
    for value in (3.0, -0.25, 1e-30):
        low, high = clipped_range(histogram_of(np.full(100, value)), calibrator, dialect)
        assert low <= min(np.float32(value), 0) and high >= max(np.float32(value), 0)
        assert high - low == pytest.approx(abs(value) * (2 if symmetric else 1), rel=1e-3)
    for value in (0.0, 1e-40):
        assert clipped_range(histogram_of(np.full(100, value)), calibrator, dialect) == (-1.0 if symmetric else 0.0, 1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_tensor_that_is_all_but_dead_keeps_its_values(dialect) -> None:
    """One value in 100,000 is not zero: a percentile of 99.99 % would leave nothing else."""
    values = np.zeros(100_000, np.float32)
    values[7] = 5
    assert clipped_range(histogram_of(values), "percentile", dialect)[1] == 5


@pytest.mark.filterwarnings("default")
def test_they_are_what_onnx_runtime_finds(tmp_path, monkeypatch, capsys) -> None:
    """Its calibrators on a file and a reader, as its users call them."""
    from onnx import TensorProto, helper, save
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    monkeypatch.chdir(tmp_path)
    values = planted("heavy")[None]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, values.size]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "one", [ports[0]], [ports[1]])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "one.onnx")

    class Reader:
        def __init__(self) -> None:
            self.feeds = [{"x": values}]

        def get_next(self):
            return self.feeds.pop() if self.feeds else None

    def theirs(method, **options) -> Range:
        calibrator = create_calibrator("one.onnx", None, "augmented.onnx", method, extra_options=options)
        calibrator.collect_data(Reader())
        found = calibrator.compute_data()["y"].range_value
        return float(np.squeeze(found[0])), float(np.squeeze(found[1]))

    mine = histogram_of(values)
    coarse = 2 * mine.limit / 512  # the widest bin of all
    percentile = CalibrationMethod.Percentile
    wanted = theirs(percentile, num_bins=2048, percentile=99.99, symmetric=False)
    assert clipped_range(mine, "percentile", "cpu") == pytest.approx(wanted, abs=1e-6)
    wanted = theirs(percentile, num_bins=2048, percentile=99.99, symmetric=True)
    assert clipped_range(mine, "percentile", "tensorrt") == pytest.approx(wanted, abs=coarse)
    wanted = theirs(CalibrationMethod.Entropy, num_bins=512, num_quantized_bins=256)
    assert clipped_range(mine, "entropy", "cpu") == pytest.approx(wanted, abs=1.5 * coarse)
    wanted = theirs(CalibrationMethod.MinMax)
    assert clipped_range(mine, "min-max", "cpu") == pytest.approx(wanted)
    capsys.readouterr()
    clipped_range(histogram_of(values), "percentile", "cpu")
    assert capsys.readouterr().out == ""
