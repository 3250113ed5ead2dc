"""Which decision each stage makes, and how people say it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.errors import InvalidRequest
from cascadert.spec import LatencyPolicy, SelectPolicy, ThresholdPolicy, TopKPolicy

_CONFIDENCE_DIGITS = 6  # of float32


def chosen_policies(
    manifest: BundleManifest, policy: SelectPolicy | None, stage: str | None
) -> dict[str, SelectPolicy]:
    """Return the decision of every stage that makes one, with `policy` in the place of that of `stage`.

    Raises:
        InvalidRequest: `stage` makes no decision, or several stages do and none is named.
    """
    policies = {entry.name: entry.select.policy for entry in manifest.stages if entry.select is not None}
    known = ", ".join(policies) or "none"
    if stage is not None and (policy is None or stage not in policies):
        found = "is named, but no decision for it" if policy is None else "makes no decision"
        remedy = "give theta or k too" if policy is None else f"stages that do: {known}"
        raise InvalidRequest(f"stage '{stage}'", found, remedy)
    if policy is None:
        return policies
    if stage is None and len(policies) != 1:
        raise InvalidRequest(f"policy {policy.policy}", f"{len(policies)} stages decide", f"name one of: {known}")
    return {**policies, stage or next(iter(policies)): policy}


def exit_policies(manifest: BundleManifest, threshold: float, stage: str | None = None) -> dict[str, SelectPolicy]:
    """Return decisions by which a frame leaves at the first exit that is as confident as `threshold`.

    At 0 every frame leaves at the first exit, above 1 at the last (paper 004). Decisions about blocks stay as they are,
    and with `stage` those before other stages, too.

    Raises:
        InvalidRequest: no stage, or not this one, is decided about by a confidence, or the threshold is below 0 or no
            number.
    """
    subject = f"exit threshold {threshold:g}"
    if not 0 <= threshold < math.inf:
        raise InvalidRequest(subject, "is no confidence", "give 0 to 1, or more for never")
    theta = float(np.float32(1) - np.float32(threshold))  # in the precision of the scores, which are 1 - confidence
    policies = {entry.name: entry.select.policy for entry in manifest.stages if entry.select is not None}
    exits = _after_exits(manifest)
    if not policies:
        found = f"is for exits, and '{manifest.spec.name}' has one and decides nothing"
        raise InvalidRequest(subject, found, "run it without")
    if not exits:
        raise InvalidRequest(subject, f"is for exits, and '{manifest.spec.name}' has none", "give theta, for blocks")
    if stage is not None and stage not in exits:
        remedy = f"stages that do: {', '.join(exits)}"
        raise InvalidRequest(f"{subject} before stage '{stage}'", "follows no decision of an exit", remedy)
    return {**policies, **dict.fromkeys(exits if stage is None else [stage], ThresholdPolicy(theta=theta))}


def exit_confidences(manifest: BundleManifest, policies: Mapping[str, SelectPolicy]) -> dict[str, float]:
    """Return below which confidence of the exit before it each stage runs, where that is what decides."""
    found = {stage: policies[stage] for stage in _after_exits(manifest)}
    return {
        stage: round(1 - policy.theta, _CONFIDENCE_DIGITS)
        for stage, policy in found.items()
        if isinstance(policy, ThresholdPolicy)
    }


def refining_stages(manifest: BundleManifest) -> tuple[str, ...]:
    """Name the stages that decide how many blocks they refine."""
    return tuple(entry.name for entry in manifest.stages if entry.select is not None and _sees_blocks(entry))


def _after_exits(manifest: BundleManifest) -> list[str]:
    """Name the stages before which a score from 0 to 1 decides about all of a frame."""
    decided = [entry for entry in manifest.stages if entry.select is not None and entry.select.unit == "share"]
    return [entry.name for entry in decided if not _sees_blocks(entry)]


def _sees_blocks(entry: StageEntry) -> bool:
    return any(tensor.prefix for tensor in entry.inputs)


def show_policy(policy: SelectPolicy) -> str:
    """Return a policy as people say it."""
    if isinstance(policy, ThresholdPolicy):
        return f"theta {policy.theta:g}"
    if isinstance(policy, TopKPolicy):
        return f"top {policy.k}"
    return f"within {policy.budget_ms:g} ms" if isinstance(policy, LatencyPolicy) else f"at {policy.fps:g} frames/s"
