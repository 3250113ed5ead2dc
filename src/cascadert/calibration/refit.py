"""Theta for every precision: uncertainty shifts with it, so that the old threshold would refine other blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.stage_runs import Planes, StageRunner, run_cascade
from cascadert.calibration.thresholds import candidate_thetas, refit_for_miou, refit_theta
from cascadert.calibration.walk import refines_blocks
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy
from cascadert.stage_spec import SCORES

Labels = NDArray[np.uint8]
Scores = NDArray[np.float32]
Runners = Mapping[str, StageRunner]
Refit = Literal["blocks", "miou", "none"]

CANDIDATES = 9
"""Thetas whose mIoU is measured: each costs a run of every frame."""


@dataclass(frozen=True)
class Recording:
    """Frames, and their labels where these are known: uint8 `[N, H, W]` each."""

    frames: Sequence[Planes]
    truths: Sequence[Labels] | None = None


@dataclass(frozen=True)
class Reference:
    """What fp32 gave on a recording: the scores before each decision, by its stage, and mIoU where that is the goal.

    Scores are float32 `[N * G]` of each frame, see `deciding`.
    """

    scores: Mapping[str, Sequence[Scores]]
    miou: float | None = None


def measure_reference(manifest: BundleManifest, runners: Runners, recording: Recording, goal: Refit) -> Reference:
    """Run a recording in fp32, once for every precision that is refitted."""
    policies = policies_of(manifest)
    scores = {s.name: _scores(manifest, s, runners, recording.frames, policies) for s in manifest.stages if s.select}
    return Reference(scores, cascade_miou(manifest, runners, recording, policies) if goal == "miou" else None)


def refit_thetas(
    manifest: BundleManifest, reference: Reference, runners: Runners, recording: Recording, goal: Refit
) -> dict[str, float]:
    """Return a theta for each decision by threshold, by its stage.

    Decisions are refitted in their order: what a middle stage scores depends on what was refined before it.

    Args:
        manifest: how the stages are wired, with the thetas of fp32.
        reference: what fp32 gave on the recording.
        runners: the stages in some precision.
        recording: what to run.
        goal: "blocks" refines as many blocks as fp32; "miou" the fewest that keep its mIoU, for which labels are
            needed; "none" changes nothing.
    """
    policies, thetas = policies_of(manifest), {}
    for stage in manifest.stages if goal != "none" else ():
        policy = policies.get(stage.name)
        if not isinstance(policy, ThresholdPolicy):
            continue
        new = _scores(manifest, stage, runners, recording.frames, policies)
        theta = refit_theta(reference.scores[stage.name], policy.theta, new)
        if reference.miou is not None:
            tried = {*candidate_thetas(new, CANDIDATES), theta}
            found = {t: cascade_miou(manifest, runners, recording, {**policies, stage.name: _at(t)}) for t in tried}
            theta = refit_for_miou(found, reference.miou)
        thetas[stage.name], policies[stage.name] = theta, _at(theta)
    return thetas


def policies_of(manifest: BundleManifest) -> dict[str, SelectPolicy]:
    """Return the policy of each decision in fp32, by its stage."""
    return {stage.name: stage.select.policy for stage in manifest.stages if stage.select is not None}


def _at(theta: float) -> ThresholdPolicy:
    return ThresholdPolicy(theta=theta)


def _scores(
    manifest: BundleManifest,
    stage: StageEntry,
    runners: Runners,
    frames: Sequence[Planes],
    policies: Mapping[str, SelectPolicy],
) -> list[Scores]:
    """Return the scores before one decision, float32 `[N * G]` of each frame; later stages do not run."""
    if stage.select is None:
        return []
    names = [entry.name for entry in manifest.stages]
    later = names[names.index(stage.name) :]
    limited = {name: TopKPolicy(k=0) if name in later else policy for name, policy in policies.items()}
    traces = (run_cascade(manifest, runners, planes, limited, {}) for planes in frames)
    producer = stage.select.producer
    scores = [trace.stages[producer].outputs[SCORES] for trace in traces if producer in trace.stages]
    return [deciding(stage, each) for each in scores]


def deciding(stage: StageEntry, scores: Scores) -> Scores:
    """Return the scores that a decision depends on, sorted: about a stage that runs as a whole the first decides."""
    return scores if refines_blocks(stage) else scores[:1]


def cascade_miou(
    manifest: BundleManifest, runners: Runners, recording: Recording, policies: Mapping[str, SelectPolicy]
) -> float:
    """Return the mIoU of a cascade on a labelled recording."""
    matrix = ConfusionMatrix(manifest.spec.num_classes)
    for planes, truth in zip(recording.frames, recording.truths or (), strict=True):
        matrix.add(run_cascade(manifest, runners, planes, policies, {}).labels, truth)
    return matrix.mean_iou()
