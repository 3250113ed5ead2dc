"""Which decision each stage makes, and how people say it."""

from __future__ import annotations

from cascadert.bundle import BundleManifest
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


def show_policy(policy: SelectPolicy) -> str:
    """Return a policy as people say it."""
    if isinstance(policy, ThresholdPolicy):
        return f"theta {policy.theta:g}"
    if isinstance(policy, TopKPolicy):
        return f"top {policy.k}"
    return f"within {policy.budget_ms:g} ms" if isinstance(policy, LatencyPolicy) else f"at {policy.fps:g} frames/s"
