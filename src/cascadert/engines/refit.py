"""`refit`: a deployment takes the weights of another bundle of the same architecture, and nothing is built."""

from __future__ import annotations

from pathlib import Path

from cascadert.artefacts import check_output
from cascadert.bundle import Bundle, BundleManifest
from cascadert.deployment import DEPLOYMENT_FILE, Deployment, DeploymentManifest
from cascadert.engines.build import as_it_is, write_built
from cascadert.engines.kit import Kit
from cascadert.engines.machine import Machine, this_machine
from cascadert.engines.options import BuildOptions
from cascadert.engines.plan import BuildPlan, make_plan
from cascadert.engines.profiles import load_target
from cascadert.engines.stage_build import FINISHED, Base, BuildProgress, BuiltStage, ProgressCallback, StageBuild
from cascadert.errors import DeploymentError, InvalidRequest

_ANEW = "build it anew with cascadert build-engine"
_OF_WEIGHTS = ("weights", "select", "network", "state_sha256", "random_seed")


def refit(
    deployment: Deployment,
    source: Bundle | Kit,
    output: Path,
    progress: ProgressCallback | None = None,
    *,
    replace: bool = False,
) -> Deployment:
    """Write a deployment with the engines of another, and the weights and policies of a bundle.

    Args:
        deployment: built with `BuildOptions.refittable`, or for a CPU.
        source: the bundle; or a kit of it, made with the deployment's options, where there is no onnx.
        output: the folder to write.
        progress: called with every step.
        replace: overwrite an older deployment.

    Raises:
        InvalidRequest: an engine that does not take other weights, a stage that differs in more than its weights, or an
            output that exists.
        TargetError: the bundle lacks what the precisions of the deployment need.
        DeploymentError: engines of full TensorRT that were built on another GPU or with another version.
        BuildError: TensorRT does not take the weights.
        MissingExtra: the deployment's TensorRT is not installed.
    """
    check_output(output, [DEPLOYMENT_FILE], replace=replace)
    manifest, heard = deployment.manifest, progress or (lambda _: None)
    _check_engines(deployment)
    bundle = source.manifest.bundle if isinstance(source, Kit) else source.manifest
    _check_names(source.path, manifest.bundle, bundle)
    options = _options_of(manifest)
    plan = (
        source.plan if isinstance(source, Kit) else make_plan(source, load_target(manifest.built_for.target), options)
    )
    _check_stages(source.path, manifest, plan)
    machine = this_machine(plan.target, plan.facts)
    _check_machine(deployment, machine)
    built: dict[str, BuiltStage] = {}
    for stage in plan.stages:
        if machine is None:
            built[stage] = as_it_is(plan, stage)
        else:
            base = Base(stage, deployment.engine(stage))
            built[stage] = StageBuild(plan, stage, machine, None, options, heard, base).run()
        heard(BuildProgress(stage, FINISHED, fraction=1.0))
    return write_built(plan, machine, built, output, replace=replace)


def _check_engines(deployment: Deployment) -> None:
    for entry in deployment.manifest.engines:
        if not entry.refittable:
            subject = f"{deployment.path}: stage '{entry.stage}'"
            if entry.precision == "int8":
                raise InvalidRequest(subject, "is in int8, whose scales belong to the weights it was built with", _ANEW)
            raise InvalidRequest(subject, "has an engine that does not take other weights", f"{_ANEW} --refittable")


def _check_names(path: Path, old: BundleManifest, new: BundleManifest) -> None:
    before, now = ([stage.name for stage in manifest.stages] for manifest in (old, new))
    if before != now:
        found = f"has the stages {', '.join(now)} where the deployment has {', '.join(before)}"
        raise InvalidRequest(str(path), found, _ANEW)


def _options_of(manifest: DeploymentManifest) -> BuildOptions:
    """Return what a deployment was built with, as far as graphs depend on it."""
    built_for = manifest.built_for
    _, typical, largest = built_for.blocks or (None, None, None)
    return BuildOptions(
        precision=dict(manifest.precisions),
        devices={entry.stage: entry.device for entry in manifest.engines},
        backend=built_for.backend,
        tensorrt=built_for.tensorrt,
        workspace_bytes=built_for.workspace_bytes,
        optimization_level=built_for.optimization_level,
        typical_blocks=typical,
        max_blocks=largest,
        refittable=True,
    )


def _check_stages(path: Path, manifest: DeploymentManifest, plan: BuildPlan) -> None:
    """Check stage by stage that the engines differ in weights alone from those that the plan asks for."""
    built_for = manifest.built_for
    if (plan.target.name, plan.facts.name, plan.blocks) != (built_for.target, built_for.backend, built_for.blocks):
        found = f"is for {plan.target.name}, {plan.facts.name} and {plan.blocks} blocks"
        wanted = f"{built_for.target}, {built_for.backend} and {built_for.blocks} blocks"
        raise InvalidRequest(str(path), found, f"make it for {wanted}")
    for entry in manifest.engines:
        planned, subject = plan.stages[entry.stage], f"{path}: stage '{entry.stage}'"
        if (planned.precision, planned.device) != (entry.precision, entry.device):
            found = f"is in {planned.precision} on {planned.device}, the engine in {entry.precision} on {entry.device}"
            raise InvalidRequest(subject, found, "make it with the deployment's options")
        if planned.architecture != entry.architecture_sha256:
            difference = _difference(entry.stage, manifest.bundle, plan.manifest)
            found = f"differs from the deployment in more than its weights: {difference}"
            raise InvalidRequest(subject, found, _ANEW)


def _difference(stage: str, old: BundleManifest, new: BundleManifest) -> str:
    """Say in what two stages differ, as far as manifests tell: the graphs that a deployment was built from are gone."""
    before, now = _facts(stage, old), _facts(stage, new)
    for name, value in before.items():
        if value != now[name]:
            return f"{name} is {value} there and {now[name]} here"
    return "operators, or constants that belong to them (such as the slope of a PReLU)"


def _facts(stage: str, bundle: BundleManifest) -> dict[str, object]:
    """Return what decides the graph of a stage, by name."""
    spec = next(entry for entry in bundle.spec.stages if entry.name == stage)
    entry = next(entry for entry in bundle.stages if entry.name == stage)
    facts = {"frame": bundle.spec.frame, "grid": bundle.spec.grid, **dict(spec), **dict(entry.network)}
    ports = {"inputs": entry.inputs, "outputs": entry.outputs}
    return {name: value for name, value in (facts | ports).items() if name not in _OF_WEIGHTS}


def _check_machine(deployment: Deployment, machine: Machine | None) -> None:
    """Check that what is here loads the engines."""
    built_for = deployment.manifest.built_for
    if machine is None or built_for.gpu is None:
        return
    if (machine.gpu, machine.version) != (built_for.gpu, built_for.tensorrt):
        found = f"was built on {built_for.gpu.name} with TensorRT {built_for.tensorrt}, which are not those here"
        raise DeploymentError(str(deployment.path), found, "refit it where it was built")
