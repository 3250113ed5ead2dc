"""Is what runs what was trained? PyTorch against ONNX Runtime, stage by stage and port by port.

Every stage gets the very inputs that its torch module got, so that a difference belongs to that stage alone; then the
whole cascade runs on its own decisions, end to end. A comparison that could not have failed is a failure: one class
everywhere, or no block selected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cascadert.bundle import Bundle, StageEntry
from cascadert.calibration.comparison import (
    SCORE_LIMIT_BITS,
    TIED_LIMITS,
    Comparison,
    compare_labels,
    compare_order,
    compare_values,
)
from cascadert.calibration.doubt import Doubt, doubt_of
from cascadert.errors import ParityError
from cascadert.export.compile import rebuild_stages
from cascadert.export.lowering import lower
from cascadert.export.stages import Stage
from cascadert.graph import Dialect
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.devices.host import HostBuffer, HostDevice
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.open import load_executables
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.placement import place
from cascadert.runtime.results import StageRun
from cascadert.runtime.selection import Decider
from cascadert.scenes import SceneOptions, render
from cascadert.spec import CascadeSpec, SelectPolicy, ThresholdPolicy, TopKPolicy

Array = NDArray[Any]
Planes = Mapping[str, Array]


@dataclass(frozen=True)
class ParityOptions:
    """How to compare.

    `spec`: the specification's present path, where it moved since export. `frames`: how many streets to generate when
    no frames are given. `threads`: of ONNX Runtime. `dialect`: which form of the graphs runs: what the bundle holds, or
    what a backend is given; ONNX Runtime runs them all.
    """

    spec: Path | None = None
    frames: int = 3
    threads: int = 0
    dialect: Dialect = "semantic"


@dataclass(frozen=True)
class ParityReport:
    """A row per stage and port, what the frames exercised, and whether all of it holds."""

    rows: tuple[Comparison, ...]
    frames: int
    selected: Mapping[str, tuple[int, ...]]
    blocks: int
    classes: int
    vacuous: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether the comparison means something and every port is within its limit."""
        return not self.vacuous and all(row.passed for row in self.rows)

    def to_json(self) -> str:
        """Return the report as JSON; a difference that is not a number is null, which JSON has no other word for."""
        rows = [{**asdict(row), "passed": row.passed} for row in self.rows]
        for row in rows:
            row |= {key: None for key in ("largest", "mean") if row[key] != row[key]}
        return json.dumps({**asdict(self), "rows": rows, "passed": self.passed}, indent=1)

    def check(self) -> None:
        """Raise what is wrong.

        Raises:
            ParityError: a vacuous comparison, or the first row beyond its limit.
        """
        if self.vacuous:
            raise ParityError("parity", f"is vacuous: {'; '.join(self.vacuous)}", "give other frames or weights")
        for row in self.rows:
            if not row.passed:
                raise ParityError(f"parity of {row.stage}.{row.port}", row.found, f"the limit is {row.limit}")


def check_parity(
    bundle: Bundle,
    frames: Iterable[Planes] | None = None,
    options: ParityOptions = ParityOptions(),
    progress: Callable[[int], None] | None = None,
) -> ParityReport:
    """Compare a bundle with the PyTorch modules it was exported from.

    Args:
        bundle: what to check; its networks are built again from the spec it names.
        frames: planes of the port `frame`, uint8 `[N, H, W, C]` each; generated streets where absent.
        options: see `ParityOptions`.
        progress: called with the number of frames done.

    Raises:
        SpecError, NetworkError: the networks cannot be built again.
        BundleError: they are not the ones that were exported.
    """
    spec = bundle.spec
    modules = rebuild_stages(bundle, options.spec)
    collected = _Collected(spec)
    count = 0
    graphs = dict(bundle.graphs)
    if options.dialect != "semantic":
        graphs = {name: lower(graph, options.dialect) for name, graph in graphs.items()}
    serial = RuntimeOptions(mode="serial", threads=options.threads)
    executables = load_executables(graphs, place(bundle.manifest, serial, sorted(os.sched_getaffinity(0))))
    with Pipeline(bundle.manifest, executables, HostDevice(), serial) as pipeline:
        for count, planes in enumerate(generated_streets(spec, options.frames) if frames is None else frames, start=1):
            _compare_frame(planes, bundle, modules, executables, pipeline, collected)
            if progress:
                progress(count)
    return collected.report(count, spec)


