"""What one way to compute costs, added up frame by frame."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.calibration.metrics import ConfusionMatrix, PAvPU
from cascadert.calibration.precision_report import Decisions, PrecisionRow, Quality
from cascadert.calibration.precision_rows import Row, RowRun
from cascadert.calibration.selection_metrics import Selection, SelectionAgreement
from cascadert.calibration.stage_runs import LOGITS, Array, CascadeTrace, Policies, StageTrace
from cascadert.export.glue import as_class_logits, entropy_bits, resize
from cascadert.geometry import Grid
from cascadert.spec import SelectPolicy, ThresholdPolicy

Labels = NDArray[np.uint8]
Scores = NDArray[np.float32]


class RowMeasure:
    """Adds up what `PrecisionRow` says."""

    def __init__(self, manifest: BundleManifest, row: Row) -> None:
        self._row, self._grid = row, manifest.spec.make_grid()
        names = [stage.name for stage in manifest.stages]
        self._whole, self._stages = _Share(), {name: _Share() for name in names}
        self._logits = {name: _Noise() for name in names}
        self._score_errors: list[Scores] = []
        self._selections = [_Selections(s, row, manifest.spec.blocks) for s in manifest.stages if s.select is not None]
        self._quality = _Qualities(manifest, row)

    def add(self, reference: CascadeTrace, run: RowRun, truth: Labels | None) -> None:
        """Add one frame; `reference` is fp32's trace of it, `truth` uint8 `[N, H, W]`."""
        self._whole.add(reference.labels, run.after.labels)
        for name, trace in reference.stages.items():
            outputs, where = run.outputs[name], _labelled(trace, self._grid)
            self._stages[name].add(trace.outputs["labels"][where], outputs["labels"][where])
            self._logits[name].add(trace.outputs[LOGITS], outputs[LOGITS])
            if "scores" in outputs:
                self._score_errors.append(score_errors(by_block(trace.outputs), by_block(outputs)))
        for selections in self._selections:
            selections.add(reference, run)
        if truth is not None:
            self._quality.add(run, truth)

    def row(self) -> PrecisionRow:
        """Return what was added up."""
        errors = np.concatenate(self._score_errors)
        return PrecisionRow(
            name=self._row.name,
            label_agreement=self._whole.value,
            stage_agreement={name: share.value for name, share in self._stages.items()},
            sqnr_db={name: noise.sqnr_db for name, noise in self._logits.items()},
            entropy_bits=float(errors.mean()),
            entropy_p99_bits=float(np.percentile(errors, 99)),
            before={selections.stage.name: selections.before for selections in self._selections},
            after={selections.stage.name: selections.after for selections in self._selections},
            mean_n={selections.stage.name: float(np.mean(selections.n)) for selections in self._selections},
            quality=self._quality.quality(),
        )

    def decisions(self) -> tuple[Decisions, ...]:
        """Return the scores behind each decision."""
        return tuple(selections.decisions(self._row.name) for selections in self._selections)


def by_block(outputs: Mapping[str, Array]) -> Scores:
    """Return a stage's sorted scores in the order of the blocks, float32 `[N * G]`."""
    scores: Scores = np.empty_like(outputs["scores"])
    scores[outputs["order"]] = outputs["scores"]
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
    where = np.full(trace.outputs["labels"].shape, trace.selected is None)
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


class _Noise:
    """`metrics.sqnr_db` over all frames: powers add up, decibels do not."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def add(self, reference: Array, found: Array) -> None:
        self._signal += float(np.square(reference, dtype=np.float64).sum())
        self._noise += float(np.square(np.subtract(reference, found, dtype=np.float64)).sum())

    @property
    def sqnr_db(self) -> float:
        if not self._noise:
            return math.inf if self._signal else math.nan
        return 10 * math.log10(self._signal / self._noise) if self._signal else -math.inf


class _Selections:
    """One decision: which blocks fp32 refines, and the row, with theta as it was and as it was refitted."""

    def __init__(self, stage: StageEntry, row: Row, blocks: int) -> None:
        assert stage.select is not None
        self.stage, self._producer, self._blocks = stage, stage.select.producer, blocks
        self._thetas = theta_of(row.before[stage.name]), theta_of(row.after[stage.name])
        self.before, self.after, self.n = SelectionAgreement(), SelectionAgreement(), list[int]()
        self._seen: list[tuple[Array, ...]] = []

    def add(self, reference: CascadeTrace, run: RowRun) -> None:
        before, after = self._thetas
        wanted, found = self._selection(reference, before), self._selection(run.after, after)
        self.before.add(wanted, self._selection(run.before, before))
        self.after.add(wanted, found)
        self.n.append(found.n)
        scores = [by_block({"scores": side.scores, "order": side.order}) for side in (wanted, found)]
        chosen = [np.isin(np.arange(self._blocks), side.order[: side.n]) for side in (wanted, found)]
        self._seen.append((*scores, *chosen))

    def decisions(self, row: str) -> Decisions:
        reference, found, wanted, chosen = (np.stack(side) for side in zip(*self._seen, strict=True))
        return Decisions(row, self.stage.name, reference, found, wanted, chosen, *self._thetas)

    def _selection(self, trace: CascadeTrace, theta: float | None) -> Selection:
        producer = trace.stages.get(self._producer)
        if producer is None:  # skipped: no block has a score
            nothing = np.full(self._blocks, -np.inf, np.float32), np.arange(self._blocks, dtype=np.int32)
            return Selection(*nothing, 0, theta)
        outputs = producer.outputs
        return Selection(outputs["scores"], outputs["order"], len(trace.selected[self.stage.name]), theta)


class _Qualities:
    """What needs labels."""

    def __init__(self, manifest: BundleManifest, row: Row) -> None:
        self._first, frame = manifest.stages[0].name, manifest.spec.frame
        self._size = frame.height, frame.width
        self._fast, self._cascade, self._every = (ConfusionMatrix(manifest.spec.num_classes) for _ in range(3))
        self._given = False
        self._pavpu = [self._windows(row.before), self._windows(row.after)]

    @staticmethod
    def _windows(policies: Policies) -> PAvPU | None:
        theta = next(map(theta_of, policies.values()), None)
        return None if theta is None else PAvPU(theta)

    def add(self, run: RowRun, truth: Labels) -> None:
        assert run.every is not None
        self._given = True
        fast = run.outputs[self._first]
        self._fast.add(fast["labels"], truth)
        self._cascade.add(run.after.labels, truth)
        self._every.add(run.every.labels, truth)
        uncertainty = self._entropy(fast[LOGITS])
        for windows in self._pavpu:
            if windows is not None:
                windows.add(fast["labels"], truth, uncertainty)

    def _entropy(self, logits: Array) -> NDArray[np.float32]:
        """Return bits for each pixel of the frame, as the stage computes them for its scores: `[N, H, W]`."""
        bits: NDArray[np.float32] = entropy_bits(resize(as_class_logits(torch.tensor(logits)), *self._size)).numpy()
        return bits

    def quality(self) -> Quality | None:
        if not self._given:
            return None
        return Quality(
            miou_fast=self._fast.mean_iou(),
            miou=self._cascade.mean_iou(),
            miou_every=self._every.mean_iou(),
            class_iou=tuple(self._cascade.iou().tolist()),
            pavpu_before=None if self._pavpu[0] is None else self._pavpu[0].value(),
            pavpu=None if self._pavpu[1] is None else self._pavpu[1].value(),
        )
