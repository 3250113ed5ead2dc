"""One variant, measured: from a bundle and labelled frames to its curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cascadert.bundle import Bundle, BundleManifest
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.refit import Recording
from cascadert.calibration.tuning_costs import Costed, CostModel
from cascadert.calibration.tuning_report import (
    EVERY,
    FAST,
    Counts,
    Curve,
    Histogram,
    Outcome,
    Point,
    Quality,
    Reference,
    Variant,
)
from cascadert.calibration.tuning_sweep import Counted, Sweep, kept_tensors, own_thetas, sweep
from cascadert.calibration.walk import labelled_stages
from cascadert.export.precision import as_measured
from cascadert.precision import Numerics
from cascadert.runtime.control import Scores
from cascadert.runtime.open import open_graphs
from cascadert.runtime.options import RuntimeOptions
from cascadert.stage_spec import Unit

_BINS = 40


@dataclass(frozen=True)
class Split:
    """Frames that choose, and those held out, as indices."""

    seen: Sequence[int]
    held: Sequence[int]


@dataclass(frozen=True)
class Swept:
    """A bundle in one precision, as ONNX Runtime is to run it, and what it gave at every theta."""

    cascade: Costed
    variant: Variant
    found: Sweep


def variant_of(manifest: BundleManifest, numerics: Numerics = "fp32") -> Variant:
    """Return how a bundle cuts frames; the halo is that of the last stage that sees blocks."""
    grid = manifest.spec.make_grid()
    halos = [stage.halo for stage in manifest.spec.stages if manifest.spec.wiring[stage.name].input == "blocks"]
    return Variant(grid.block, grid.stride, halos[-1] if halos else 0, numerics)


def sweep_bundle(
    bundle: Bundle, numerics: Numerics, recording: Recording, split: Split, threads: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Swept:  # fmt: skip
    """Find what every theta gives by one bundle in one precision.

    Raises:
        InvalidRequest: a decision that is none by threshold.
        GraphError: a precision that the bundle was not calibrated for.
    """
    manifest, variant = bundle.manifest, variant_of(bundle.manifest, numerics)
    graphs = {
        name: as_measured(graph, numerics, bundle.calibrations.get(name)) for name, graph in bundle.graphs.items()
    }
    options = RuntimeOptions(mode="serial", threads=threads, tensors=kept_tensors(manifest))
    with open_graphs(manifest, graphs, options) as pipeline:
        found = sweep(pipeline, recording, split.seen, lambda text: say(f"{variant}: {text}"))
    return Swept(Costed(manifest, graphs), variant, found)


def make_curve(swept: Swept, split: Split, costs: CostModel) -> Curve:
    """Add up what was counted."""
    manifest, found = swept.cascade.manifest, swept.found
    labelled, own = labelled_stages(manifest), own_thetas(manifest)
    units = {stage.name: stage.select.unit for stage in manifest.stages if stage.select is not None}
    stages = {FAST: labelled[0], EVERY: labelled[-1]}
    return Curve(
        variant=swept.variant,
        blocks=manifest.spec.blocks,
        composed=found.composed,
        times_from=costs.times_from,
        stage_ms=costs.serial.shown(),
        overlapped_stage_ms=costs.overlapped.shown(),
        points=tuple(
            Point(dict(zip(found.stages, thetas, strict=True)), *_both(counted, found.stages, split, costs))
            for thetas, counted in zip(found.thetas, found.at, strict=True)
        ),
        own=found.thetas.index(tuple(own.values())),
        references={
            kind: Reference(kind, stages.get(kind), *_both(counted, found.stages, split, costs))
            for kind, counted in found.references.items()
        },
        scores={name: _histogram(scores, units[name]) for name, scores in found.scores.items()},
    )


def _both(counted: Counted, stages: Sequence[str], split: Split, costs: CostModel) -> tuple[Outcome, Outcome]:
    seen, held = (outcome(counted, frames, stages, costs) for frames in (split.seen, split.held))
    return seen, held


def outcome(counted: Counted, frames: Sequence[int], stages: Sequence[str], costs: CostModel) -> Outcome:
    """Return what some frames gave; without n there are no times."""
    matrix = ConfusionMatrix(counted.confusion.shape[-1])
    matrix.counts += counted.confusion[list(frames)].sum(axis=0)
    quality = Quality(matrix.mean_iou(), matrix.accuracy(), tuple(matrix.iou().tolist()))
    if counted.n is None:
        return Outcome(quality, {}, float("nan"), float("nan"), float("nan"))
    order = [list(stages).index(name) for name in costs.stages]
    each = [costs.frame(tuple(counted.n[frame][order].tolist())) for frame in frames]
    return Outcome(
        quality=quality,
        n={name: _counts(counted.n[list(frames), i].tolist()) for i, name in enumerate(stages)},
        latency_ms=float(np.mean([one.latency_ms for one in each])),
        period_ms=float(np.mean([one.period_ms for one in each])),
        macs=float(np.mean([one.macs for one in each])),
    )


def _counts(n: Sequence[int]) -> Counts:
    q10, q90, p95 = np.quantile(n, (0.1, 0.9, 0.95)).tolist()
    return Counts(float(np.mean(n)), q10, q90, p95)


def _histogram(scores: Sequence[Scores], unit: Unit) -> Histogram:
    pooled = np.concatenate(scores).astype(np.float64)
    counts, edges = np.histogram(pooled[np.isfinite(pooled)], bins=_BINS)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), unit)


def references_of(curves: Sequence[Curve]) -> tuple[float, float]:
    """Return the mIoU that a drop is counted from: of the best variant with every block refined, by the seen frames.

    The second is that variant's on the held-out frames.
    """
    best: Mapping[str, Reference] = max((curve.references for curve in curves), key=lambda r: r[EVERY].seen.miou)
    return best[EVERY].seen.miou, best[EVERY].held.miou
