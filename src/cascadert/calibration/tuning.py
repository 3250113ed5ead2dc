"""Tuning: theta, blocks, halo and precision chosen by a goal, and a bundle that has what was chosen.

Three frames of four choose, as they calibrate; the fourth judges. Blocks and halo are compared in fp32; other
precisions on what was chosen among those, after it is calibrated, since each has a theta of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from cascadert.bundle import Bundle, BundleManifest, write_bundle
from cascadert.calibration.calibrate import HELD_OUT, Calibrated, CalibrateOptions, calibrate, split
from cascadert.calibration.exit_chain import exits_of
from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions
from cascadert.calibration.precision_report import PrecisionReport
from cascadert.calibration.quality import quality_row
from cascadert.calibration.refit import Recording
from cascadert.calibration.tuning_choice import Goal, choose, nearest, pareto
from cascadert.calibration.tuning_costs import measure_costs, read_costs
from cascadert.calibration.tuning_curves import Split, make_curve, references_of, sweep_bundle
from cascadert.calibration.tuning_exits import plan_by_goal
from cascadert.calibration.tuning_report import (
    BLOCK_ORACLE,
    EVERY,
    FAST,
    Choice,
    Curve,
    Outcome,
    Point,
    TuningReport,
)
from cascadert.calibration.tuning_sweep import own_thetas
from cascadert.calibration.tuning_variants import VariantOptions, make_variants
from cascadert.errors import InvalidRequest
from cascadert.export.rewire import with_thetas, write_rewired
from cascadert.precision import Numerics, int8_numerics

Say = Callable[[str], None]
_PROFILED = 8  # frames that times are measured on, in turns
_HERE: tuple[Numerics, ...] = ("fp32", "int8-cpu")
"""Precisions that ONNX Runtime has kernels for on a CPU; what imitates others takes no time that means anything."""


@dataclass(frozen=True)
class TuneOptions:
    """What to try, and what for.

    Attributes:
        goal: what to choose by; none: curves alone.
        variants: blocks and halos.
        numerics: precisions; those beside fp32 are tried on the variant that fp32 chooses.
        profile: report of a bench on the device that matters; none: times are measured here.
        threads: of ONNX Runtime; 0 for all cores.
        repeats: measurements of each time, of which the median counts.
    """

    goal: Goal | None = None
    variants: VariantOptions = field(default_factory=VariantOptions)
    numerics: tuple[Numerics, ...] = ("fp32",)
    profile: Path | None = None
    threads: int = 0
    repeats: int = 5

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            InvalidRequest: a profile for several variants, variants without fp32, where they are compared, or a
                precision that has no time here.
        """
        if (self.variants.blocks or self.variants.halos) and "fp32" not in self.numerics:
            found = "leaves out fp32, in which blocks and halos are compared"
            raise InvalidRequest(f"--precision {','.join(self.numerics)}", found, "add fp32")
        if self.variants.spec is not None and not (self.variants.blocks or self.variants.halos):
            found = "says where to export other blocks or halos from, and none are asked for"
            raise InvalidRequest(f"--spec {self.variants.spec}", found, "add --block or --halo, or leave it out")
        several = self.variants.blocks or self.variants.halos or len(self.numerics) > 1
        if self.profile is not None and several:
            found = "has the times of one bundle in one precision"
            raise InvalidRequest(f"--profile {self.profile}", found, "leave --block, --halo and more precisions out")
        imitated = [numerics for numerics in self.numerics if numerics not in _HERE]
        if self.profile is None and imitated:
            found = "has no kernels on a CPU, so that its time here would say nothing"
            remedy = "measure it with `cascadert bench --json` on the device, and pass that as --profile"
            raise InvalidRequest(f"--precision {imitated[0]}", found, remedy)


@dataclass(frozen=True)
class Tuned:
    """The report, and the bundle that was written, calibrated."""

    report: TuningReport
    calibrated: Calibrated


