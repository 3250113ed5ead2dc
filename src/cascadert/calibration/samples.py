"""Calibration data: what the networks of a cascade see when it runs, sampled within bounds.

A network of whole frames sees them all. A refinement network sees the blocks that selection really picks, which are
unlike the rest of a frame: uncertain ones; a network of carried tensors sees what the networks before it make. The
cascade therefore runs, in float32, and what its networks are given is kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cascadert.bundle import Bundle, BundleManifest, StageEntry
from cascadert.calibration.instances import instance_uncertainty
from cascadert.calibration.logits import entropy_bits, labels_of
from cascadert.calibration.reservoir import BalancedReservoir
from cascadert.calibration.selection_metrics import Selection
from cascadert.calibration.sessions import open_session
from cascadert.calibration.stage_runs import LOGITS, CascadeTrace, GraphRunner, StageTrace, run_cascade
from cascadert.calibration.walk import Array, Planes, labelled_stages, refines_blocks
from cascadert.classes import IGNORE_LABEL
from cascadert.errors import InvalidRequest
from cascadert.export.lowering import lower
from cascadert.export.network import network_edges
from cascadert.export.onnx_io import graph_from_model, model_from_graph
from cascadert.geometry import Grid
from cascadert.graph import Graph
from cascadert.spec import CascadeSpec, ThresholdPolicy

Labels = NDArray[np.uint8]
Weighting = Literal["classes", "uncertainty"]
Seen = Mapping[str, NDArray[np.float32]]

STAGE_BYTES = 2**30
"""Most that the samples of one stage may take: carried maps of a large frame are hundreds of megabytes each."""


@dataclass(frozen=True)
class SampleOptions:
    """How much to keep, and of what.

    `frames`: of each stage that runs as a whole; `blocks`: of each refinement stage. `weighting`: "classes" gives every
    class its share; "uncertainty" multiplies that by the block's mean instance uncertainty (paper 002, eq. 7).
    `threads`: of ONNX Runtime.
    """

    frames: int = 32
    blocks: int = 128
    weighting: Weighting = "classes"
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("frames", "blocks"):
            if getattr(self, name) < 1:
                raise InvalidRequest(name, f"is {getattr(self, name)}", "give 1 or more")
        if self.weighting not in get_args(Weighting):
            raise InvalidRequest("weighting", f"is '{self.weighting}'", f"choose {' or '.join(get_args(Weighting))}")


@dataclass(frozen=True)
class CalibrationSamples:
    """What the networks see, and what selection saw, in fp32.

    `seen` maps each stage to what its network sees, by the names of `export.network` (`pixels`, `pixels_2`): float32
    `[m, C, h, w]` of one m, so that the rows of all belong together; nothing for a network without weights. `offered`
    maps it to how many frames or blocks there were to choose from, `selections` each stage with a decision to that on
    every frame. `frames_sha256` is the digest of all frames, in order.
    """

    seen: Mapping[str, Seen]
    offered: Mapping[str, int]
    selections: Mapping[str, tuple[Selection, ...]]
    frames: int
    frames_sha256: str


def collect(
    bundle: Bundle,
    frames: Iterable[Planes],
    options: SampleOptions = SampleOptions(),
    truths: Iterable[Labels] | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationSamples:
    """Run a cascade in fp32 and sample what its networks see.

    Args:
        bundle: the cascade; blocks are picked by its own policies, those that depend on time taken as a quarter.
        frames: planes of the port `frame`, uint8 `[N, H, W, C]` each; read once, never held.
        options: see `SampleOptions`.
        truths: labels of the frames, uint8 `[N, H, W]`, by which classes are balanced; the cascade's own where absent.
        progress: called with the number of frames done.

    Raises:
        InvalidRequest: no frames, truths that do not fit them, or a stage that never ran.
        MissingExtra: ONNX Runtime is not installed.
    """
    collector = _Collector(bundle, options)
    digest, count = hashlib.sha256(), 0
    for count, (planes, truth) in enumerate(_with_truths(bundle.spec, frames, truths), start=1):
        _update(digest, planes)
        collector.add(planes, truth)
        if progress:
            progress(count)
    if not count:
        raise InvalidRequest("calibration", "there was no frame", "give frames")
    return collector.samples(count, digest.hexdigest())


def _update(digest: Any, planes: Planes) -> None:
    for name in sorted(planes):
        digest.update(f"{name} {planes[name].dtype} {planes[name].shape};".encode())
        digest.update(np.ascontiguousarray(planes[name]))


def _with_truths(
    spec: CascadeSpec, frames: Iterable[Planes], truths: Iterable[Labels] | None
) -> Iterator[tuple[Planes, Labels | None]]:
    if truths is None:
        yield from ((planes, None) for planes in frames)
        return
    shape, given = (spec.frame.cameras, spec.frame.height, spec.frame.width), iter(truths)
    for number, planes in enumerate(frames):
        truth = next(given, None)
        if truth is None:
            raise InvalidRequest("labels", f"end before frame {number}", "give one for each frame")
        if truth.shape != shape:
            raise InvalidRequest(f"labels of frame {number}", f"are {list(truth.shape)}", f"fit them to {list(shape)}")
        beyond = truth[(truth >= spec.num_classes) & (truth != IGNORE_LABEL)]
        if beyond.size:
            found = f"hold label {beyond[0]} where there are {spec.num_classes} classes"
            raise InvalidRequest(f"labels of frame {number}", found, "check the class set (trainIds, not ids)")
        yield planes, truth


class _Collector:
    """The cascade, a reservoir for each stage, and every decision so far."""

    def __init__(self, bundle: Bundle, options: SampleOptions) -> None:
        self._spec, self._manifest, self._weighting = bundle.spec, bundle.manifest, options.weighting
        self._grid = bundle.spec.make_grid()
        graphs = {name: lower(graph, "onnxruntime") for name, graph in bundle.graphs.items()}
        self._runners = {name: GraphRunner(name, graph, options.threads) for name, graph in graphs.items()}
        self._heads = {name: _Head(name, graph, options.threads) for name, graph in graphs.items()}
        self._policies = {s.name: s.select.policy for s in bundle.manifest.stages if s.select is not None}
        self._by_blocks = {name for name, wiring in bundle.spec.wiring.items() if wiring.input == "blocks"}
        self._reservoirs = {s.name: self._reservoir(s, options) for s in bundle.manifest.stages}
        self._selections: dict[str, list[Selection]] = {name: [] for name in self._policies}

    def _reservoir(self, stage: StageEntry, options: SampleOptions) -> BalancedReservoir[Seen]:
        sample_bytes = 4 * sum(math.prod(shape) for shape in stage.network.input_shapes)
        wanted = options.blocks if stage.name in self._by_blocks else options.frames
        return BalancedReservoir(max(1, min(wanted, STAGE_BYTES // sample_bytes)), options.seed)

    def add(self, planes: Planes, truth: Labels | None) -> None:
        """Run one frame and offer what its networks saw."""
        trace = run_cascade(self._manifest, self._runners, planes, self._policies, {})
        labels = trace.labels if truth is None else truth
        uncertainty = self._uncertainty(trace) if self._weighting == "uncertainty" else None
        for stage in self._manifest.stages:
            if stage.select is not None:
                self._selections[stage.name].append(_selection(stage, trace))
            if stage.name in trace.stages:
                self._offer(stage, trace.stages[stage.name], labels, uncertainty)

    def _uncertainty(self, trace: CascadeTrace) -> NDArray[np.float64]:
        """Instance uncertainty of the first network that makes labels, in bits, at the resolution of its logits.

        Raises:
            InvalidRequest: those labels are not made of a network's logits.
        """
        name = labelled_stages(self._manifest)[0]
        logits = trace.stages[name].outputs.get(LOGITS)
        if logits is None:
            found = f"needs logits, and stage '{name}' has no network of its own"
            raise InvalidRequest("weighting 'uncertainty'", found, "choose 'classes'")
        pairs = zip(labels_of(logits), entropy_bits(logits), strict=True)
        return np.stack([instance_uncertainty(names, bits) for names, bits in pairs])

    def _offer(self, stage: StageEntry, seen: StageTrace, labels: Labels, uncertainty: Array | None) -> None:
        head, reservoir = self._heads[stage.name], self._reservoirs[stage.name]
        if stage.name not in self._by_blocks or seen.selected is None:
            counts, appeal = self._histogram(labels)[None], 1.0 if uncertainty is None else uncertainty.mean()
            reservoir.offer(counts, np.full(1, appeal), lambda _: [head.seen(seen.inputs)])
            return
        blocks = seen.selected
        counts = np.stack([self._histogram(_window(labels, self._grid, block)) for block in blocks])
        appeals = np.ones(len(blocks))
        if uncertainty is not None:
            appeals = np.array([_window(uncertainty, self._grid, block).mean() for block in blocks])
        rows = [entry.name for entry in stage.inputs if entry.prefix]

        def fetch(chosen: NDArray[np.intp]) -> list[Seen]:
            alone = ({name: seen.inputs[name][i : i + 1] for name in rows} for i in chosen)
            return [head.seen({**seen.inputs, **row}) for row in alone]

        reservoir.offer(counts, appeals, fetch)

    def _histogram(self, labels: Labels) -> NDArray[np.int64]:
        return np.bincount(labels.ravel(), minlength=IGNORE_LABEL + 1)[: self._spec.num_classes]

    def samples(self, frames: int, sha256: str) -> CalibrationSamples:
        """Return what was kept."""
        for name, reservoir in self._reservoirs.items():
            if not reservoir.offered:
                raise never_ran(self._manifest, name, frames)
        return CalibrationSamples(
            seen={name: _joined(reservoir.items) for name, reservoir in self._reservoirs.items()},
            offered={name: reservoir.offered for name, reservoir in self._reservoirs.items()},
            selections={name: tuple(selections) for name, selections in self._selections.items()},
            frames=frames,
            frames_sha256=sha256,
        )


def never_ran(manifest: BundleManifest, name: str, frames: int) -> InvalidRequest:
    """Say that a stage cannot be calibrated, since no frame reached it, and which decision keeps it out."""
    stages = {stage.name: stage for stage in manifest.stages}
    subject, entry = f"calibration of stage '{name}'", stages[name]
    if entry.select is not None and refines_blocks(entry):
        found = f"selection picked no block in {frames} frames"
        return InvalidRequest(subject, found, "lower theta, or give other frames")
    while entry.select is None:  # the nearest decision before it
        needed = {entry.follows, *(i.producer for i in entry.inputs)} & stages.keys()
        entry = stages[[stage for stage in stages if stage in needed][-1]]
    found = f"it never ran on {frames} frames, all of which ended before stage '{entry.name}'"
    remedy = f"lower theta of '{entry.name}', give other frames, or export with --until an earlier stage"
    return InvalidRequest(subject, found, remedy)


def _joined(items: Sequence[Seen]) -> Seen:
    return {name: np.concatenate([item[name] for item in items]) for name in items[0]}


def _selection(stage: StageEntry, trace: CascadeTrace) -> Selection:
    assert stage.select is not None
    producer = trace.stages.get(stage.select.producer)
    if producer is None:  # it was skipped, and no block has a score
        return Selection(np.empty(0, np.float32), np.empty(0, np.int32), 0)
    scores, order = (producer.outputs[name.split(".", 1)[1]] for name in (stage.select.scores, stage.select.order))
    theta = stage.select.policy.theta if isinstance(stage.select.policy, ThresholdPolicy) else None
    return Selection(scores, order, len(trace.selected[stage.name]), theta)


def _window(values: Array, grid: Grid, index: int) -> Array:
    """Cut a block out of a map `[N, h, w]` of the frame, whatever its resolution; at least one value."""
    camera, block = divmod(int(index), grid.size)
    top, left, bottom, right = grid.box(block)
    height, width = values.shape[1:]
    rows = slice(top * height // grid.height, max(-(-bottom * height // grid.height), 1))
    columns = slice(left * width // grid.width, max(-(-right * width // grid.width), 1))
    return values[camera, rows, columns]


class _Head:
    """The part of a stage before its network: from its inputs to `pixels`, `pixels_2` and so on."""

    def __init__(self, name: str, graph: Graph, threads: int) -> None:
        head = _head_graph(graph)
        self._inputs = [] if head is None else [entry.name for entry in head.inputs]
        self._outputs = [] if head is None else [output.name for output in head.outputs]
        self._session = (
            None if head is None else open_session(f"stage '{name}', before its network", head.onnx, threads)
        )

    def seen(self, inputs: Mapping[str, Array]) -> Seen:
        """Return what the network sees, float32 `[m, C, h, w]` by name; nothing where it has no weights."""
        if self._session is None:
            return {}
        found = self._session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        return dict(zip(self._outputs, found, strict=True))


def _head_graph(graph: Graph) -> Graph | None:
    model = model_from_graph(graph)
    pixels, _ = network_edges(model)
    if not pixels:
        return None
    head = ir.convenience.extract(model.graph, model.graph.inputs, pixels)
    head.name, head.opset_imports[""] = "head", model.opset_imports[""]
    return graph_from_model(ir.Model(head, ir_version=model.ir_version), graph.dialect)
