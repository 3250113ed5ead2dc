"""Fewer stages, or other thresholds, without exporting again: graphs stay as they are, the manifest is wired anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from cascadert.bundle import (
    CREATED_BY,
    Bundle,
    BundleManifest,
    CalibrationEntry,
    OutputEntry,
    SelectEntry,
    StageEntry,
    write_bundle,
)
from cascadert.errors import InvalidRequest
from cascadert.spec import CascadeSpec
from cascadert.stage_spec import LABELS, StageSpec, ThresholdPolicy


def without_stages(manifest: BundleManifest, names: Collection[str]) -> BundleManifest:
    """Return the manifest of a cascade without some of its stages; see `CascadeSpec.keeping`.

    Without an exit the result is what the whole cascade gives where nothing ever leaves there.

    Raises:
        SpecError: a stage that stays needs one of them, or none that stays makes labels.
    """
    return rewired(manifest, manifest.spec.keeping({stage.name for stage in manifest.stages}.difference(names)))


def until(manifest: BundleManifest, last: str) -> BundleManifest:
    """Return the manifest of a cascade that runs up to one stage and always there; see `CascadeSpec.until`.

    Raises:
        SpecError: there is no such stage, or it makes no labels.
    """
    return rewired(manifest, manifest.spec.until(last))


def rewired(manifest: BundleManifest, spec: CascadeSpec) -> BundleManifest:
    """Return the manifest of the stages that `spec` has, wired as it says; `spec` was made from the manifest's own.

    What calibration measured of stages stays. Its judgement of the whole cascade does not: this is another one.
    """
    entries = {entry.name: entry for entry in manifest.stages}
    stages = tuple(_rewired_entry(entries[stage.name], stage, spec.stand_in(stage.name)) for stage in spec.stages)
    calibration = _of_stages(manifest.calibration, [stage.name for stage in stages])
    return manifest.model_copy(
        update={"created_by": CREATED_BY, "spec": spec, "stages": stages, "calibration": calibration}
    )


def with_thetas(manifest: BundleManifest, thetas: Mapping[str, float]) -> BundleManifest:
    """Return the manifest with other thresholds before some stages.

    A decision whose threshold changes loses what was refitted to the former one for other precisions: calibrate anew.

    Raises:
        InvalidRequest: a stage that makes no decision by threshold.
    """
    deciding = {s.name for s in manifest.stages if s.select and isinstance(s.select.policy, ThresholdPolicy)}
    for name in thetas.keys() - deciding:
        raise InvalidRequest(f"theta of '{name}'", "decides by no threshold", f"stages that do: {sorted(deciding)}")
    policies = {name: ThresholdPolicy(theta=theta) for name, theta in thetas.items()}
    stages = tuple(
        stage.model_copy(update={"select": policies[stage.name]}) if stage.name in policies else stage
        for stage in manifest.spec.stages
    )
    return rewired(manifest, manifest.spec.with_stages(stages))


def write_rewired(bundle: Bundle, manifest: BundleManifest, output: Path, *, replace: bool = False) -> Bundle:
    """Write what was rewired of a bundle's manifest as a bundle of its own.

    Raises:
        InvalidRequest: the output exists and `replace` is false.
    """
    return write_bundle(output, manifest, bundle.graphs, bundle.calibrations, replace=replace)


def _rewired_entry(entry: StageEntry, stage: StageSpec, stand_in: str | None) -> StageEntry:
    outputs = tuple(_stood_for(output, stand_in) for output in entry.outputs)
    update = {"outputs": outputs, "select": _select(entry, stage), "speculative": stage.speculate}
    return entry.model_copy(update=update)


def _stood_for(output: OutputEntry, stand_in: str | None) -> OutputEntry:
    return output.model_copy(update={"when_skipped": stand_in if output.name == LABELS else None})


def _select(entry: StageEntry, stage: StageSpec) -> SelectEntry | None:
    """Return a stage's decision; `stage` has one only where the bundle has."""
    if stage.select is None or entry.select is None:
        return None
    if stage.select == entry.select.policy:
        return entry.select
    return entry.select.model_copy(update={"policy": stage.select, "thetas": {}})


def _of_stages(calibration: CalibrationEntry | None, names: Collection[str]) -> CalibrationEntry | None:
    if calibration is None:
        return None
    chosen = {name: found for name, found in calibration.chosen.items() if name in names}
    return calibration.model_copy(update={"chosen": chosen, "quality": ()})