def tune(
    bundle: Bundle,
    recording: Recording,
    output: Path,
    options: TuneOptions,
    calibration: CalibrateOptions,
    say: Say = lambda _: None,
) -> Tuned:
    """Tune a bundle on labelled frames, calibrate what was chosen, and write it.

    Args:
        bundle: what to tune; it stays as it is.
        recording: frames with labels.
        output: the folder to write.
        options: see `TuneOptions`.
        calibration: see `calibrate`.
        say: called with what is being done.

    Raises:
        InvalidRequest: a goal that nothing reaches, no labels, or what `TuneOptions.check` and `calibrate` refuse.
    """
    options.check()
    if recording.truths is None:
        raise InvalidRequest("tuning", "there are no labels", "give labels")
    if len(recording.frames) < 2 * HELD_OUT:
        found = f"are {len(recording.frames)}, of which every {HELD_OUT}th is held out"
        raise InvalidRequest("frames", found, f"give at least {2 * HELD_OUT}")
    prepared = {"fp32", "fp16", *map(int8_numerics, calibration.dialects)}
    for numerics in options.numerics:
        if numerics not in prepared:
            remedy = "calibrate for it, too (--int8), or leave it out"
            raise InvalidRequest(f"--precision {numerics}", "is none that is calibrated here", remedy)
    with tempfile.TemporaryDirectory(prefix="cascadert-tune-") as work:
        if is_exit_chain(bundle.manifest):
            return _tune_exits(bundle, recording, output, Path(work), options, calibration, say)
        return _Tuning(bundle, recording, options, Path(work), say).run(output, calibration)


def is_exit_chain(manifest: BundleManifest) -> bool:
    """Whether a cascade is a chain of exits, which are planned, not swept."""
    try:
        exits_of(manifest)
    except InvalidRequest:
        return False
    return True


def why_not(manifest: BundleManifest) -> str | None:
    """Say why a cascade has no curves over theta; none where it has."""
    try:
        own_thetas(manifest)
    except InvalidRequest as error:
        return str(error)
    return None


def split_of(frames: int) -> Split:
    """Return the frames that choose, and every fourth, which is held out."""
    held = range(HELD_OUT - 1, frames, HELD_OUT)
    return Split([i for i in range(frames) if i not in held], list(held))


