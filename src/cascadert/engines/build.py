"""`build_engine`: a bundle becomes a deployment for one target."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
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
    Precision,
    engine_part,
    write_deployment,
)
from cascadert.engines.blame import build_error
from cascadert.engines.lock import build_lock
from cascadert.engines.process import BuiltEngine, Message, RefusedGraph, run_worker
from cascadert.engines.profiles import Target, load_target
from cascadert.engines.worker import BuildRequest
from cascadert.errors import BuildError, InvalidRequest, TargetError, import_extra
from cascadert.graph import Graph

LOADING, WAITING = "loading TensorRT", "waiting for another build on this machine"


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        precision: what the convolutions compute in; this version builds "fp32", with TF32 off.
        workspace_bytes: scratch memory that the engine may use on the device; none: TensorRT's own limit.
        optimization_level: 0 (fast to build) to 5 (fast to run); none: TensorRT's own.
        typical_blocks: the n that refinement engines are tuned for; none: a quarter of all blocks.
        max_blocks: the largest n they take; none: every block of every camera.
        replace: overwrite an older deployment.
        timeout_s: seconds after which the build of one stage is given up.
    """

    precision: str = "fp32"
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    typical_blocks: int | None = None
    max_blocks: int | None = None
    replace: bool = False
    timeout_s: float = 3600.0


@dataclass(frozen=True)
class BuildProgress:
    """Where a build is: step `step` of `steps` in TensorRT's `phase`; `fraction` of the stage, 0 to 1, never falls."""

    stage: str
    phase: str
    step: int = 0
    steps: int = 1
    fraction: float = 0.0


ProgressCallback = Callable[[BuildProgress], None]


def build_engine(
    bundle: Bundle,
    target: str | Target,
    output: Path,
    options: BuildOptions = BuildOptions(),
    progress: ProgressCallback | None = None,
) -> Deployment:
    """Build one engine per stage and write them as a deployment. Needs no GPU.

    Args:
        bundle: what to build.
        target: what to build for, see `list_targets`.
        output: the folder to write.
        options: see `BuildOptions`.
        progress: called with every step.

    Raises:
        TargetError: the target is unknown, lacks the precision in this version, or an option means nothing to it.
        InvalidRequest: an option out of range, or the output exists.
        BuildError: TensorRT refused a stage, crashed, or took too long.
        MissingExtra: what the target's builder needs is not installed.
    """
    target = load_target(target) if isinstance(target, str) else target
    precision = _check(bundle, target, output, options)
    heard = progress or (lambda _: None)
    built = {}
    for stage in bundle.manifest.stages:
        built[stage.name] = _build_stage(bundle, stage.name, target, options, heard)
        heard(BuildProgress(stage.name, "finished", fraction=1.0))
    manifest = _describe(bundle, target, precision, options, built)
    engines = {name: stage.engine for name, stage in built.items()}
    return write_deployment(output, manifest, engines, replace=options.replace)


def _describe(
    bundle: Bundle, target: Target, precision: Precision, options: BuildOptions, built: dict[str, BuiltEngine]
) -> DeploymentManifest:
    suffix = "onnx" if target.backend == "onnxruntime" else "engine"
    entries = [
        EngineEntry(
            stage=name,
            engine=engine_part(name, suffix, stage.engine),
            graph_sha256=bundle.graphs[name].sha256,
            build_seconds=stage.seconds,
        )
        for name, stage in built.items()
    ]
    built_for = BuiltFor(
        target=target.name,
        backend=target.backend,
        precision=precision,
        compute_capability=target.compute_capability,
        blocks=None if target.compute_capability is None else block_profile(bundle, options),
        workspace_bytes=options.workspace_bytes,
        optimization_level=options.optimization_level,
    )
    versions = {"onnx": metadata.version("onnx")}
    for stage in built.values():
        versions |= stage.versions
    fields = {"schema": DEPLOYMENT_SCHEMA, "created_by": CREATED_BY, "bundle": bundle.manifest, "built_for": built_for}
    return DeploymentManifest.model_validate({**fields, "builder": versions, "engines": tuple(entries)})


