"""Which decision each stage makes, and how people say it."""

from __future__ import annotations

import math

import numpy as np

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.errors import InvalidRequest
from cascadert.spec import LatencyPolicy, SelectPolicy, ThresholdPolicy, TopKPolicy


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


def exit_policies(manifest: BundleManifest, threshold: float) -> dict[str, SelectPolicy]:
    """Return decisions by which a frame leaves at the first exit that is as confident as `threshold`.

    At 0 every frame leaves at the first exit, above 1 at the last (paper 004). Decisions about blocks stay as they are.

    Raises:
        InvalidRequest: no stage decides about whole frames by a confidence, or the threshold is below 0 or no number.
    """
    if not 0 <= threshold < math.inf:
        raise InvalidRequest(f"exit threshold {threshold}", "is no confidence", "give 0 to 1, or more for never")
    theta = float(np.float32(1) - np.float32(threshold))  # in the precision of the scores, which are 1 - confidence
    decided = [entry for entry in manifest.stages if entry.select is not None]
    exits = [entry.name for entry in decided if _decides_about_frames(entry)]
    if not exits:
        found, remedy = f"is for exits, and '{manifest.spec.name}' has none", "give theta, for blocks"
        raise InvalidRequest(f"exit threshold {threshold:g}", found, remedy)
    policies = {entry.name: entry.select.policy for entry in decided if entry.select is not None}
    return {**policies, **dict.fromkeys(exits, ThresholdPolicy(theta=theta))}


def _decides_about_frames(entry: StageEntry) -> bool:
    """Whether a decision is for all of a frame, on scores from 0 to 1."""
    whole = not any(tensor.prefix for tensor in entry.inputs)
    return whole and entry.select is not None and entry.select.unit == "share"


def show_policy(policy: SelectPolicy) -> str:
    """Return a policy as people say it."""
    if isinstance(policy, ThresholdPolicy):
        return f"theta {policy.theta:g}"
    if isinstance(policy, TopKPolicy):
        return f"top {policy.k}"
    return f"within {policy.budget_ms:g} ms" if isinstance(policy, LatencyPolicy) else f"at {policy.fps:g} frames/s"
