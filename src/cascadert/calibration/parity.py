"""Is what runs what was trained? PyTorch against ONNX Runtime, stage by stage and port by port.

Every stage gets the very inputs that its torch module got, so that a difference belongs to that stage alone; then the
whole cascade runs on its own decisions, end to end. A comparison that could not have failed is a failure: one class
everywhere, or a stage that no frame reached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cascadert.bundle import Bundle, BundleManifest, StageEntry
from cascadert.calibration.comparison import VALUE_LIMIT, Comparison, compare_labels
from cascadert.calibration.stage_parity import StagePair, latest_margins
from cascadert.calibration.walk import Planes, Walk, labelled_stages, refines_blocks
from cascadert.errors import ParityError
from cascadert.export.compile import rebuild_stages
from cascadert.export.lowering import lower
from cascadert.export.stages import Stage
from cascadert.graph import Dialect
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.devices.host import HostDevice
from cascadert.runtime.executables.onnxruntime import OnnxRuntimeExecutable
from cascadert.runtime.open import load_executables
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.placement import place
from cascadert.runtime.results import StageRun
from cascadert.scenes import SceneOptions, render
from cascadert.spec import CascadeSpec, SelectPolicy, ThresholdPolicy, TopKPolicy
from cascadert.stage_spec import LABELS


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
    """A row per stage and port, what the frames exercised, and whether all of it holds.

    `selected` has how many blocks each stage refined, frame by frame; `ran` on how many frames each other stage ran
    before which there is a decision. `notes` say what the frames did not exercise without making them worthless.
    """

    rows: tuple[Comparison, ...]
    frames: int
    selected: Mapping[str, tuple[int, ...]]
    ran: Mapping[str, int]
    blocks: int
    classes: int
    vacuous: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
            ParityError: the first row beyond its limit, or a vacuous comparison.
        """
        for row in self.rows:
            if not row.passed:
                raise ParityError(f"parity of {row.stage}.{row.port}", row.found, f"the limit is {row.limit}")
        if self.vacuous:
            raise ParityError("parity", f"is vacuous: {'; '.join(self.vacuous)}", "give other frames or weights")


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
    modules = rebuild_stages(bundle, options.spec)
    collected, count = _Collected(bundle.manifest), 0
    graphs = dict(bundle.graphs)
    if options.dialect != "semantic":
        graphs = {name: lower(graph, options.dialect) for name, graph in graphs.items()}
    serial = RuntimeOptions(mode="serial", threads=options.threads)
    executables = load_executables(graphs, place(bundle.manifest, serial, sorted(os.sched_getaffinity(0))))
    with Pipeline(bundle.manifest, executables, HostDevice(), serial) as pipeline:
        compared = _Compared(bundle.manifest, modules, executables, pipeline)
        given = generated_streets(bundle.spec, options.frames) if frames is None else frames
        for count, planes in enumerate(given, start=1):
            compared.frame(planes, collected)
            if progress:
                progress(count)
    return collected.report(count)


def generated_streets(spec: CascadeSpec, count: int) -> Iterator[Planes]:
    """Generate frames of a cascade's size and format: planes of the port `frame`."""
    frame = spec.frame
    options = SceneOptions(height=max(frame.height, 64), width=max(frame.width, 64))
    for index in range(count):
        images = [render(1000 + camera, 5 * index, options).image for camera in range(frame.cameras)]
        rgb = np.stack(images)[:, : frame.height, : frame.width]
        yield planes_from_rgb(rgb, frame.pixel_format)


class _Compared:
    """A bundle by both: its modules in PyTorch; its stages in ONNX Runtime, one by one and in a pipeline."""

    def __init__(
        self,
        manifest: BundleManifest,
        modules: tuple[Stage, ...],
        executables: Mapping[str, OnnxRuntimeExecutable],
        pipeline: Pipeline,
    ) -> None:
        self._manifest, self._executables, self._pipeline = manifest, executables, pipeline
        self._modules = {module.name: module for module in modules}

    @torch.inference_mode()
    def frame(self, planes: Planes, collected: _Collected) -> None:
        """Compare every stage that PyTorch reaches on a frame, then the whole cascade."""
        walk, pairs = Walk(planes), dict[str, StagePair]()
        for stage in self._manifest.stages:
            inputs = walk.inputs(stage, None if stage.select is None else stage.select.policy)
            if inputs is not None:
                pairs[stage.name] = StagePair(stage, self._modules[stage.name], inputs, self._executables[stage.name])
                walk.add(stage.name, pairs[stage.name].wanted)
        for pair in pairs.values():
            collected.add(pair.compare())
        found = self._pipeline_labels(planes, walk, pairs)
        wanted = walk.tensors[f"{labelled_stages(self._manifest)[-1]}.{LABELS}"]
        collected.add([_end_to_end(wanted, found, pairs)])
        collected.note(walk, pairs, found)

    def _pipeline_labels(self, planes: Planes, walk: Walk, pairs: Mapping[str, StagePair]) -> NDArray[np.uint8]:
        """Return what the pipeline makes of a frame.

        Where a score is within its limit of a threshold, either decision is right: it takes PyTorch's then.
        """
        forced: dict[str, SelectPolicy] = {}
        while True:
            result = self._pipeline.infer(dict(planes), forced)
            entries = {stage.name: stage for stage in self._manifest.stages if stage.name in walk.selected}
            others = {
                run.stage: TopKPolicy(k=len(walk.selected[run.stage]))
                for run in result.runs
                if run.stage in entries
                and run.stage not in forced
                and _is_excused(entries[run.stage], run, walk, pairs)
            }
            if not others:
                return result.labels
            forced |= others


