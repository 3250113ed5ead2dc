"""A plan becomes a bundle: exits that it does not use are left out, and every decision gets its threshold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascadert.bundle import Bundle, BundleManifest
from cascadert.calibration.exit_chain import Exit
from cascadert.calibration.exits import ExitPlan
from cascadert.export.rewire import with_thetas, without_stages, write_rewired


def planned_manifest(manifest: BundleManifest, exits: Sequence[Exit], plan: ExitPlan) -> BundleManifest:
    """Return the manifest of a bundle that follows a plan; `exits` are all that it has.

    Raises:
        InvalidRequest: a decision that is none by threshold.
    """
    used = {one.candidate.name: one.theta for one in plan.exits}
    kept = frozenset[str]().union(*(one.stages for one in exits if one.name in used))
    dropped = [stage.name for stage in manifest.stages if stage.name not in kept]
    shorter = without_stages(manifest, dropped)
    deciding = {stage.name: stage.select.producer for stage in shorter.stages if stage.select is not None}
    return with_thetas(shorter, {stage: used[producer] for stage, producer in deciding.items()})


def write_planned(
    bundle: Bundle, exits: Sequence[Exit], plan: ExitPlan, output: Path, *, replace: bool = False
) -> Bundle:
    """Write a bundle that follows a plan.

    Raises:
        InvalidRequest: the output exists and `replace` is false, or a decision that is none by threshold.
    """
    return write_rewired(bundle, planned_manifest(bundle.manifest, exits, plan), output, replace=replace)
