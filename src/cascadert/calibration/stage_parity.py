"""One stage on one frame, by PyTorch and by ONNX Runtime on the same inputs, port by port."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from cascadert.bundle import StageEntry
from cascadert.calibration.comparison import (
    VALUE_LIMIT,
    Comparison,
    ValueUnit,
    compare_labels,
    compare_order,
    compare_values,
    relative_differences,
)
from cascadert.calibration.doubt import PERTURBATION, Doubt, doubt_of
from cascadert.calibration.walk import Array
from cascadert.device import NUMPY_TYPES
from cascadert.export.stages import Stage
from cascadert.runtime.devices.host import HostBuffer, HostDevice
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.stage_spec import ENTROPY, LABELS, ORDER, SCORES


class StagePair:
    """One stage on one frame, by both: `wanted` is PyTorch's, `found` ONNX Runtime's."""

    def __init__(
        self, stage: StageEntry, module: Stage, inputs: Mapping[str, Array], executable: OnnxRuntimeExecutable
    ) -> None:
        self._stage, self._module, self._inputs = stage, module, inputs
        outputs = (output.numpy() for output in module(*self._arguments))
        self.wanted: dict[str, Array] = dict(zip(module.output_names, outputs, strict=True))
        self.found = _run_executable(executable, inputs, self.wanted)

    @property
    def makes_labels(self) -> bool:
        """Whether there are margins."""
        return self._module.makes_labels

    @cached_property
    def margins(self) -> NDArray[np.float32]:
        """How far PyTorch is from another label, `[N, H, W]`; costs a run, so it is asked only about differences."""
        margins: NDArray[np.float32] = self._module.margins(*self._arguments).numpy()
        return margins

    @cached_property
    def doubt(self) -> Doubt:
        """Where PyTorch would not keep its answer; costs several runs, for differences that margins do not explain."""
        return doubt_of(self._module, self._inputs, self.wanted, self.margins if self.makes_labels else None)

    def doubt_under(self, drift: float) -> Doubt:
        """The same where its inputs are those of a chain in which they came out `drift` away, relative."""
        if 2 * drift <= PERTURBATION:
            return self.doubt
        margins = self.margins if self.makes_labels else None
        return doubt_of(self._module, self._inputs, self.wanted, margins, 2 * drift)

    @cached_property
    def drift(self) -> float:
        """How far ONNX Runtime's floating-point outputs are from PyTorch's on the same inputs, relative.

        At most the limit: beyond it the stage itself is at fault, and excuses nobody.
        """
        ports = [name for name, value in self.wanted.items() if value.dtype == np.float32]
        largest = (relative_differences(self.wanted[name], self.found[name]).max() for name in ports)
        return min(max(largest, default=0.0), VALUE_LIMIT)

    @property
    def reads(self) -> frozenset[str]:
        """The stages whose floating-point outputs it reads."""
        return frozenset(entry.producer for entry in self._stage.inputs if entry.dtype == "float32")

    @cached_property
    def score_limit(self) -> float:
        """Largest difference of a score that is none: the limit, or twice what the reference moves its own by."""
        return max(VALUE_LIMIT, 2 * float(np.max(self.doubt.spread[SCORES])))

    def compare(self) -> list[Comparison]:
        """Compare every port; differences are looked at again in the light of the reference's own doubt."""
        return [self._compare(output.name) for output in self._stage.outputs]

    @property
    def _arguments(self) -> list[torch.Tensor]:
        return [torch.from_numpy(self._inputs[name]) for name in self._module.input_names]

    def _compare(self, port: str) -> Comparison:
        name, wanted, found = self._stage.name, self.wanted[port], self.found[port]
        if port == LABELS:
            margins = np.full(wanted.shape, np.inf) if np.array_equal(wanted, found) else self.margins
            row = compare_labels(name, wanted, found, margins)
            return row if row.passed else compare_labels(name, wanted, found, self._doubted_margins())
        if port == ORDER:
            row = compare_order(name, wanted, found, self.wanted[SCORES])
            return row if row.passed else compare_order(name, wanted, found, self.wanted[SCORES], self.score_limit)
        row = compare_values(name, port, wanted, found, self._unit(port))
        if row.passed:
            return row
        return compare_values(name, port, wanted, found, self._unit(port), self.doubt.spread[port])

    def _doubted_margins(self) -> NDArray[np.float32]:
        assert self.doubt.margins is not None, "a stage that only carries has no labels"
        return self.doubt.margins

    def _unit(self, port: str) -> ValueUnit:
        return self._module.spec.score.unit if port in (SCORES, ENTROPY) else "magnitude"


def latest_margins(pairs: Mapping[str, StagePair], doubted: bool) -> NDArray[np.float32] | float:
    """Combine margins: a later stage decides about the pixels it wrote, which are those with a finite margin.

    Args:
        pairs: the stages that ran, by name, in their order.
        doubted: take what is left of the margins where the reference doubts itself. In a chain differences add up, and
            the reference is then asked with inputs as far away as they are there.
    """
    margins: NDArray[np.float32] | float = np.inf
    drifts: dict[str, float] = {}
    for name, pair in pairs.items():
        before = max((drifts[producer] for producer in pair.reads if producer in drifts), default=0.0)
        drifts[name] = before + (pair.drift if doubted else 0.0)
        if pair.makes_labels:
            later = pair.doubt_under(before).margins if doubted else pair.margins
            assert later is not None
            margins = np.where(np.isinf(later), margins, later)
    return margins


def _run_executable(
    executable: OnnxRuntimeExecutable, inputs: Mapping[str, Array], wanted: Mapping[str, Array]
) -> dict[str, Array]:
    """Run a stage into buffers of the shapes that are wanted."""
    stream = HostDevice().create_stream("parity")
    bound = {s.name: HostBuffer(np.ascontiguousarray(inputs[s.name]), s.dtype) for s in executable.inputs}
    made = {
        s.name: HostBuffer(np.empty(wanted[s.name].shape, NUMPY_TYPES[s.dtype]), s.dtype) for s in executable.outputs
    }
    stream.begin()
    executable.enqueue({**bound, **made}, stream)
    done = stream.record()
    stream.close()
    if done.error is not None:
        raise done.error
    return {name: buffer.array for name, buffer in made.items()}