class _Tuning:
    """One tuning of thetas: variants measured so far, with their bundles."""

    def __init__(self, bundle: Bundle, recording: Recording, options: TuneOptions, work: Path, say: Say) -> None:
        own_thetas(bundle.manifest)  # refuses other policies before anything is run
        self._bundle, self._recording, self._options, self._work, self._say = bundle, recording, options, work, say
        self._split = split_of(len(recording.frames))
        self._curves: list[Curve] = []
        self._bundles: list[Bundle] = []
        self._best: tuple[float, float] | None = None

    def run(self, output: Path, calibration: CalibrateOptions) -> Tuned:
        others = [numerics for numerics in self._options.numerics if numerics != "fp32"]
        if "fp32" in self._options.numerics:
            variants = make_variants(self._bundle, self._options.variants, self._work, self._say)
            self._add((variant, "fp32") for variant in variants)
        base = self._base(reach=not others)
        if not others:
            return Tuned(self._report(), calibrate(base, self._recording, output, calibration, self._say))
        calibrated = calibrate(base, self._recording, self._work / "calibrated", calibration, self._say)
        self._add((calibrated.bundle, numerics) for numerics in others)
        report = self._report()
        return Tuned(report, self._written(calibrated, output, replace_output=calibration.replace))

    def _written(self, calibrated: Calibrated, output: Path, *, replace_output: bool) -> Calibrated:
        """Write the bundle with the theta that the goal picks for each precision, and judge it with those."""
        bundle, thetas = calibrated.bundle, self._thetas()
        manifest = with_refitted(bundle.manifest, thetas)
        judged = calibrated.report
        if thetas:
            self._say("comparing precisions at the thetas of the goal")
            _, held = split(self._recording)
            numerics = tuple(numerics for numerics in get_args(Numerics) if numerics in {r.name for r in judged.rows})
            options = PrecisionOptions(numerics=numerics, torch=False, threads=self._options.threads)
            candidate = write_rewired(bundle, manifest, self._work / "refitted")
            judged = compare_precisions(candidate, held.frames, options, held.truths)
            manifest = _judged(manifest, judged)
        written = write_bundle(output, manifest, bundle.graphs, bundle.calibrations, replace=replace_output)
        return replace(calibrated, bundle=written, report=judged)

    def _add(self, wanted: Iterable[tuple[Bundle, Numerics]]) -> None:
        """Measure some variants: labels one after the other, times in turns."""
        recording, split, options = self._recording, self._split, self._options
        swept = []
        for bundle, numerics in wanted:
            swept.append(sweep_bundle(bundle, numerics, recording, split, options.threads, self._say))
            self._bundles.append(bundle)
        if options.profile is not None:
            costs = [read_costs(one.cascade.manifest, options.profile) for one in swept]
        else:
            frames, cascades = recording.frames[:_PROFILED], [one.cascade for one in swept]
            costs = measure_costs(cascades, frames, options.threads, options.repeats, self._say)
        self._curves += [make_curve(one, split, cost) for one, cost in zip(swept, costs, strict=True)]

    def _base(self, *, reach: bool) -> Bundle:
        """Return what to calibrate: the variant and theta that fp32 chooses, or comes nearest with."""
        if self._options.goal is None or not self._curves:
            return self._bundle
        chosen = self._choose(reach=reach)
        if chosen is None:
            return self._bundle
        curve, point = chosen
        bundle, thetas = self._bundles[curve], self._curves[curve].points[point].thetas
        manifest = with_thetas(bundle.manifest, thetas)
        return write_rewired(bundle, manifest, self._work / "tuned")

    def _choose(self, *, reach: bool) -> tuple[int, int] | None:
        """Return the curve and point of the goal; where nothing reaches it, what is nearest, or refuse."""
        goal = self._options.goal
        assert goal is not None
        places = [(c, p) for c, curve in enumerate(self._curves) for p in range(len(curve.points))]
        found = [self._curves[c].points[p].seen for c, p in places]
        best_miou, _ = self._reference()
        index = choose(goal, found, best_miou)
        if not reach and (index is None or not self._refines(places[index])):
            # Another precision may reach the goal, and is calibrated on blocks that somebody picks.
            places = [place for place in places if self._refines(place)]
            index = nearest(goal, [self._curves[c].points[p].seen for c, p in places])
        elif index is None:
            near = nearest(goal, found)
            best = None if near is None else (places[near], found[near])
            raise _unreached(goal, self._curves, best, best_miou)
        elif reach:
            _check_refines(goal, self._curves[places[index][0]], places[index][1])
        return None if index is None else places[index]

    def _report(self) -> TuningReport:
        goal, chosen = self._options.goal, None
        places = [(c, p) for c, curve in enumerate(self._curves) for p in range(len(curve.points))]
        found = [self._curves[c].points[p].seen for c, p in places]
        times = [one.latency_ms if goal is None else goal.time_ms(one) for one in found]
        front = pareto(times, [one.miou for one in found])
        if goal is not None and (place := self._choose(reach=True)) is not None:
            best, held_best = self._reference()
            held = self._curves[place[0]].points[place[1]].held
            chosen = Choice(*place, best, held_best, goal.is_met(held, held_best))
        return TuningReport(
            name=self._bundle.spec.name,
            classes=self._bundle.spec.classes.names,
            frames=len(self._recording.frames),
            held_out=len(self._split.held),
            goal=goal,
            curves=tuple(self._curves),
            front=tuple(places[i] for i in front),
            choice=chosen,
            class_iou=_class_iou(self._curves, chosen),
        )

    def _refines(self, place: tuple[int, int]) -> bool:
        curve, point = place
        return _refines(self._curves[curve].points[point])

    def _reference(self) -> tuple[float, float]:
        """Return what a drop is counted from: fixed by the first curves, lest it move after fp32 has chosen."""
        if self._best is None:
            self._best = references_of(self._curves)
        return self._best

    def _thetas(self) -> dict[Numerics, Mapping[str, float]]:
        """Return the thetas that the goal picks of each precision that reaches it and still refines something."""
        goal, thetas = self._options.goal, dict[Numerics, Mapping[str, float]]()
        if goal is None:
            return thetas
        best_miou, _ = self._reference()
        for curve in self._curves:
            seen = [point.seen for point in curve.points]
            index = choose(goal, seen, best_miou)
            if curve.variant.numerics != "fp32" and index is not None and _refines(curve.points[index]):
                thetas[curve.variant.numerics] = curve.points[index].thetas
        return thetas


