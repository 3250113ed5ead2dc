"""What one way to compute costs, added up frame by frame."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.calibration.logits import entropy_bits
from cascadert.calibration.metrics import ConfusionMatrix, Noise
from cascadert.calibration.pavpu import PAvPU
from cascadert.calibration.precision_report import Decisions, PrecisionRow, Quality, ScoreError
from cascadert.calibration.precision_rows import Row, RowRun
from cascadert.calibration.selection_metrics import Selection, SelectionAgreement
from cascadert.calibration.stage_runs import LOGITS, Array, CascadeTrace, Policies, StageTrace, signals
from cascadert.calibration.walk import labelled_stages, refines_blocks, undecided_stages
from cascadert.geometry import Grid
from cascadert.spec import SelectPolicy, ThresholdPolicy
from cascadert.stage_spec import LABELS, ORDER, SCORES

Labels = NDArray[np.uint8]
Scores = NDArray[np.float32]


class RowMeasure:
    """Adds up what `PrecisionRow` says."""

    def __init__(self, manifest: BundleManifest, row: Row) -> None:
        self._row, self._grid = row, manifest.spec.make_grid()
        self._undecided = undecided_stages(manifest)
        self._units = {stage.name: stage.score.unit for stage in manifest.spec.stages}
        names = [stage.name for stage in manifest.stages]
        self._whole, self._stages = _Share(), {name: _Share() for name in names}
        self._noise: dict[str, dict[str, Noise]] = {name: {} for name in names}
        self._score_errors: dict[str, list[Scores]] = {}
        self._selections = [_Selections(stage, row, manifest) for stage in manifest.stages if stage.select is not None]
        self._quality = _Qualities(manifest, row)

    def add(self, reference: CascadeTrace, run: RowRun, truth: Labels | None) -> None:
        """Add one frame; `reference` is fp32's trace of it, `truth` uint8 `[N, H, W]`."""
        self._whole.add(reference.labels, run.after.labels)
        for name, trace in reference.stages.items():
            outputs = run.outputs[name]
            add_noise(self._noise[name], trace.outputs, outputs)
            if LABELS in outputs:
                where = _labelled(trace, self._grid)
                self._stages[name].add(trace.outputs[LABELS][where], outputs[LABELS][where])
            if SCORES in outputs:
                decides = run.after.stages[name].outputs if name in self._undecided else outputs
                errors = score_errors(by_block(trace.outputs), by_block(decides))
                self._score_errors.setdefault(name, []).append(errors)
        for selections in self._selections:
            selections.add(reference, run)
        if truth is not None:
            self._quality.add(run, truth)

    def row(self) -> PrecisionRow:
        """Return what was added up."""
        return PrecisionRow(
            name=self._row.name,
            label_agreement=self._whole.value,
            stage_agreement={name: share.value for name, share in self._stages.items()},
            sqnr_db={name: least_sqnr_db(noise) for name, noise in self._noise.items()},
            score_errors={name: self._score_error(name) for name in self._score_errors},
            before={selections.stage.name: selections.before for selections in self._selections},
            after={selections.stage.name: selections.after for selections in self._selections},
            mean_n={selections.stage.name: float(np.mean(selections.n)) for selections in self._selections},
            quality=self._quality.quality(),
        )

    def decisions(self) -> tuple[Decisions, ...]:
        """Return the scores behind each decision."""
        return tuple(selections.decisions(self._row.name) for selections in self._selections)

    def _score_error(self, stage: str) -> ScoreError:
        errors = np.concatenate(self._score_errors[stage])
        return ScoreError(float(errors.mean()), float(np.percentile(errors, 99)), self._units[stage])