def block_profile(bundle: Bundle, options: BuildOptions) -> tuple[int, int, int]:
    """Smallest, typical and largest n of the refinement engines; n = 0 never reaches one.

    Raises:
        InvalidRequest: more blocks than there are, fewer than one, or typical above the largest.
    """
    total = bundle.spec.blocks
    largest = total if options.max_blocks is None else options.max_blocks
    if not 1 <= largest <= total:
        raise InvalidRequest("max_blocks", f"is {largest} where there are {total} blocks", f"choose 1 to {total}")
    typical = min(largest, -(-total // 4)) if options.typical_blocks is None else options.typical_blocks
    if not 1 <= typical <= largest:
        raise InvalidRequest("typical_blocks", f"is {typical}", f"choose 1 to {largest}, the largest n")
    return 1, typical, largest


def _check(bundle: Bundle, target: Target, output: Path, options: BuildOptions) -> Precision:
    """Refuse before anything is built what could not be built or written."""
    precision = next((offered for offered in target.precisions if offered == options.precision), None)
    if precision is None:
        found = f"precision '{options.precision}' is not in this version"
        raise TargetError(f"target '{target.name}'", found, f"choose {' or '.join(target.precisions)}")
    gpu_only = ("workspace_bytes", "optimization_level", "typical_blocks", "max_blocks")
    given = [name for name in gpu_only if getattr(options, name) is not None]
    if target.compute_capability is None and given:
        found = f"{given[0]} is an option of TensorRT; ONNX Runtime compiles the graph when it is loaded"
        raise TargetError(f"target '{target.name}'", found, "leave it out")
    if options.optimization_level not in (None, *range(6)):
        raise InvalidRequest("optimization_level", f"is {options.optimization_level}", "choose 0 to 5")
    if options.workspace_bytes is not None and options.workspace_bytes <= 0:
        raise InvalidRequest("workspace_bytes", f"is {options.workspace_bytes}", "give a positive number of bytes")
    if not 0 < options.timeout_s <= threading.TIMEOUT_MAX:
        raise InvalidRequest(
            "timeout_s", f"is {options.timeout_s:g}", f"give a number of seconds up to {threading.TIMEOUT_MAX:g}"
        )
    check_output(output, [DEPLOYMENT_FILE], replace=options.replace)
    block_profile(bundle, options)
    return precision


def _build_stage(
    bundle: Bundle, stage: str, target: Target, options: BuildOptions, heard: ProgressCallback
) -> BuiltEngine:
    import_extra("onnx", "export", "to lower the graphs of a bundle")
    from cascadert.export.lowering import lower

    if target.compute_capability is None:
        return BuiltEngine(lower(bundle.graphs[stage], "onnxruntime").onnx, 0.0, {})
    subject = f"stage '{stage}' for {target.name}"
    graph = lower(bundle.graphs[stage], "tensorrt")
    blocks = block_profile(bundle, options)

    def on_progress(message: Message) -> None:
        heard(BuildProgress(stage, message["phase"], message["step"], message["steps"], message["fraction"]))

    with tempfile.TemporaryDirectory(prefix="cascadert-build-") as scratch:
        folder = Path(scratch)
        (folder / "stage.onnx").write_bytes(graph.onnx)
        request = BuildRequest(
            onnx=str(folder / "stage.onnx"),
            engine=str(folder / "stage.engine"),
            compute_capability=target.compute_capability,
            shapes=_shapes(graph, blocks, subject),
            workspace_bytes=options.workspace_bytes,
            optimization_level=options.optimization_level,
        )
        with build_lock(lambda: heard(BuildProgress(stage, WAITING))):
            heard(BuildProgress(stage, LOADING))
            try:
                return run_worker(request, folder, subject, options.timeout_s, on_progress)
            except RefusedGraph as refusal:
                raise build_error(subject, graph, refusal) from refusal


def _shapes(graph: Graph, blocks: tuple[int, int, int], subject: str) -> dict[str, list[list[int]]]:
    """Give smallest, typical and largest shape for every input that counts blocks."""
    shapes = {}
    for tensor in graph.inputs:
        symbols = {size for size in tensor.shape if isinstance(size, str)}
        if symbols - {"n"}:
            raise BuildError(subject, f"input {tensor} has a dynamic size that is not 'n'", "export the bundle anew")
        if symbols:
            shapes[tensor.name] = [[size if isinstance(size, int) else n for size in tensor.shape] for n in blocks]
    return shapes
