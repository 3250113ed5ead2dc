"""`calibrate`: a bundle becomes a bundle that can be built in fp16 and int8, with what that costs measured.

Frames are split: most calibrate, every fourth is held out and judges. Calibrators, operators that fall back, and theta
are all chosen by what was measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cascadert.artefacts import check_output
from cascadert.bundle import (
    BUNDLE_FILE,
    CREATED_BY,
    Bundle,
    BundleManifest,
    CalibrationEntry,
    calibration_part,
    write_bundle,
)
from cascadert.calibration.judge import StageJudge
from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions
from cascadert.calibration.precision_report import PrecisionReport
from cascadert.calibration.quality import at_fault, quality_row
from cascadert.calibration.ranges import Measured, measure_ranges
from cascadert.calibration.refit import (
    Recording,
    Reference,
    Refit,
    cascade_miou,
    deciding,
    policies_of,
    refit_thetas,
)
from cascadert.calibration.samples import SampleOptions, collect, never_ran
from cascadert.calibration.stage_plans import DialectPlan, Say, StagePlanner
from cascadert.calibration.stage_runs import GraphRunner, StageRunner, StageTrace, run_cascade
from cascadert.errors import InvalidRequest
from cascadert.export.network import network_graph
from cascadert.export.precision import as_measured
from cascadert.precision import CALIBRATORS, Calibrator, Int8Dialect, Numerics, StageCalibration, int8_numerics

HELD_OUT = 4
"""Every fourth frame judges and does not calibrate."""

JUDGES = 8
"""Held-out frames that calibrators and groups are judged on; the comparison at the end takes all of them."""

ROUNDS = 6
"""How often a cascade that is not within its limits is given less int8; each round halves the noise."""


@dataclass(frozen=True)
class CalibrateOptions:
    """How to calibrate.

    Attributes:
        source: where the frames came from, for the record.
        samples: how much of them to keep.
        calibrators: which to try; the best of them by measured result is taken.
        dialects: for which hardware to prepare int8.
        refit: what theta is refitted for, see `refit_thetas`.
        replace: overwrite an older bundle.
    """

    source: str = "frames"
    samples: SampleOptions = field(default_factory=SampleOptions)
    calibrators: tuple[Calibrator, ...] = CALIBRATORS
    dialects: tuple[Int8Dialect, ...] = ("tensorrt", "cpu")
    refit: Refit = "blocks"
    replace: bool = False


@dataclass(frozen=True)
class Calibrated:
    """The new bundle, what was measured, how each stage became int8, and the comparison on held-out frames."""

    bundle: Bundle
    measured: Mapping[str, Measured]
    plans: Mapping[str, Mapping[Int8Dialect, DialectPlan]]
    fp16_keep: Mapping[str, Mapping[str, str]]
    report: PrecisionReport


def calibrate(
    bundle: Bundle,
    recording: Recording,
    output: Path,
    options: CalibrateOptions = CalibrateOptions(),
    say: Say = lambda _: None,
) -> Calibrated:
    """Calibrate every stage of a bundle and write a new one.

    Args:
        bundle: what to calibrate; it stays as it is.
        recording: frames like those that it will see, and their labels if there are any.
        output: the folder to write.
        options: see `CalibrateOptions`.
        say: called with what is being done.

    Raises:
        InvalidRequest: too few frames, frames on which a stage does not run, or the output exists.
        MissingExtra: ONNX Runtime is not installed.
    """
    check_output(output, [BUNDLE_FILE], replace=options.replace)
    _check(recording, options)
    run = _Run(bundle, recording, options, say)
    run.plan_stages()
    return run.finish(output)


def _check(recording: Recording, options: CalibrateOptions) -> None:
    if len(recording.frames) < 2 * HELD_OUT:
        found = f"are {len(recording.frames)}, of which every {HELD_OUT}th is held out"
        raise InvalidRequest("frames", found, f"give at least {2 * HELD_OUT}")
    if recording.truths is not None and len(recording.truths) != len(recording.frames):
        found = f"are {len(recording.truths)} for {len(recording.frames)} frames"
        raise InvalidRequest("labels", found, "give one for each frame")
    if options.refit == "miou" and recording.truths is None:
        raise InvalidRequest("refit 'miou'", "there are no labels", "give labels, or refit for 'blocks'")


def split(recording: Recording) -> tuple[Recording, Recording]:
    """Return the frames that calibrate, and those held out."""
    held = range(HELD_OUT - 1, len(recording.frames), HELD_OUT)
    seen = [i for i in range(len(recording.frames)) if i not in held]
    return _pick(recording, seen), _pick(recording, held)


def _pick(recording: Recording, indices: Sequence[int]) -> Recording:
    truths = None if recording.truths is None else [recording.truths[i] for i in indices]
    return Recording([recording.frames[i] for i in indices], truths)


class _Run:
    """One calibration: the frames, the stages in fp32, and what was found so far."""

    def __init__(self, bundle: Bundle, recording: Recording, options: CalibrateOptions, say: Say) -> None:
        self._bundle, self._options, self._say = bundle, options, say
        self._seen, self._held = split(recording)
        self._reference = self._runners("fp32", {})
        self._units = {stage.name: stage.score.unit for stage in bundle.spec.stages}
        self._planners: dict[str, StagePlanner] = {}
        say("running the cascade in fp32")
        self._samples = collect(bundle, self._seen.frames, options.samples, self._seen.truths)
        self._fp32 = self._measured_in_fp32()

    def plan_stages(self) -> None:
        """Measure and choose, stage by stage."""
        options = self._options
        traces = self._judging_traces()
        for name, graph in self._bundle.graphs.items():
            if not traces[name]:
                raise never_ran(self._bundle.manifest, name, len(self._held.frames))
            self._say(f"{name}: ranges")
            measured = Measured({}, {})
            if seen := self._samples.seen[name]:
                histograms = None if options.dialects else ()  # fp16 asks for extremes alone
                measured = measure_ranges(network_graph(graph), seen, histograms, options.samples.threads)
            judge = StageJudge(name, traces[name], self._units[name], options.samples.threads)
            planner = StagePlanner(graph, measured, judge, self._say)
            for dialect in options.dialects:
                planner.choose(dialect, options.calibrators)
            self._planners[name] = planner

    def _measured_in_fp32(self) -> Reference:
        """Return what theta is refitted against; the scores were seen when frames were sampled."""
        entries, seen = {stage.name: stage for stage in self._bundle.manifest.stages}, self._samples.selections
        scores = {name: [deciding(entries[name], one.scores) for one in found] for name, found in seen.items()}
        if self._options.refit != "miou":
            return Reference(scores)
        manifest = self._bundle.manifest
        return Reference(scores, cascade_miou(manifest, self._reference, self._seen, policies_of(manifest)))

    def _judging_traces(self) -> dict[str, list[StageTrace]]:
        """Run held-out frames in fp32 until every stage has enough of them; they hold logits, which are large."""
        manifest = self._bundle.manifest
        policies = policies_of(manifest)
        traces: dict[str, list[StageTrace]] = {stage.name: [] for stage in manifest.stages}
        for planes in self._held.frames:
            if all(len(kept) == JUDGES for kept in traces.values()):
                break
            for name, trace in run_cascade(manifest, self._reference, planes, policies, {}).stages.items():
                traces[name] += [trace] if len(traces[name]) < JUDGES else []
        return traces

    def finish(self, output: Path) -> Calibrated:
        """Refit theta, compare the whole cascade, give up int8 where it is not good enough, and write the bundle."""
        rounds: dict[Numerics, dict[str, float]] = {"fp16": self._thetas("fp16")}
        for dialect in self._options.dialects:
            numerics = int8_numerics(dialect)
            rounds[numerics] = self._within_limits(dialect, numerics)
        self._say("comparing precisions")
        manifest = self._manifest(rounds)
        report = self._compare(manifest, ("fp16", *(n for n in rounds if n != "fp16")))
        entry = manifest.calibration
        if entry is not None:
            entry = entry.model_copy(update={"quality": tuple(map(quality_row, report.rows))})
        written = self._write(output, manifest.model_copy(update={"calibration": entry}), self._options.replace)
        found = self._planners.items()
        return Calibrated(
            bundle=written,
            measured={name: planner.measured for name, planner in found},
            plans={name: planner.plans for name, planner in found},
            fp16_keep={name: planner.fp16_keep for name, planner in found},
            report=report,
        )

    def _within_limits(self, dialect: Int8Dialect, numerics: Numerics) -> dict[str, float]:
        """Give up int8 until the cascade is within its limits; returns the thetas."""
        for _ in range(ROUNDS):
            thetas = self._thetas(numerics)
            self._say(f"{numerics}: comparing the cascade with fp32")
            report = self._compare(self._manifest({numerics: thetas}), (numerics,))
            if all(check.passed for check in report.checks):
                return thetas
            blamed = at_fault(report.row(numerics), self._bundle.manifest)
            tightened = [self._planners[name].tighten(dialect) for name in blamed]
            if not any(tightened):
                break
        for planner in self._planners.values():
            planner.give_up(dialect)
        return self._thetas(numerics)

    def _thetas(self, numerics: Numerics) -> dict[str, float]:
        self._say(f"{numerics}: refitting theta")
        calibrations = {name: planner.calibration() for name, planner in self._planners.items()}
        runners = self._runners(numerics, calibrations)
        return refit_thetas(self._bundle.manifest, self._fp32, runners, self._seen, self._options.refit)

    def _runners(self, numerics: Numerics, calibrations: Mapping[str, StageCalibration]) -> dict[str, StageRunner]:
        return {
            name: GraphRunner(
                name,
                as_measured(graph, numerics, calibrations.get(name)),
                self._options.samples.threads,
            )
            for name, graph in self._bundle.graphs.items()
        }

    def _compare(self, manifest: BundleManifest, numerics: tuple[Numerics, ...]) -> PrecisionReport:
        options = PrecisionOptions(numerics=numerics, torch=False, threads=self._options.samples.threads)
        with tempfile.TemporaryDirectory(prefix="cascadert-calibrate-") as scratch:
            candidate = self._write(Path(scratch) / "bundle", manifest, replace=False)
            return compare_precisions(candidate, self._held.frames, options, self._held.truths)

    def _write(self, path: Path, manifest: BundleManifest, replace: bool) -> Bundle:
        calibrations = {name: planner.calibration() for name, planner in self._planners.items()}
        return write_bundle(path, manifest, self._bundle.graphs, calibrations, replace=replace)

    def _manifest(self, thetas: Mapping[Numerics, Mapping[str, float]]) -> BundleManifest:
        manifest, samples = self._bundle.manifest, self._samples
        stages = []
        for stage in manifest.stages:
            planner = self._planners[stage.name]
            select = stage.select
            if select is not None:
                refitted = {numerics: found[stage.name] for numerics, found in thetas.items() if stage.name in found}
                select = select.model_copy(update={"thetas": refitted})
            part = calibration_part(stage.name, planner.calibration())
            stages.append(stage.model_copy(update={"select": select, "calibration": part}))
        chosen = {
            name: {d: p.plan.calibrator for d, p in planner.plans.items()} for name, planner in self._planners.items()
        }
        entry = CalibrationEntry(
            source=self._options.source,
            images=samples.frames,
            images_sha256=samples.frames_sha256,
            seed=self._options.samples.seed,
            chosen=chosen,
        )
        return manifest.model_copy(update={"created_by": CREATED_BY, "stages": tuple(stages), "calibration": entry})
