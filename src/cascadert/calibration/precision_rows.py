"""One row of a comparison: how each stage runs in some precision, and one frame by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cascadert.bundle import FRAME, BundleManifest
from cascadert.calibration.stage_runs import Array, CascadeTrace, Planes, Policies, StageRunner, run_cascade
from cascadert.precision import Numerics
from cascadert.spec import TopKPolicy


@dataclass(frozen=True)
class Row:
    """One way to compute: how each stage runs, and the policies before and after theta was refitted for it."""

    name: str
    runners: Mapping[str, StageRunner]
    before: Policies
    after: Policies


@dataclass(frozen=True)
class RowRun:
    """One frame by one row.

    `outputs` are those of each stage on the inputs it got in fp32; `before` and `after` the cascade on decisions of its
    own, before and after theta was refitted. `every` refines every block; it is there where labels are.
    """

    outputs: Mapping[str, Mapping[str, Array]]
    before: CascadeTrace
    after: CascadeTrace
    every: CascadeTrace | None


def policies_for(manifest: BundleManifest, numerics: Numerics) -> Policies:
    """Return the policy of each decision, refitted for how the scores are computed."""
    return {stage.name: stage.select.policy_for(numerics) for stage in manifest.stages if stage.select is not None}


def run_reference(manifest: BundleManifest, row: Row, planes: Planes, every: bool) -> RowRun:
    """Run one frame in fp32, which every other row is compared with."""
    trace = run_cascade(manifest, row.runners, planes, row.before, {})
    outputs = {name: stage.outputs for name, stage in trace.stages.items()}
    return RowRun(outputs, trace, trace, _run_every(manifest, row, planes, outputs) if every else None)


def run_row(manifest: BundleManifest, row: Row, planes: Planes, reference: CascadeTrace, every: bool) -> RowRun:
    """Run one frame by any other row."""
    outputs = {name: row.runners[name].run(stage.inputs) for name, stage in reference.stages.items()}
    known = _undecided(manifest, outputs)
    before = run_cascade(manifest, row.runners, planes, row.before, known)
    after = before if row.after == row.before else run_cascade(manifest, row.runners, planes, row.after, known)
    return RowRun(outputs, before, after, _run_every(manifest, row, planes, outputs) if every else None)


def _run_every(
    manifest: BundleManifest, row: Row, planes: Planes, outputs: Mapping[str, Mapping[str, Array]]
) -> CascadeTrace:
    policies = {name: TopKPolicy(k=manifest.spec.blocks) for name in row.before}
    return run_cascade(manifest, row.runners, planes, policies, _undecided(manifest, outputs))


def _undecided(
    manifest: BundleManifest, outputs: Mapping[str, Mapping[str, Array]]
) -> Mapping[str, Mapping[str, Array]]:
    """Return the outputs that nothing but the frame changes: of stages that see no more and wait for no decision."""
    alone = (s.name for s in manifest.stages if s.select is None and all(i.producer == FRAME for i in s.inputs))
    return {name: outputs[name] for name in alone}