def add_noise(noise: dict[str, Noise], reference: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    """Add one run of a stage to the noise of each of its signals."""
    for name, signal in signals(reference).items():
        noise.setdefault(name, Noise()).add(signal, signals(found)[name])


def least_sqnr_db(noise: Mapping[str, Noise]) -> float:
    """Return the SQNR of the noisiest signal; NaN where there is none."""
    return min((each.sqnr_db for each in noise.values()), default=math.nan)


def by_block(outputs: Mapping[str, Array]) -> Scores:
    """Return a stage's sorted scores in the order of the blocks, float32 `[N * G]`."""
    scores: Scores = np.empty_like(outputs[SCORES])
    scores[outputs[ORDER]] = outputs[SCORES]
    return scores


def score_errors(reference: Scores, found: Scores) -> Scores:
    """Return the absolute changes of what fp32 scored; the rest nobody scores on its inputs."""
    scored = np.isfinite(reference)
    errors: Scores = np.abs(reference[scored] - found[scored])
    return errors


def theta_of(policy: SelectPolicy) -> float | None:
    """Return the threshold of a policy that is one."""
    return policy.theta if isinstance(policy, ThresholdPolicy) else None


def _labelled(trace: StageTrace, grid: Grid) -> NDArray[np.bool_]:
    """Where a stage made labels of its own, `[N, H, W]`: everywhere, or in the blocks it refined."""
    where = np.full(trace.outputs[LABELS].shape, trace.selected is None)
    for index in [] if trace.selected is None else trace.selected.tolist():
        camera, block = divmod(index, grid.size)
        top, left, bottom, right = grid.owned_box(block)
        where[camera, top:bottom, left:right] = True
    return where


class _Share:
    """Share of the labels that are equal."""

    def __init__(self) -> None:
        self._equal = self._all = 0

    def add(self, reference: Labels, found: Labels) -> None:
        self._equal += int(np.count_nonzero(reference == found))
        self._all += reference.size

    @property
    def value(self) -> float:
        return self._equal / self._all if self._all else math.nan


class _Selections:
    """One decision: which blocks fp32 refines, and the row, with theta as it was and as it was refitted."""

    def __init__(self, stage: StageEntry, row: Row, manifest: BundleManifest) -> None:
        assert stage.select is not None
        self.stage, self._producer, self._whole = stage, stage.select.producer, not refines_blocks(stage)
        self._unit, self._blocks = stage.select.unit, 1 if self._whole else manifest.spec.blocks
        self._thetas = theta_of(row.before[stage.name]), theta_of(row.after[stage.name])
        self.before, self.after = SelectionAgreement(self._whole), SelectionAgreement(self._whole)
        self.n: list[int] = []
        self._seen: list[tuple[Array, ...]] = []

    def add(self, reference: CascadeTrace, run: RowRun) -> None:
        before, after = self._thetas
        wanted, found = self._selection(reference, before), self._selection(run.after, after)
        self.before.add(wanted, self._selection(run.before, before))
        self.after.add(wanted, found)
        self.n.append(found.n)
        scores = [by_block({SCORES: side.scores, ORDER: side.order}) for side in (wanted, found)]
        chosen = [np.isin(np.arange(self._blocks), side.order[: side.n]) for side in (wanted, found)]
        self._seen.append((*scores, *chosen))

    def decisions(self, row: str) -> Decisions:
        reference, found, wanted, chosen = (np.stack(side) for side in zip(*self._seen, strict=True))
        return Decisions(row, self.stage.name, reference, found, wanted, chosen, *self._thetas, self._unit)

    def _selection(self, trace: CascadeTrace, theta: float | None) -> Selection:
        producer = trace.stages.get(self._producer)
        if producer is None:  # skipped: no block has a score
            nothing = np.full(self._blocks, -np.inf, np.float32), np.arange(self._blocks, dtype=np.int32)
            return Selection(*nothing, 0, theta)
        scores, order = producer.outputs[SCORES], producer.outputs[ORDER]
        if self._whole:
            scores, order = scores[:1], np.zeros(1, np.int32)
        return Selection(scores, order, len(trace.selected[self.stage.name]), theta)


class _Qualities:
    """What needs labels."""

    def __init__(self, manifest: BundleManifest, row: Row) -> None:
        self._first, frame = labelled_stages(manifest)[0], manifest.spec.frame
        self._size = frame.height, frame.width
        self._fast, self._cascade, self._every = (ConfusionMatrix(manifest.spec.num_classes) for _ in range(3))
        self._given = False
        self._pavpu = [self._windows(manifest, policies) for policies in (row.before, row.after)]

    def _windows(self, manifest: BundleManifest, policies: Policies) -> PAvPU | None:
        """Return what compares the first stage's entropy with the theta that is applied to it, if one is."""
        score = next(stage.score for stage in manifest.spec.stages if stage.name == self._first)
        decided = (s.name for s in manifest.stages if s.select is not None and s.select.producer == self._first)
        theta = next((theta_of(policies[name]) for name in decided), None)
        return None if theta is None or score.measure != "entropy" else PAvPU(theta)

    def add(self, run: RowRun, truth: Labels) -> None:
        assert run.every is not None
        self._given = True
        fast = run.outputs[self._first]
        self._fast.add(fast[LABELS], truth)
        self._cascade.add(run.after.labels, truth)
        self._every.add(run.every.labels, truth)
        for windows in self._pavpu:
            if windows is not None and LOGITS in fast:  # entropy as the stage computes it for its scores
                windows.add(fast[LABELS], truth, entropy_bits(fast[LOGITS], self._size))

    def quality(self) -> Quality | None:
        if not self._given:
            return None
        before, after = (None if windows is None else windows.value() for windows in self._pavpu)
        return Quality(
            miou_fast=self._fast.mean_iou(),
            miou=self._cascade.mean_iou(),
            miou_every=self._every.mean_iou(),
            class_iou=tuple(self._cascade.iou().tolist()),
            pavpu_before=before,
            pavpu=after,
        )