def generated_streets(spec: CascadeSpec, count: int) -> Iterator[Planes]:
    """Generate frames of a cascade's size and format: planes of the port `frame`."""
    frame = spec.frame
    options = SceneOptions(height=max(frame.height, 64), width=max(frame.width, 64))
    for index in range(count):
        images = [render(1000 + camera, 5 * index, options).image for camera in range(frame.cameras)]
        rgb = np.stack(images)[:, : frame.height, : frame.width]
        yield planes_from_rgb(rgb, frame.pixel_format)


@torch.inference_mode()
def _compare_frame(
    planes: Planes,
    bundle: Bundle,
    modules: tuple[Stage, ...],
    executables: Mapping[str, OnnxRuntimeExecutable],
    pipeline: Pipeline,
    collected: _Collected,
) -> None:
    tensors: dict[str, Array] = {name: np.ascontiguousarray(plane) for name, plane in planes.items()}
    pairs: list[_Pair] = []
    for module, stage in zip(modules, bundle.manifest.stages, strict=True):
        n = _count(stage, tensors)
        if n == 0:
            for output in stage.outputs:
                if output.when_skipped is not None:
                    tensors[f"{stage.name}.{output.name}"] = tensors[output.when_skipped]
        else:
            inputs = {i.name: tensors[i.source][:n] if i.prefix else tensors[i.source] for i in stage.inputs}
            pairs.append(_Pair(stage, module, inputs, executables[stage.name]))
            tensors.update({f"{stage.name}.{name}": value for name, value in pairs[-1].wanted.items()})
        if n is not None:
            collected.selected[stage.name].append(n)
    for pair in pairs:
        collected.add(pair.compare())
    collected.add([_end_to_end(planes, pairs, pipeline, collected)])


def _end_to_end(planes: Planes, pairs: list[_Pair], pipeline: Pipeline, collected: _Collected) -> Comparison:
    """Compare the labels of the whole cascade, each on its own decisions."""
    result, wanted = pipeline.infer(dict(planes)), pairs[-1].wanted["labels"]
    flipped = {
        pair.name: TopKPolicy(k=pair.count)
        for pair in pairs
        for run in result.runs
        if run.stage == pair.name and run.n is not None and run.n != pair.count and pair.at_the_cut(run)
    }
    if flipped:  # a score within its limit of the threshold: either decision is right, so both take PyTorch's
        result = pipeline.infer(dict(planes), flipped)
    found = result.labels
    collected.classes.update(np.unique(found).tolist())
    margins = np.full(wanted.shape, np.inf, np.float32)
    if np.array_equal(wanted, found):
        return compare_labels("end to end", wanted, found, margins)
    row = compare_labels("end to end", wanted, found, _latest(margins, [pair.margins for pair in pairs]))
    if row.passed:
        return row
    return compare_labels("end to end", wanted, found, _latest(margins, [pair.doubt.margins for pair in pairs]))


