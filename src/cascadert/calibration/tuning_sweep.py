"""Labels of a cascade at every theta, from as few runs as it takes.

Where the labels of a refined block do not depend on which others are refined, each frame runs once with all of them:
the labels at any theta are those of the first stage with the blocks above theta put in place, where these own pixels.
Where they do (averaged overlaps, stages that see all selected blocks at once, several decisions), the cascade runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest
from cascadert.calibration.evaluation_rows import decision_grid, refine_cameras
from cascadert.calibration.metrics import ConfusionMatrix, Labels
from cascadert.calibration.oracles import better_blocks, pixel_oracle
from cascadert.calibration.refit import Recording, deciding
from cascadert.calibration.thresholds import candidate_thetas
from cascadert.calibration.tuning_report import BLOCK_ORACLE, EVERY, FAST, PIXEL_ORACLE, ReferenceKind
from cascadert.calibration.walk import labelled_stages, refines_blocks
from cascadert.errors import InvalidRequest
from cascadert.geometry import Grid
from cascadert.runtime.control import Scores, count_above
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Planes
from cascadert.spec import ThresholdPolicy, TopKPolicy
from cascadert.stage_spec import LABELS

THETAS = 17
"""Of one decision; each refines another share of all blocks."""

COMBINATIONS = 25
"""About so many of several decisions: each costs a run of every frame."""

Matrices = NDArray[np.int64]


@dataclass(frozen=True)
class FrameRun:
    """One frame with every block refined.

    Attributes:
        truth: uint8 `[N, H, W]`, as are the next two.
        fast: labels of the first stage that makes some.
        refined: labels of the last one.
        scores: float32 `[N * G]` sorted, before each decision, by its stage.
        orders: int32 `[N * G]`, the block of each score.
    """

    truth: Labels
    fast: Labels
    refined: Labels
    scores: Mapping[str, Scores]
    orders: Mapping[str, NDArray[np.int32]]


@dataclass(frozen=True)
class Counted:
    """Some way to label F frames: n of each of D decisions, int64 `[F, D]`, if any, and pixels of (truth, prediction).

    `confusion` is int64 `[F, K, K]`.
    """

    n: Matrices | None
    confusion: Matrices


@dataclass(frozen=True)
class Sweep:
    """Every theta of one variant on every frame.

    Attributes:
        stages: the D that decide.
        thetas: one of each stage, ascending.
        at: what each of them gave.
        references: what needs no theta.
        scores: before each decision, of the frames that choose.
        composed: whether labels were put together from single runs.
    """

    stages: tuple[str, ...]
    thetas: tuple[tuple[float, ...], ...]
    at: tuple[Counted, ...]
    references: Mapping[ReferenceKind, Counted]
    scores: Mapping[str, Sequence[Scores]]
    composed: bool


def own_thetas(manifest: BundleManifest) -> dict[str, float]:
    """Return theta of each decision, by its stage.

    Raises:
        InvalidRequest: nothing is decided, or something not by a threshold.
    """
    subject, found = f"theta of '{manifest.spec.name}'", dict[str, float]()
    for stage in manifest.stages:
        if stage.select is None:
            continue
        if not isinstance(stage.select.policy, ThresholdPolicy):
            found_policy = f"stage '{stage.name}' decides by {stage.select.policy.policy}"
            remedy = 'export it with select = { policy = "threshold", theta = ... }'
            raise InvalidRequest(subject, found_policy, remedy)
        found[stage.name] = stage.select.policy.theta
    if not found:
        raise InvalidRequest(subject, "no stage decides about anything", "give a cascade")
    return found


def composes(manifest: BundleManifest) -> bool:
    """Whether the labels of a block are the same whichever others are refined, and no block is refined twice."""
    decided = [stage for stage in manifest.stages if stage.select is not None]
    specs = {stage.name: stage for stage in manifest.spec.stages}
    if len(decided) != 1:
        return False
    (stage,) = decided
    labels = next((output for output in stage.outputs if output.name == LABELS), None)
    alone = stage == manifest.stages[-1] and refines_blocks(stage) and specs[stage.name].merge == "owner"
    return alone and labels is not None and labels.when_skipped == f"{labelled_stages(manifest)[0]}.{LABELS}"


def kept_tensors(manifest: BundleManifest) -> tuple[str, ...]:
    """Return what a pipeline must keep of each frame for `run_frame`."""
    selects = [stage.select for stage in manifest.stages if stage.select is not None]
    labelled = labelled_stages(manifest)
    ends = [f"{name}.{LABELS}" for name in (labelled[0], labelled[-1])]
    return tuple(sorted({*ends, *(name for select in selects for name in (select.scores, select.order))}))


def run_frame(pipeline: Pipeline, planes: Planes, truth: Labels) -> FrameRun:
    """Run one frame with every block refined."""
    manifest = pipeline.manifest
    selects = {stage.name: stage.select for stage in manifest.stages if stage.select is not None}
    tensors = pipeline.infer(planes, dict.fromkeys(selects, TopKPolicy(k=pipeline.blocks))).tensors
    labelled = labelled_stages(manifest)
    return FrameRun(
        truth=truth,
        fast=tensors[f"{labelled[0]}.{LABELS}"],
        refined=tensors[f"{labelled[-1]}.{LABELS}"],
        scores={name: tensors[select.scores] for name, select in selects.items()},
        orders={name: tensors[select.order] for name, select in selects.items()},
    )


def sweep(
    pipeline: Pipeline, recording: Recording, seen: Sequence[int], progress: Callable[[str], None] = lambda _: None
) -> Sweep:
    """Find what every theta gives.

    Args:
        pipeline: serial, keeps `kept_tensors`.
        recording: frames with labels.
        seen: the frames whose scores thetas are taken from.
        progress: told what is being done.
    """
    manifest, truths = pipeline.manifest, recording.truths or ()
    own, frames = own_thetas(manifest), recording.frames
    runs = []
    for index, (planes, truth) in enumerate(zip(frames, truths, strict=True), start=1):
        progress(f"frame {index} of {len(frames)}")
        runs.append(run_frame(pipeline, planes, truth))
    entries = {stage.name: stage for stage in manifest.stages}
    scores = {name: [deciding(entries[name], runs[i].scores[name]) for i in seen] for name in own}
    thetas = _thetas(own, scores)
    composed, grid = composes(manifest), manifest.spec.make_grid()
    if composed:
        (stage,) = own
        at = tuple(_composed(runs, stage, theta, grid, manifest.spec.num_classes) for (theta,) in thetas)
    else:
        at = tuple(_ran(pipeline, recording, own, chosen, progress) for chosen in thetas)
    return Sweep(tuple(own), thetas, at, _references(manifest, runs), scores, composed)


def composed_labels(run: FrameRun, stage: str, theta: float, grid: Grid) -> tuple[Labels, int]:
    """Return the labels of a frame at theta, uint8 `[N, H, W]`, and n."""
    n = count_above(run.scores[stage], theta)
    return refine_cameras(run.fast, run.refined, run.orders[stage][:n].tolist(), grid), n


def _thetas(own: Mapping[str, float], scores: Mapping[str, Sequence[Scores]]) -> tuple[tuple[float, ...], ...]:
    """Return thetas that refine evenly spaced shares, of several decisions all combinations; and the cascade's own."""
    each = THETAS if len(own) == 1 else max(2, int(COMBINATIONS ** (1 / len(own))))
    choices = [candidate_thetas(scores[name], each) for name in own]
    return tuple(sorted({*product(*choices), tuple(own.values())}))


