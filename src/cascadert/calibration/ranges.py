"""What values the tensors of a network take on calibration data, and the range of each for 8 bits.

Two passes over the data. The first finds the extremes of every tensor; the second fills histograms whose bins they fix.
ONNX Runtime's own calibrator does it in one and takes the bins from the first sample: a tensor that is all but dead
there then grows its bins by the million, and every one depends on the order of samples. It also keeps all tensors of
all samples until the end; here one sample at a time is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cascadert.calibration.histogram import Histogram, clipped_range
from cascadert.calibration.sessions import open_session
from cascadert.errors import GraphError, InvalidRequest, import_extra
from cascadert.export.onnx_io import model_from_graph
from cascadert.graph import Graph, TensorSpec
from cascadert.precision import Calibrator, Int8Dialect, Range

Feeds = Mapping[str, NDArray[np.float32]]

BINS = 2048
"""Of a histogram: ONNX Runtime's number for percentiles, 8 for each step of 8 bits over the whole range."""


@dataclass(frozen=True)
class Measured:
    """Extremes of every floating-point tensor of a network, by name, and histograms of those that were asked for."""

    extremes: Mapping[str, Range]
    histograms: Mapping[str, Histogram]
    _found: dict[tuple[Calibrator, Int8Dialect], dict[str, Range]] = field(default_factory=dict, repr=False)

    @property
    def peaks(self) -> dict[str, float]:
        """Largest absolute value of every tensor."""
        return {name: max(-low, high) for name, (low, high) in self.extremes.items()}

    def ranges(self, calibrator: Calibrator, dialect: Int8Dialect) -> dict[str, Range]:
        """Return the range of each tensor that has a histogram, see `clipped_range`; computed once."""
        key = (calibrator, dialect)
        if key not in self._found:
            self._found[key] = {name: clipped_range(h, calibrator, dialect) for name, h in self.histograms.items()}
        return dict(self._found[key])


def measure_ranges(
    network: Graph,
    samples: Feeds,
    tensors: Sequence[str] | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run a network over samples and measure its tensors.

    Args:
        network: a bare network (`export.network.network_graph`) in float32.
        samples: for each input, float32 `[m, ...]`; m a multiple of the network's batch where that is fixed.
        tensors: those that need histograms; all floating-point tensors where absent.
        threads: of ONNX Runtime.
        progress: called with the number of runs done, and how many there will be.

    Raises:
        InvalidRequest: no samples, samples that do not fit, or unknown tensors.
        GraphError: ONNX Runtime refuses the network, or a tensor is not finite.
    """
    runner = _AllTensors(network, threads)
    unknown = sorted(set(tensors or ()) - set(runner.names))
    if unknown:
        raise InvalidRequest(f"tensor '{unknown[0]}'", "is no floating-point tensor of the network", "check its name")
    batches = list(_batches(network.inputs, samples))
    ticks = _ticks(2 * len(batches), progress)
    extremes: dict[str, Range] = {}
    for batch in batches:
        _widen(extremes, runner.run(batch, runner.names))
        next(ticks)
    wanted = runner.names if tensors is None else tuple(dict.fromkeys(tensors))
    counts = _Counts({name: extremes[name] for name in wanted})
    for batch in batches:
        counts.add(runner.run(batch, wanted))
        next(ticks)
    return Measured(extremes, counts.histograms())


class _AllTensors:
    """A network that hands out every floating-point tensor: its inputs, and what its operators make."""

    def __init__(self, network: Graph, threads: int) -> None:
        model = model_from_graph(network)
        outputs = set(model.graph.outputs)
        made = [value for node in model.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT]
        model.graph.outputs.extend(value for value in made if value not in outputs)
        content = ir.serde.serialize_model(model).SerializeToString()
        self._session = open_session("the network", content, threads, optimize=False)
        self.names = (*(spec.name for spec in network.inputs), *(value.name for value in made if value.name))

    def run(self, feeds: Feeds, names: Sequence[str]) -> Feeds:
        """Return some tensors of one run."""
        made = [name for name in names if name not in feeds]
        found = dict(zip(made, self._session.run(made, dict(feeds)), strict=True)) if made else {}
        return {name: feeds[name] if name in feeds else found[name] for name in names}


def _ticks(total: int, progress: Callable[[int, int], None] | None) -> Iterator[None]:
    for done in range(1, total + 1):
        if progress:
            progress(done, total)
        yield


def _batches(inputs: Sequence[TensorSpec], samples: Feeds) -> Iterator[Feeds]:
    """Cut samples into what one run takes: the network's own batch, or one where it takes any."""
    names = {spec.name for spec in inputs}
    if set(samples) != names:
        found = f"are for {', '.join(sorted(samples)) or 'nothing'}"
        raise InvalidRequest("calibration samples", found, f"give them for {', '.join(sorted(names))}")
    (batch, *others) = {spec.shape[0] if isinstance(spec.shape[0], int) else 1 for spec in inputs}
    (count, *more) = {len(array) for array in samples.values()}
    if others or more or not count or count % batch:
        found = f"are {', '.join(str(len(array)) for array in samples.values())}"
        raise InvalidRequest("calibration samples", found, f"give a multiple of {batch}, as many for each input")
    for start in range(0, count, batch):
        yield {name: array[start : start + batch] for name, array in samples.items()}


def _widen(extremes: dict[str, Range], tensors: Feeds) -> None:
    """Widen the extremes by the values of one run; an empty tensor has none."""
    for name, values in tensors.items():
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if not math.isfinite(low) or not math.isfinite(high):
            raise GraphError(f"tensor '{name}' of the network", "is not finite in float32", "mend weights or frames")
        before = extremes.get(name, (low, high))
        extremes[name] = min(before[0], low), max(before[1], high)


class _Counts:
    """ONNX Runtime's histograms of some tensors, with bins that are fixed beforehand."""

    def __init__(self, extremes: Mapping[str, Range]) -> None:
        calibrate = import_extra("onnxruntime.quantization.calibrate", "cpu", "to calibrate")
        self._extremes = extremes
        self._zeros = dict.fromkeys(extremes, 0)
        self._collector = calibrate.HistogramCollector("entropy", False, BINS, 0, 0.0, "same")
        for name, (low, high) in extremes.items():  # as if a first, empty sample had had these extremes
            limit = max(-low, high) or 1.0
            edges = np.linspace(-limit, limit, BINS + 1)
            self._collector.histogram_dict[name] = (np.zeros(BINS, np.int64), edges, low, high, limit)

    def add(self, tensors: Feeds) -> None:
        """Count the values of one run."""
        self._collector.collect_value(tensors)
        for name, values in tensors.items():
            self._zeros[name] += values.size - int(np.count_nonzero(values))

    def histograms(self) -> dict[str, Histogram]:
        """Return what was counted."""
        found = self._collector.get_histogram_dict()
        return {
            name: Histogram(counts, float(limit), self._zeros[name], *self._extremes[name])
            for name, (counts, _, _, _, limit) in found.items()
        }
