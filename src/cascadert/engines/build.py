"""`build_engine`: a bundle, or a kit, becomes a deployment for one target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cascadert.artefacts import check_output
from cascadert.bundle import CREATED_BY, Bundle
from cascadert.deployment import (
    DEPLOYMENT_FILE,
    DEPLOYMENT_SCHEMA,
    BuiltFor,
    Deployment,
    DeploymentManifest,
    EngineEntry,
    engine_part,
    write_deployment,
)
from cascadert.engines.cache import EngineCache, default_cache_folder
from cascadert.engines.detect import detect_target
from cascadert.engines.kit import Kit, check_kit_output, kit_path, write_kit
from cascadert.engines.machine import Machine, builder_version, is_device, this_machine
from cascadert.engines.options import DEFAULTS, BuildOptions, check_options
from cascadert.engines.plan import BuildPlan, make_plan
from cascadert.engines.process import BuiltEngine
from cascadert.engines.profiles import Target, load_target
from cascadert.engines.stage_build import FINISHED, Base, BuildProgress, BuiltStage, ProgressCallback, StageBuild
from cascadert.errors import InvalidRequest, TargetError

__all__ = ["BuildOptions", "BuildProgress", "build_engine", "build_or_pack"]


def build_engine(
    source: Bundle | Kit,
    target: str | Target | None,
    output: Path,
    options: BuildOptions = DEFAULTS,
    progress: ProgressCallback | None = None,
) -> Deployment:
    """Build one engine per stage, or take it from the cache, and write them as a deployment.

    TensorRT-RTX needs no GPU for it; full TensorRT needs the very one, see `build_or_pack`.

    Args:
        source: what to build.
        target: what to build for, see `list_targets`; "auto" is the GPU of this machine. None for a kit, which knows.
        output: the folder to write.
        options: see `BuildOptions`; of those, a kit has all that decide its engines.
        progress: called with every step.

    Raises:
        TargetError: the target is unknown, the request contradicts its facts, or its engines are built elsewhere.
        InvalidRequest: an option out of range, or the output exists.
        BuildError: TensorRT refused a stage, crashed, or took too long.
        MissingExtra: what the target's builder needs is not installed.
    """
    check_output(output, [DEPLOYMENT_FILE], replace=options.replace)
    plan = _plan(source, target, options)
    return _build(plan, this_machine(plan.target, plan.facts), output, options, progress)


def build_or_pack(
    source: Bundle | Kit,
    target: str | Target | None,
    output: Path,
    options: BuildOptions = DEFAULTS,
    progress: ProgressCallback | None = None,
) -> Deployment | Kit:
    """Do as `build_engine` does; where the engines must be built on another machine, write a kit for it into `output`.

    Raises:
        CascadertError: see `build_engine`.
    """
    if isinstance(source, Kit):
        return build_engine(source, target, output, options, progress)
    chosen = _load(target)
    facts = chosen.backend(options.backend, options.tensorrt)
    if facts.builds == "anywhere" or is_device(chosen):
        return build_engine(source, chosen, output, options, progress)
    path = kit_path(output, source.spec.name, chosen.name)
    check_kit_output(path, replace=options.replace)
    return write_kit(path, make_plan(source, chosen, options), source.calibrations, replace=options.replace)


def _load(target: str | Target | None) -> Target:
    if target is None:
        remedy = "choose one of cascadert targets, or 'auto'"
        raise InvalidRequest("target", "is missing: a bundle is built for one", remedy)
    if target == "auto":
        return detect_target()
    return load_target(target) if isinstance(target, str) else target


def _plan(source: Bundle | Kit, target: str | Target | None, options: BuildOptions) -> BuildPlan:
    if isinstance(source, Bundle):
        chosen = _load(target)
        on_device = chosen.backend(options.backend, options.tensorrt).builds == "device"
        if on_device and options.tensorrt is None:
            options = replace(options, tensorrt=builder_version("tensorrt"))
        return make_plan(source, chosen, options)
    chosen = source.plan.target if target is None else _load(target)
    if chosen.name != source.plan.target.name:
        found = f"is for target '{source.plan.target.name}', not '{chosen.name}'"
        raise TargetError(str(source.path), found, "leave the target out, or write a kit for that target")
    _check_kit_options(source, options)
    return source.plan


def _check_kit_options(kit: Kit, options: BuildOptions) -> None:
    """Refuse what a kit has settled already."""
    free = {name: getattr(options, name) for name in ("cache", "timing_cache", "replace", "timeout_s")}
    settled = replace(DEFAULTS, **free)
    given = [name for name in options.__dataclass_fields__ if getattr(options, name) != getattr(settled, name)]
    if given:
        found = f"is settled already, and {given[0]} is given"
        raise InvalidRequest(str(kit.path), found, "leave it out, or write another kit")
    check_options(kit.plan.target, options)


def _build(
    plan: BuildPlan, machine: Machine | None, output: Path, options: BuildOptions, progress: ProgressCallback | None
) -> Deployment:
    heard = progress or (lambda _: None)
    cache = EngineCache(default_cache_folder()) if options.cache and machine is not None else None
    built: dict[str, BuiltStage] = {}
    for stage in plan.stages:
        if machine is None:
            built[stage] = as_it_is(plan, stage)
        else:
            base = None if machine.gpu is None else _twin(plan, stage, built)
            built[stage] = StageBuild(plan, stage, machine, cache, options, heard, base).run()
        heard(BuildProgress(stage, FINISHED, fraction=1.0))
    return write_built(plan, machine, built, output, replace=options.replace)


def as_it_is(plan: BuildPlan, stage: str) -> BuiltStage:
    """Return a stage for ONNX Runtime, which compiles the graph when it loads it."""
    return BuiltStage(BuiltEngine(plan.stages[stage].graph.onnx, 0.0, {}))


def _twin(plan: BuildPlan, stage: str, built: Mapping[str, BuiltStage]) -> Base | None:
    """Return the engine of an earlier stage that differs in its weights alone."""
    planned = plan.stages[stage]
    for other, engine in built.items():
        if planned.architecture is not None and replace(plan.stages[other], graph=planned.graph) == planned:
            return Base(other, engine.built.engine)
    return None


def write_built(
    plan: BuildPlan, machine: Machine | None, built: Mapping[str, BuiltStage], output: Path, *, replace: bool
) -> Deployment:
    """Write what became of a plan as a deployment.

    Raises:
        InvalidRequest: the output exists and `replace` is false.
    """
    engines = {stage: engine.built.engine for stage, engine in built.items()}
    return write_deployment(output, _describe(plan, machine, built), engines, replace=replace)


def _describe(plan: BuildPlan, machine: Machine | None, built: Mapping[str, BuiltStage]) -> DeploymentManifest:
    suffix = "onnx" if machine is None else "engine"
    entries = [
        EngineEntry(
            stage=stage.name,
            engine=engine_part(stage.name, suffix, built[stage.name].built.engine),
            precision=plan.stages[stage.name].precision,
            device=plan.stages[stage.name].device,
            graph_sha256=stage.graph.sha256,
            lowered_sha256=plan.stages[stage.name].graph.sha256,
            architecture_sha256=plan.stages[stage.name].architecture,
            build_seconds=built[stage.name].built.seconds,
            from_cache=built[stage.name].from_cache,
        )
        for stage in plan.manifest.stages
    ]
    on_device = machine is not None and machine.gpu is not None
    built_for = BuiltFor(
        target=plan.target.name,
        backend=plan.facts.name,
        compute_capability=plan.target.compute_capability,
        gpu=machine.gpu if machine is not None else None,
        tensorrt=machine.version if machine is not None and on_device else None,
        blocks=plan.blocks,
        workspace_bytes=plan.settings.workspace_bytes,
        optimization_level=plan.settings.optimization_level,
    )
    versions = dict(plan.tools)
    for engine in built.values():
        versions |= engine.built.versions
    fields = {"schema": DEPLOYMENT_SCHEMA, "created_by": CREATED_BY, "bundle": plan.manifest, "built_for": built_for}
    return DeploymentManifest.model_validate({**fields, "builder": versions, "engines": tuple(entries)})