def with_refitted(manifest: BundleManifest, thetas: Mapping[Numerics, Mapping[str, float]]) -> BundleManifest:
    """Return the manifest with other thetas for some precisions; what was judged with the former ones is dropped."""
    stages = []
    for stage in manifest.stages:
        select = stage.select
        if select is not None:
            own = {numerics: found[stage.name] for numerics, found in thetas.items() if stage.name in found}
            select = select.model_copy(update={"thetas": {**select.thetas, **own}})
        stages.append(stage.model_copy(update={"select": select}))
    entry = manifest.calibration
    if entry is not None:
        kept = tuple(row for row in entry.quality if row.numerics not in thetas)
        entry = entry.model_copy(update={"quality": kept})
    return manifest.model_copy(update={"stages": tuple(stages), "calibration": entry})


def _judged(manifest: BundleManifest, report: PrecisionReport) -> BundleManifest:
    """Return the manifest with what a comparison found of its precisions."""
    entry = manifest.calibration
    if entry is None:
        return manifest
    entry = entry.model_copy(update={"quality": tuple(map(quality_row, report.rows))})
    return manifest.model_copy(update={"calibration": entry})


def _refines(point: Point) -> bool:
    """Whether every decision picks some block, on the frames that choose and on those held out."""
    return all(counts.mean > 0 for found in (point.seen, point.held) for counts in found.n.values())


def _class_iou(curves: Sequence[Curve], choice: Choice | None) -> dict[str, tuple[float, ...]]:
    curve = curves[0 if choice is None else choice.curve]
    point = curve.points[curve.own if choice is None else choice.point]
    fast, every, oracle = (curve.references[kind] for kind in (FAST, EVERY, BLOCK_ORACLE))
    shown = {
        f"{fast.stage} alone": fast.seen,
        "chosen" if choice is not None else "as it is": point.seen,
        f"{every.stage} on every block": every.seen,
        "block oracle": oracle.seen,
    }
    return {name: found.quality.class_iou for name, found in shown.items()}


def _unreached(
    goal: Goal, curves: Sequence[Curve], near: tuple[tuple[int, int], Outcome] | None, best_miou: float
) -> InvalidRequest:
    if near is None:
        return InvalidRequest(str(goal), "nothing could be measured", "give frames whose labels name classes")
    (curve, point), found = near
    shown = ", ".join(f"{theta:.4g}" for theta in curves[curve].points[point].thetas.values())
    where = f"at theta = {shown} ({curves[curve].variant})"
    if goal.kind == "max-drop":
        lost = f"the best loses {100 * (best_miou - found.miou):.2f} points {where}"
        return InvalidRequest(str(goal), f"is not reached: {lost}", "allow more")
    took = f"{goal.time_ms(found):.1f} ms"
    if goal.kind == "target-fps":
        took += f", {1000 / goal.time_ms(found):.1f} frames per second"
    remedy = "ask for less, or try a faster first stage"
    return InvalidRequest(str(goal), f"is not reached: the fastest takes {took}, {where}", remedy)


def _check_refines(goal: Goal, curve: Curve, index: int) -> None:
    """Refuse a choice by which some stage never runs: that is no cascade, and cannot be calibrated."""
    point = curve.points[index]
    for name in point.thetas:
        if not (point.seen.n[name].mean and point.held.n[name].mean):
            fast = curve.references[FAST].stage
            found = f"is best met where '{name}' (almost) never runs, with {100 * point.seen.miou:.2f} % mIoU"
            raise InvalidRequest(str(goal), found, f"ask for more, or export the cascade --until {fast}")


def _tune_exits(
    bundle: Bundle, recording: Recording, output: Path, work: Path, options: TuneOptions,
    calibration: CalibrateOptions, say: Say,
) -> Tuned:  # fmt: skip
    if options.variants.blocks or options.variants.halos or options.numerics != ("fp32",):
        found = "has exits about whole frames, which are planned in fp32"
        raise InvalidRequest(f"'{bundle.spec.name}'", found, "leave --block, --halo and --precision out")
    split = split_of(len(recording.frames))
    planned, report = plan_by_goal(bundle, recording, split, options.goal, options.threads, options.profile, say)
    base = bundle if planned is None else write_rewired(bundle, planned, work / "planned")
    return Tuned(report, calibrate(base, recording, output, calibration, say))