def _latest(margins: NDArray[np.float32], stages: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Combine margins: a later stage decides about the pixels it wrote, which are those with a finite margin."""
    for later in stages:
        margins = np.where(np.isinf(later), margins, later)
    return margins


def _count(stage: StageEntry, tensors: Mapping[str, Array]) -> int | None:
    if stage.select is None:
        return None
    scores = tensors.get(stage.select.scores)
    return 0 if scores is None else _expected_n(stage.select.policy, scores)


def _expected_n(policy: SelectPolicy, scores: Array) -> int:
    """Return n; where it depends on time, a quarter of the blocks: parity is about values."""
    if not isinstance(policy, ThresholdPolicy | TopKPolicy):
        policy = TopKPolicy(k=-(-len(scores) // 4))
    return Decider(len(scores)).choose(policy, scores)


class _Pair:
    """One stage on one frame, by both: `wanted` is PyTorch's, `found` ONNX Runtime's."""

    def __init__(
        self, stage: StageEntry, module: Stage, inputs: Mapping[str, Array], executable: OnnxRuntimeExecutable
    ) -> None:
        self._stage, self._module, self._inputs = stage, module, inputs
        self.name = stage.name
        self.count = len(inputs["indices"]) if "indices" in inputs else 0
        arguments = [torch.from_numpy(inputs[name]) for name in module.input_names]
        outputs = (output.numpy() for output in module(*arguments))
        self.wanted: dict[str, Array] = dict(zip(module.output_names, outputs, strict=True))
        self.found = _run_executable(executable, inputs)

    @cached_property
    def margins(self) -> NDArray[np.float32]:
        """How far PyTorch is from another label, `[N, H, W]`; costs a run, so it is asked only about differences."""
        arguments = [torch.from_numpy(self._inputs[name]) for name in self._module.input_names]
        margins: NDArray[np.float32] = self._module.margins(*arguments).numpy()
        return margins

    @cached_property
    def doubt(self) -> Doubt:
        """Where PyTorch would not keep its answer; costs several runs, for differences that margins do not explain."""
        return doubt_of(self._module, self._inputs, self.wanted, self.margins)

    def at_the_cut(self, run: StageRun) -> bool:
        """Whether every block that only one of the two decisions refines scores within its limit of the threshold."""
        policy = None if self._stage.select is None else self._stage.select.policy
        if not isinstance(policy, ThresholdPolicy) or run.scores is None or run.n is None:
            return False
        between = run.scores[min(run.n, self.count) : max(run.n, self.count)]
        return bool(np.all(np.abs(between - policy.theta) <= SCORE_LIMIT_BITS))

    def compare(self) -> list[Comparison]:
        """Compare every port; differences are looked at again in the light of the reference's own doubt."""
        return [self._compare(output.name) for output in self._stage.outputs]

    def _compare(self, port: str) -> Comparison:
        name, wanted, found = self._stage.name, self.wanted[port], self.found[port]
        if port == "labels":
            margins = np.full(wanted.shape, np.inf) if np.array_equal(wanted, found) else self.margins
            row = compare_labels(name, wanted, found, margins)
            return row if row.passed else compare_labels(name, wanted, found, self.doubt.margins)
        if port == "order":
            row = compare_order(name, wanted, found, self.wanted["scores"])
            spread = 0.0 if row.passed else float(np.max(self.doubt.spread["scores"]))
            return row if row.passed else compare_order(name, wanted, found, self.wanted["scores"], spread)
        row = compare_values(name, port, wanted, found)
        return row if row.passed else compare_values(name, port, wanted, found, self.doubt.spread[port])


def _run_executable(executable: OnnxRuntimeExecutable, inputs: Mapping[str, Array]) -> dict[str, Array]:
    device = HostDevice()
    stream = device.create_stream("parity")
    bindings = {
        spec.name: HostBuffer(np.ascontiguousarray(inputs[spec.name]), spec.dtype) for spec in executable.inputs
    }
    outputs = {
        spec.name: device.allocate(tuple(int(size) for size in spec.shape), spec.dtype) for spec in executable.outputs
    }
    stream.begin()
    executable.enqueue({**bindings, **outputs}, stream)
    done = stream.record()
    stream.close()
    if done.error is not None:
        raise done.error
    return {name: buffer.array for name, buffer in outputs.items()}


class _Collected:
    """Comparisons so far, by stage and port, and what the frames exercised."""

    def __init__(self, spec: CascadeSpec) -> None:
        self._rows: dict[tuple[str, str], list[Comparison]] = {}
        self.classes: set[int] = set()
        self.selected: dict[str, list[int]] = {stage.name: [] for stage in spec.stages[1:]}

    def add(self, rows: Iterable[Comparison]) -> None:
        """Add what was compared on one frame."""
        for row in rows:
            self._rows.setdefault((row.stage, row.port), []).append(row)

    def report(self, frames: int, spec: CascadeSpec) -> ParityReport:
        """Add up, and say what makes the comparison vacuous."""
        vacuous = [] if frames else ["there was no frame"]
        if frames and len(self.classes) < 2:
            vacuous.append("one class everywhere")
        vacuous += [f"stage '{name}' refined no block" for name, counts in self.selected.items() if not any(counts)]
        merged = tuple(Comparison.merged(rows) for rows in self._rows.values())
        for row in merged:
            if row.tied > TIED_LIMITS.get(row.port, 1.0) * row.elements:
                vacuous.append(f"{row.tied / row.elements:.1%} of {row.stage}.{row.port} are ties")
        return ParityReport(
            rows=merged,
            frames=frames,
            selected={name: tuple(counts) for name, counts in self.selected.items()},
            blocks=spec.blocks,
            classes=len(self.classes),
            vacuous=tuple(vacuous),
        )
