"""Tensors of real networks, measured by ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cascadert.bundle import Bundle
from cascadert.calibration.ranges import BINS, Measured, measure_ranges
from cascadert.errors import GraphError, InvalidRequest
from cascadert.export.lowering import lower
from cascadert.export.network import network_graph
from cascadert.graph import Graph, TensorSpec

WEIGHT = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]], np.float32)
BIAS = np.array([0.5, -1.0], np.float32)


def planted_network(batch: int | str = "n") -> Graph:
    """`pixels` -> 1x1 convolution `mixed` -> ReLU `cut` -> times zero `dead` -> plus three `logits`."""
    nodes = [
        helper.make_node("Conv", ["pixels", "weight", "bias"], ["mixed"], name="mix"),
        helper.make_node("Relu", ["mixed"], ["cut"], name="rectify"),
        helper.make_node("Mul", ["cut", "zero"], ["dead"], name="kill"),
        helper.make_node("Add", ["dead", "three"], ["logits"], name="lift"),
        helper.make_node("ArgMax", ["cut"], ["best"], name="choose", axis=1, keepdims=1),
    ]
    constants = {"weight": WEIGHT[:, :, None, None], "bias": BIAS, "zero": np.float32(0), "three": np.float32(3)}

    def port(name: str, channels: int, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [batch, channels, 4, 5])

    graph = helper.make_graph(
        nodes, "planted", [port("pixels", 3)], [port("logits", 2)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        value_info=[*(port(name, 2) for name in ("mixed", "cut", "dead")), port("best", 1, TensorProto.INT64)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    specs = [TensorSpec(name, "float32", (batch, channels, 4, 5)) for name, channels in (("pixels", 3), ("logits", 2))]
    return Graph(model.SerializeToString(), (specs[0],), (specs[1],), "onnxruntime")


def planted_pixels(count: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 4, 5)).astype(np.float32)


def mixed(pixels: np.ndarray) -> np.ndarray:
    return np.einsum("oc,nchw->nohw", WEIGHT, pixels) + BIAS[:, None, None]


def test_extremes_and_histograms_are_those_of_the_values() -> None:
    pixels = planted_pixels()
    values = mixed(pixels)
    measured = measure_ranges(planted_network(), {"pixels": pixels}, threads=1)
    wanted = {
        "pixels": (pixels.min(), pixels.max()),
        "mixed": (values.min(), values.max()),
        "cut": (0, values.max()),
        "dead": (0, 0),
        "logits": (3, 3),
    }
    assert measured.extremes.keys() == measured.histograms.keys() == wanted.keys()  # no integers, no weights
    for name, extremes in wanted.items():
        assert measured.extremes[name] == pytest.approx(extremes, rel=1e-5)
        assert measured.peaks[name] == pytest.approx(np.abs(extremes).max(), rel=1e-5)
        assert measured.ranges("min-max", "cpu")[name][0] <= 0
    for name, exact in (("pixels", pixels), ("cut", np.maximum(values, 0))):
        histogram = measured.histograms[name]
        assert histogram.counts.shape == (BINS,)
        assert histogram.counts.sum() == exact.size
        assert histogram.zeros == np.count_nonzero(exact == 0)
        counted = np.histogram(exact, BINS, range=(-histogram.limit, histogram.limit))[0]
        assert np.abs(counted - histogram.counts).sum() <= 4  # a value may round over an edge
    assert measured.ranges("min-max", "cpu")["logits"] == (0.0, 3.0)
    assert measured.ranges("min-max", "tensorrt")["cut"] == (-measured.peaks["cut"], measured.peaks["cut"])
    assert measured.ranges("mse", "cpu")["dead"] == (0.0, 1.0)


def test_the_order_of_samples_does_not_matter_nor_a_first_one_that_is_all_but_dead() -> None:
    pixels = planted_pixels()
    pixels[0] *= 1e-7
    forth, back = (measure_ranges(planted_network(), {"pixels": p}, threads=1) for p in (pixels, pixels[::-1]))
    assert forth.extremes == back.extremes
    for name, histogram in forth.histograms.items():
        assert len(histogram.counts) == BINS
        assert np.array_equal(histogram.counts, back.histograms[name].counts)


def test_ranges_of_a_real_network(toy_bundle: Bundle) -> None:
    network = network_graph(lower(toy_bundle.graphs["accurate"], "onnxruntime"))
    size = [int(side) for side in network.inputs[0].shape[1:]]
    pixels = np.random.default_rng(0).normal(size=(5, *size)).astype(np.float32)
    measured = measure_ranges(network, {"pixels": pixels}, threads=1)
    assert {"pixels", "logits"} < measured.extremes.keys()
    for calibrator in ("min-max", "percentile", "entropy", "mse"):
        widest = measured.ranges("min-max", "cpu")
        for name, (low, high) in measured.ranges(calibrator, "cpu").items():
            assert widest[name][0] <= low <= 0 <= high <= widest[name][1]
            assert high - low > 0.2 * (widest[name][1] - widest[name][0])  # nothing is thrown away wholesale
    assert any(low < 0 for low, _ in measured.ranges("mse", "cpu").values())
    assert any(low == 0 for low, _ in measured.ranges("mse", "cpu").values())


def test_only_what_is_asked_for_has_a_histogram_and_everything_a_peak() -> None:
    measured = measure_ranges(planted_network(), {"pixels": planted_pixels()}, ["cut", "pixels"], threads=1)
    assert set(measured.histograms) == set(measured.ranges("percentile", "cpu")) == {"cut", "pixels"}
    assert set(measured.peaks) == {"pixels", "mixed", "cut", "dead", "logits"}


def test_a_fixed_batch_is_kept_and_progress_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    pixels, told = planted_pixels(), []
    one = measure_ranges(planted_network(), {"pixels": pixels}, threads=1)
    two = measure_ranges(planted_network(2), {"pixels": pixels}, None, 1, lambda *ticks: told.append(ticks))
    assert told == [(done, 6) for done in range(1, 7)]
    assert two.extremes == one.extremes
    assert capsys.readouterr().out == ""


def test_ranges_are_computed_once_and_belong_to_the_caller() -> None:
    measured = measure_ranges(planted_network(), {"pixels": planted_pixels()}, threads=1)
    found = measured.ranges("mse", "cpu")
    found.clear()
    assert measured.ranges("mse", "cpu")
    assert isinstance(measured, Measured)


@pytest.mark.parametrize(
    ("batch", "samples", "tensors", "message"),
    [
        ("n", {}, None, r"^calibration samples: are for nothing; give them for pixels$"),
        ("n", {"image": planted_pixels()}, None, r"^calibration samples: are for image; give them for pixels$"),
        ("n", {"pixels": planted_pixels(0)}, None, r"^calibration samples: are 0; give a multiple of 1, as many"),
        (4, {"pixels": planted_pixels()}, None, r"^calibration samples: are 6; give a multiple of 4, as many"),
        ("n", {"pixels": planted_pixels()}, ["best"], r"^tensor 'best': is no floating-point tensor of the network; "),
    ],
)
def test_what_does_not_fit_is_refused(batch, samples, tensors, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        measure_ranges(planted_network(batch), samples, tensors, threads=1)


def test_a_tensor_that_is_not_finite_is_named() -> None:
    pixels = planted_pixels()
    pixels[3, 0, 0, 0] = 3e38
    message = r"^tensor 'mixed' of the network: is not finite in float32; mend weights or frames$"
    with pytest.raises(GraphError, match=message):
        measure_ranges(planted_network(), {"pixels": pixels}, threads=1)