def _composed(runs: Sequence[FrameRun], stage: str, theta: float, grid: Grid, classes: int) -> Counted:
    n, matrices = [], []
    for run in runs:
        labels, count = composed_labels(run, stage, theta, grid)
        n.append([count])
        matrices.append(_confusion(labels, run.truth, classes))
    return Counted(np.array(n, np.int64), np.stack(matrices))


def _ran(
    pipeline: Pipeline, recording: Recording, stages: Sequence[str] | Mapping[str, Any], thetas: Sequence[float],
    progress: Callable[[str], None],
) -> Counted:  # fmt: skip
    progress(f"running the cascade at theta = {', '.join(f'{theta:.4g}' for theta in thetas)}")
    policies = {name: ThresholdPolicy(theta=theta) for name, theta in zip(stages, thetas, strict=True)}
    n, matrices = [], []
    for planes, truth in zip(recording.frames, recording.truths or (), strict=True):
        result = pipeline.infer(planes, policies)
        ran = {run.stage: run.n or 0 for run in result.runs}
        n.append([ran.get(name, 0) for name in stages])
        matrices.append(_confusion(result.labels, truth, pipeline.manifest.spec.num_classes))
    return Counted(np.array(n, np.int64), np.stack(matrices))


def _references(manifest: BundleManifest, runs: Sequence[FrameRun]) -> dict[ReferenceKind, Counted]:
    classes = manifest.spec.num_classes
    decided = [stage for stage in manifest.stages if stage.select is not None]
    grid = decision_grid(manifest, decided[-1])
    most = [manifest.spec.blocks if refines_blocks(stage) else 1 for stage in decided]

    def counted(label: Callable[[FrameRun], Labels], n: Sequence[int] | None) -> Counted:
        matrices = np.stack([_confusion(label(run), run.truth, classes) for run in runs])
        return Counted(None if n is None else np.tile(np.array(n, np.int64), (len(runs), 1)), matrices)

    return {
        FAST: counted(lambda run: run.fast, [0] * len(most)),
        EVERY: counted(lambda run: run.refined, most),
        BLOCK_ORACLE: counted(lambda run: _block_oracle(run, grid), None),
        PIXEL_ORACLE: counted(lambda run: pixel_oracle(run.fast, run.refined, run.truth), None),
    }


def _block_oracle(run: FrameRun, grid: Grid) -> Labels:
    chosen = [
        camera * grid.size + block
        for camera, views in enumerate(zip(run.fast, run.refined, run.truth, strict=True))
        for block in better_blocks(*views, grid)
    ]
    return refine_cameras(run.fast, run.refined, chosen, grid)


def _confusion(labels: Labels, truth: Labels, classes: int) -> Matrices:
    matrix = ConfusionMatrix(classes)
    matrix.add(labels, truth)
    return matrix.counts
