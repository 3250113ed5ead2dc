"""`BuildPlan`: from a bundle, a target and options to what each stage is built from. Who has a plan needs no ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from cascadert.bundle import Bundle, BundleManifest, StageEntry
from cascadert.engines.facts import BackendFacts
from cascadert.engines.form import StageForm
from cascadert.engines.options import (
    DEFAULTS,
    Blocks,
    BuildOptions,
    block_profile,
    check_options,
    stage_devices,
    stage_precisions,
)
from cascadert.engines.profiles import Target
from cascadert.engines.recipe import BuilderSettings, EngineRecipe, Shapes
from cascadert.engines.request import check_refittable, check_request
from cascadert.errors import BuildError, TargetError, import_extra
from cascadert.graph import Graph
from cascadert.precision import Precision, numerics_of


@dataclass(frozen=True)
class StagePlan:
    """What one stage becomes: its graph as the builder is given it, and how it is built.

    `device` is "gpu", "cpu" or a DLA core. `architecture` is the digest of the graph without its weights, where the
    engine can take those of another graph.
    """

    graph: Graph
    precision: Precision
    device: str
    shapes: Shapes
    settings: BuilderSettings
    architecture: str | None = None


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides a deployment but the machine that builds it.

    Attributes:
        manifest: of the bundle, with the policies that stand for its own in these precisions.
        target: what it is built for.
        facts: of the builder.
        stages: in the order in which they run.
        blocks: what the refinement engines take; none for a CPU, which takes any n.
        tools: versions of what lowered the graphs.
    """

    manifest: BundleManifest
    target: Target
    facts: BackendFacts
    stages: Mapping[str, StagePlan]
    blocks: Blocks | None
    tools: Mapping[str, str]

    @property
    def settings(self) -> BuilderSettings:
        """Those of the first stage, which has limits and levels in common with the others."""
        return next(iter(self.stages.values())).settings

    def recipe(self, stage: str) -> EngineRecipe:
        """Return what the engine of a stage is built from; a plan for a CPU has no engines."""
        planned, capability = self.stages[stage], self.target.compute_capability
        if self.facts.name == "onnxruntime" or capability is None:
            raise TypeError(f"{self.target.name} has no engines")
        return EngineRecipe(
            stage,
            planned.graph,
            planned.precision,
            self.facts.name,
            capability,
            self.facts.strongly_typed,
            planned.shapes,
            planned.settings,
        )


def make_plan(bundle: Bundle, target: Target, options: BuildOptions = DEFAULTS) -> BuildPlan:
    """Lower every stage for a target, in its precision, and check the result against what the target takes.

    Raises:
        TargetError: the request contradicts the target's facts, or an operator those of its parser.
        InvalidRequest: an option out of range.
        MissingExtra: what lowers graphs is not installed.
    """
    import_extra("onnx", "export", "to lower the graphs of a bundle")
    facts = target.backend(options.backend, options.tensorrt)
    on_cpu = facts.name == "onnxruntime"
    check_options(target, options)
    names = [stage.name for stage in bundle.manifest.stages]
    precisions = stage_precisions(options.precision, names)
    devices = stage_devices(options.devices, names, "cpu" if on_cpu else "gpu")
    blocks = block_profile(bundle.spec.blocks, options)
    check_request(target, facts, precisions, devices, bundle.calibrations, options.tensorrt)
    if options.refittable:
        check_refittable(target, facts, precisions)
    stages = {}
    for name in names:
        subject = f"stage '{name}' for {target.name}"
        form = StageForm(subject, precisions[name], target, facts, bundle.calibrations.get(name))
        graph = form.lower(bundle.graphs[name])
        shapes = {} if on_cpu else _shapes(graph, blocks, subject)
        _check_dla(subject, devices[name], shapes)
        settings = BuilderSettings() if on_cpu else _settings(form, graph, options, devices[name])
        architecture = None
        if options.refittable or (on_cpu and precisions[name] != "int8"):
            architecture = _architecture(graph)
        stages[name] = StagePlan(graph, precisions[name], devices[name], shapes, settings, architecture)
    manifest = _with_policies(bundle.manifest, precisions, on_cpu)
    tools = {"onnx": metadata.version("onnx")}
    return BuildPlan(manifest, target, facts, stages, None if on_cpu else blocks, tools)


def _architecture(graph: Graph) -> str:
    from cascadert.export.architecture import architecture_sha256

    return architecture_sha256(graph)


def _check_dla(subject: str, device: str, shapes: Shapes) -> None:
    """Refuse a DLA core for what has no fixed size (NVIDIA's layer restrictions for DLA)."""
    if device.startswith("dla") and any(smallest != largest for smallest, _, largest in shapes.values()):
        found = "takes stages of fixed size, and this one refines any number of blocks"
        raise TargetError(f"{subject}: {device}", found, "run it on the GPU, or build it with --max-blocks 1")


def _settings(form: StageForm, graph: Graph, options: BuildOptions, device: str) -> BuilderSettings:
    flags, float32_nodes = form.flags(graph)
    return BuilderSettings(
        workspace_bytes=options.workspace_bytes,
        optimization_level=options.optimization_level,
        aux_streams=options.aux_streams or 0,
        dla_core=int(device.removeprefix("dla")) if device.startswith("dla") else None,
        flags=flags,
        float32_nodes=float32_nodes,
        refittable=options.refittable,
    )


def _shapes(graph: Graph, blocks: Blocks, subject: str) -> Shapes:
    """Give smallest, typical and largest shape for every input that counts blocks."""
    shapes = {}
    for tensor in graph.inputs:
        symbols = {size for size in tensor.shape if isinstance(size, str)}
        if symbols - {"n"}:
            raise BuildError(subject, f"input {tensor} has a dynamic size that is not 'n'", "export the bundle anew")
        if symbols:
            smallest, typical, largest = (
                tuple(size if isinstance(size, int) else n for size in tensor.shape) for n in blocks
            )
            shapes[tensor.name] = (smallest, typical, largest)
    return shapes


def _with_policies(manifest: BundleManifest, precisions: Mapping[str, Precision], on_cpu: bool) -> BundleManifest:
    """Put the policy for its precision in the place of each policy, so that the runtime need not know of precisions."""

    def settled(stage: StageEntry) -> StageEntry:
        if stage.select is None:
            return stage
        numerics = numerics_of(precisions[stage.select.producer], on_cpu)
        select = stage.select.model_copy(update={"policy": stage.select.policy_for(numerics), "thetas": {}})
        return stage.model_copy(update={"select": select})

    return manifest.model_copy(update={"stages": tuple(map(settled, manifest.stages))})
