"""What does a precision cost? PyTorch and ONNX Runtime in fp32, fp16 and int8, side by side on the same frames.

Everything is compared with the bundle's float32 graphs in ONNX Runtime: each stage on the very inputs it got there, and
the whole cascade on decisions of its own, with theta as it was and as it was refitted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import Bundle, BundleManifest
from cascadert.calibration.exhibits import Exhibits
from cascadert.calibration.parity import generated_streets, unreached
from cascadert.calibration.precision_report import REFERENCE, PrecisionReport, PrecisionRow
from cascadert.calibration.precision_rows import Row, policies_for, run_reference, run_row
from cascadert.calibration.row_measures import RowMeasure
from cascadert.calibration.stage_runs import GraphRunner, ModuleRunner, Planes
from cascadert.errors import BundleError, InvalidRequest, NetworkError, SpecError
from cascadert.export.compile import rebuild_stages
from cascadert.export.precision import as_measured
from cascadert.precision import Int8Dialect, Numerics, int8_numerics

Labels = NDArray[np.uint8]

_INT8: tuple[Int8Dialect, ...] = ("tensorrt", "cpu")


@dataclass(frozen=True)
class PrecisionOptions:
    """What to compare and how.

    `numerics`: beside fp32; none takes what the bundle offers. `torch`: whether to compare with the torch modules, too,
    where they can be built again. `spec`: the specification's present path, where it moved since export. `frames`: how
    many streets to generate when none are given. `threads`: of ONNX Runtime, 0 for all cores. `exhibits`: how many of
    the worst frames of each row to keep for the page.
    """

    numerics: tuple[Numerics, ...] | None = None
    torch: bool = True
    spec: Path | None = None
    frames: int = 3
    threads: int = 0
    exhibits: int = 2


def offered_numerics(bundle: Bundle) -> tuple[Numerics, ...]:
    """Return what a bundle can be lowered to: fp32, fp16, and int8 in dialects that every stage is calibrated for."""
    found = [bundle.calibrations.get(stage.name) for stage in bundle.manifest.stages]
    int8: list[Numerics] = []
    for dialect in _INT8:
        if all(calibration is not None and dialect in calibration.int8 for calibration in found):
            int8.append(int8_numerics(dialect))
    return ("fp32", "fp16", *int8)


def compare_precisions(
    bundle: Bundle,
    frames: Iterable[Planes] | None = None,
    options: PrecisionOptions = PrecisionOptions(),
    truths: Iterable[Labels] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PrecisionReport:
    """Compare what a bundle computes in each precision with what it computes in fp32.

    Args:
        bundle: what to check.
        frames: planes of the port `frame`, uint8 `[N, H, W, C]` each; generated streets where absent.
        options: see `PrecisionOptions`.
        truths: labels uint8 `[N, H, W]` of each frame, 255 where nothing is known.
        progress: called with the number of frames done.

    Raises:
        InvalidRequest: numerics that the bundle does not offer, or truths that do not fit.
        PassError, GraphError: a graph that cannot be lowered.
    """
    rows, notes = _open_rows(bundle, options)
    reference_row, *others = rows
    manifest = bundle.manifest
    measures = {row.name: RowMeasure(manifest, row) for row in rows}
    exhibits, classes, count = Exhibits(manifest.spec, options.exhibits), set[int](), 0
    ran = Counter({stage.name: 0 for stage in manifest.stages})
    given = generated_streets(bundle.spec, options.frames) if frames is None else frames
    for count, (planes, truth) in enumerate(_paired(given, truths), start=1):
        reference = run_reference(manifest, reference_row, planes, every=truth is not None)
        measures[REFERENCE].add(reference.after, reference, truth)
        classes.update(np.unique(reference.after.labels).tolist())
        ran.update(reference.after.stages.keys())
        for row in others:
            run = run_row(manifest, row, planes, reference.after, every=truth is not None)
            measures[row.name].add(reference.after, run, truth)
            exhibits.show(row.name, count, planes, reference.after, run.after, truth)
        if progress:
            progress(count)
    if not count:
        raise InvalidRequest("parity", "there was no frame", "give frames")
    return PrecisionReport(
        spec=manifest.spec,
        rows=tuple(measure.row() for measure in measures.values()),
        frames=count,
        classes=len(classes),
        notes=tuple(notes),
        vacuous=tuple(_vacuous(manifest, measures[REFERENCE].row(), ran, classes)),
        decisions=tuple(decision for row in others for decision in measures[row.name].decisions()),
        exhibits=exhibits.kept(),
    )


def _vacuous(
    manifest: BundleManifest, reference: PrecisionRow, ran: Mapping[str, int], classes: set[int]
) -> Iterator[str]:
    """Say why a comparison could not have found anything."""
    if len(classes) < 2:
        yield "one class everywhere"
    yield from unreached(manifest, ran)
    if reference.quality is not None and math.isnan(reference.quality.miou):
        yield "the labels name no class"


def _paired(frames: Iterable[Planes], truths: Iterable[Labels] | None) -> Iterator[tuple[Planes, Labels | None]]:
    if truths is None:
        yield from zip(frames, repeat(None))
        return
    try:
        yield from zip(frames, truths, strict=True)
    except ValueError as error:
        raise InvalidRequest("truths", "are not as many as frames", "give the labels of every frame") from error


def _open_rows(bundle: Bundle, options: PrecisionOptions) -> tuple[list[Row], list[str]]:
    """Load the graphs of every row, fp32 first, then PyTorch's modules."""
    offered = offered_numerics(bundle)
    wanted = offered if options.numerics is None else options.numerics
    for numerics in wanted:
        if numerics not in offered:
            remedy = f"the bundle offers {', '.join(offered)}; `cascadert calibrate` makes one with int8"
            raise InvalidRequest(f"precision {numerics}", "not every stage was calibrated for it", remedy)
    others: list[Numerics] = [numerics for numerics in dict.fromkeys(wanted) if numerics != REFERENCE]
    rows = [_graph_row(bundle, numerics, options.threads) for numerics in (REFERENCE, *others)]
    notes = []
    if options.torch:
        try:
            rows.insert(1, _torch_row(bundle, options.spec))
        except (SpecError, NetworkError, BundleError) as error:
            notes.append(f"PyTorch is left out: {error}")
    return rows, notes


def _graph_row(bundle: Bundle, numerics: Numerics, threads: int) -> Row:
    runners = {}
    for name, graph in bundle.graphs.items():
        lowered = as_measured(graph, numerics, bundle.calibrations.get(name))
        runners[name] = GraphRunner(name, lowered, threads)
    return Row(numerics, runners, policies_for(bundle.manifest, "fp32"), policies_for(bundle.manifest, numerics))


def _torch_row(bundle: Bundle, spec: Path | None) -> Row:
    modules = rebuild_stages(bundle, spec)
    runners = {stage.name: ModuleRunner(module) for stage, module in zip(bundle.manifest.stages, modules, strict=True)}
    policies = policies_for(bundle.manifest, "fp32")
    return Row("torch", runners, policies, policies)