def _is_excused(stage: StageEntry, run: StageRun, walk: Walk, pairs: Mapping[str, StagePair]) -> bool:
    """Whether a decision differs from PyTorch's, and by no block whose score is clear of the threshold."""
    wanted = len(walk.selected[stage.name])
    if run.n is None or run.n == wanted or stage.select is None or run.scores is None or not len(run.scores):
        return False
    producer = pairs.get(stage.select.producer)
    if producer is None or not isinstance(stage.select.policy, ThresholdPolicy):
        return False
    between = run.scores[min(run.n, wanted) : max(run.n, wanted)]
    distance = float(np.max(np.abs(between - stage.select.policy.theta)))
    return distance <= VALUE_LIMIT or distance <= producer.score_limit


def _end_to_end(wanted: NDArray[np.uint8], found: NDArray[np.uint8], pairs: Mapping[str, StagePair]) -> Comparison:
    """Compare the labels of the whole cascade, each on its own decisions."""
    margins = np.full(wanted.shape, np.inf, np.float32)
    row = compare_labels("end to end", wanted, found, margins)
    for doubted in (False, True):
        if row.passed:
            break
        row = compare_labels("end to end", wanted, found, np.minimum(margins, latest_margins(pairs, doubted)))
    return row


class _Collected:
    """Comparisons so far, by stage and port, and what the frames exercised."""

    def __init__(self, manifest: BundleManifest) -> None:
        self._manifest = manifest
        self._rows: dict[tuple[str, str], list[Comparison]] = {}
        self._classes: set[int] = set()
        self._ran = {stage.name: 0 for stage in manifest.stages}
        self._selected: dict[str, list[int]] = {stage.name: [] for stage in manifest.stages if stage.select is not None}

    def add(self, rows: Iterable[Comparison]) -> None:
        """Add what was compared on one frame."""
        for row in rows:
            self._rows.setdefault((row.stage, row.port), []).append(row)

    def note(self, walk: Walk, ran: Iterable[str], labels: NDArray[np.uint8]) -> None:
        """Note which stages ran on a frame, on how many blocks, and the classes of its labels."""
        self._classes.update(np.unique(labels).tolist())
        for name in ran:
            self._ran[name] += 1
        for name, blocks in walk.selected.items():
            self._selected[name].append(len(blocks))

    def report(self, frames: int) -> ParityReport:
        """Add up, and say what makes the comparison vacuous."""
        places = {stage: i for i, stage in enumerate(self._ran)}  # what a late frame reaches first comes in its place
        found = sorted(self._rows, key=lambda row: places.get(row[0], len(places)))
        rows = tuple(Comparison.merged(self._rows[row]) for row in found)
        by_blocks = {stage.name for stage in self._manifest.stages if refines_blocks(stage)}
        return ParityReport(
            rows=rows,
            frames=frames,
            selected={name: tuple(n) for name, n in self._selected.items() if name in by_blocks},
            ran={name: self._ran[name] for name in self._selected if name not in by_blocks},
            blocks=self._manifest.spec.blocks,
            classes=len(self._classes),
            vacuous=tuple(self._vacuous(frames, rows)),
            notes=tuple(self._never_skipped(frames)),
        )

    def _vacuous(self, frames: int, rows: tuple[Comparison, ...]) -> Iterator[str]:
        if not frames:
            yield "there was no frame"
            return
        if len(self._classes) < 2:
            yield "one class everywhere"
        yield from unreached(self._manifest, self._ran)
        for row in rows:
            if row.too_many_ties:
                yield f"{row.tied / row.elements:.1%} of {row.stage}.{row.port} are ties"

    def _never_skipped(self, frames: int) -> Iterator[str]:
        for stage in self._manifest.stages:
            if stage.select is not None and not refines_blocks(stage) and 0 < self._ran[stage.name] == frames:
                yield f"no frame ended before '{stage.name}'"


def unreached(manifest: BundleManifest, ran: Mapping[str, float]) -> Iterator[str]:
    """Say of each stage that never ran why that is; `ran` has a number of frames, or of blocks, by stage."""
    for stage in manifest.stages:
        if not ran.get(stage.name, 1):
            blocks = stage.select is not None and refines_blocks(stage)
            yield f"stage '{stage.name}' {'refined no block' if blocks else 'never ran'}"
