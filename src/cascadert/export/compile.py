"""From a specification and weights to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cascadert.artefacts import check_output
from cascadert.bundle import (
    BUNDLE_FILE,
    BUNDLE_SCHEMA,
    CREATED_BY,
    Bundle,
    BundleManifest,
    InputEntry,
    MemoryEntry,
    NetworkEntry,
    OutputEntry,
    SelectEntry,
    StageEntry,
    stage_part,
    write_bundle,
)
from cascadert.errors import BundleError, NetworkError, SpecError
from cascadert.export.exporter import export_graph
from cascadert.export.glue import plane_shapes
from cascadert.export.lowering import lower
from cascadert.export.macs import count_macs, count_parameters
from cascadert.export.memory import estimate_memory
from cascadert.export.networks import build_network, load_weights, state_sha256
from cascadert.export.random_weights import prepare, seeded
from cascadert.export.stages import RefineStage, Stage, checked, make_stages
from cascadert.graph import Graph, TensorSpec
from cascadert.pixels import planes_from_rgb
from cascadert.scenes import SceneOptions, render
from cascadert.spec import CascadeSpec, StageSpec, load_spec

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """`random_weights`: the seed of every network whose stage names no weights. `replace`: overwrite the output."""

    random_weights: int | None = None
    replace: bool = False


def export_bundle(
    spec_path: Path,
    output: Path,
    options: ExportOptions = ExportOptions(),
    progress: Progress | None = None,
) -> Bundle:
    """Export every stage of a specification and write a bundle.

    Args:
        spec_path: the TOML file; paths inside count from its folder.
        output: the folder to write.
        options: see `ExportOptions`.
        progress: called with the name of each stage before it is exported.

    Raises:
        SpecError: a wrong field, or a stage without weights.
        NetworkError: a network or weights that do not work.
        ExportError: a stage that cannot become ONNX.
        InvalidRequest: the output exists.
    """
    check_output(output, [BUNDLE_FILE], replace=options.replace)
    spec = load_spec(spec_path)
    folder = spec_path.parent.resolve()
    stages = reference_stages(spec, folder, options.random_weights)
    entries, graphs = [], {}
    for module in stages:
        stage = module.stage
        if progress:
            progress(stage.name)
        graphs[stage.name] = export_stage(module)
        network = describe_network(module, options.random_weights)
        memory = estimate_memory(lower(graphs[stage.name], "onnxruntime"), spec.blocks)
        entries.append(_stage_entry(spec, stage, graphs[stage.name], network, memory))
    fields = {"schema": BUNDLE_SCHEMA, "created_by": CREATED_BY, "spec": spec, "spec_folder": str(folder)}
    manifest = BundleManifest.model_validate({**fields, "stages": tuple(entries)})
    return write_bundle(output, manifest, graphs, replace=options.replace)


def reference_stages(spec: CascadeSpec, folder: Path, random_weights: int | None = None) -> tuple[Stage, ...]:
    """Build the torch modules of every stage: what is exported, and what parity compares with.

    Raises:
        SpecError: a stage names no weights, and no seed was given.
        NetworkError: a network or weights that do not work.
    """
    networks = {stage.name: _load_network(stage, folder, random_weights) for stage in spec.stages}
    stages = make_stages(spec, networks)
    for stage, example in zip(stages, example_inputs(stages, spec), strict=True):
        try:
            with torch.inference_mode():
                pixels = stage.pixels(*example.values())
            if stage.stage.weights is None:
                checked(stage.network(pixels), stage.stage, stage.context)
                prepare(stage.stage.name, stage.network, pixels.clone())
            _check_outputs(stage, example)
        except NetworkError:
            raise
        except Exception as error:  # the network is the user's code
            size = f"{stage.patch_size}" if isinstance(stage, RefineStage) else f"{stage.input_size}"
            found = f"failed on an input of {size} pixels: {type(error).__name__}: {error}"
            raise NetworkError(
                f"stage '{stage.stage.name}'", found, "mend the network, scale, block or halo"
            ) from error
    return stages


def rebuild_stages(bundle: Bundle, spec: Path | None = None) -> tuple[Stage, ...]:
    """Build the torch modules of a bundle's stages again, and check that they are the exported ones.

    Args:
        bundle: what was exported.
        spec: the specification's present path, where it moved since.

    Raises:
        SpecError, NetworkError: the networks cannot be built again.
        BundleError: the specification is gone, or its weights are not those that were exported.
    """
    folder = Path(bundle.manifest.spec_folder)
    if spec is not None:
        load_spec(spec)
        folder = spec.parent.resolve()
    elif not folder.is_dir():
        raise BundleError(
            str(bundle.path), f"was exported from {folder}, which is not there", "pass --spec with its present path"
        )
    seeds = {stage.network.random_seed for stage in bundle.manifest.stages} - {None}
    modules = reference_stages(bundle.spec, folder, seeds.pop() if seeds else None)
    for module, stage in zip(modules, bundle.manifest.stages, strict=True):
        if state_sha256(module.network) != stage.network.state_sha256:
            found = f"its weights in {folder} are not the ones that were exported"
            raise BundleError(f"{bundle.path}: stage '{stage.name}'", found, "export again, or restore them")
    return modules


def _load_network(stage: StageSpec, folder: Path, random_weights: int | None) -> nn.Module:
    if stage.weights is not None:
        network = build_network(stage, folder)
        load_weights(network, folder / stage.weights)
        return network
    if random_weights is None:
        raise SpecError(f"stage '{stage.name}': weights", "are missing", "add them, or pass --random-weights SEED")
    return seeded(random_weights, lambda: build_network(stage, folder))


def _check_outputs(stage: Stage, example: dict[str, Tensor]) -> None:
    with torch.inference_mode():
        logits = stage.logits(*example.values())
    if not bool(logits.isfinite().all()):
        found = "returns NaN or infinity on a street scene"
        raise NetworkError(f"stage '{stage.stage.name}': {stage.stage.model}", found, "check its weights")


def example_frame(spec: CascadeSpec, seed: int = 0) -> dict[str, Tensor]:
    """Render a street for each camera, as the planes of the port `frame`."""
    options = SceneOptions(height=max(spec.frame.height, 64), width=max(spec.frame.width, 64))
    images = [render(seed + camera, 0, options).image for camera in range(spec.frame.cameras)]
    rgb = torch.stack([torch.from_numpy(image) for image in images])[:, : spec.frame.height, : spec.frame.width]
    planes = planes_from_rgb(rgb.contiguous().numpy(), spec.frame.pixel_format)
    return {name: torch.from_numpy(plane) for name, plane in planes.items()}


def example_inputs(stages: tuple[Stage, ...], spec: CascadeSpec) -> tuple[dict[str, Tensor], ...]:
    """Return inputs for each stage, by name: a street, two far blocks to refine, and the labels 0."""
    planes = example_frame(spec)
    total = spec.blocks
    indices = torch.linspace(0, total - 1, steps=min(2, total)).round().to(torch.int32)
    labels = torch.zeros(spec.frame.cameras, spec.frame.height, spec.frame.width, dtype=torch.uint8)
    available = {**planes, "indices": indices, "prior_labels": labels}
    return tuple({name: available[name] for name in stage.input_names} for stage in stages)


def export_stage(stage: Stage) -> Graph:
    """Export one stage as a semantic graph.

    Raises:
        ExportError: torch cannot trace the network, or its operators cannot become ONNX.
    """
    context = stage.context
    total = context.frame.cameras * context.grid.size
    inputs: dict[str, Tensor] = {
        name: torch.zeros(shape, dtype=torch.uint8) for name, shape in plane_shapes(context.frame).items()
    }
    if isinstance(stage, RefineStage):
        inputs["indices"] = torch.arange(min(2, total), dtype=torch.int32)
        size = (context.frame.cameras, context.frame.height, context.frame.width)
        inputs["prior_labels"] = torch.zeros(size, dtype=torch.uint8)
    dynamic = {"indices": {0: "n"}} if isinstance(stage, RefineStage) and total > 1 else {}
    return export_graph(stage, inputs, stage.output_names, dynamic)


def describe_network(stage: Stage, random_weights: int | None) -> NetworkEntry:
    """Record where the network came from and what it costs on one frame or one block."""
    height, width = stage.patch_size if isinstance(stage, RefineStage) else stage.input_size
    shape = (1, 3, height, width)
    return NetworkEntry(
        model=stage.stage.model,
        args=stage.stage.args,
        weights=stage.stage.weights,
        random_seed=random_weights if stage.stage.weights is None else None,
        state_sha256=state_sha256(stage.network),
        parameters=count_parameters(stage.network),
        macs=count_macs(stage.network, shape),
        input_shape=shape,
    )


def _stage_entry(
    spec: CascadeSpec, stage: StageSpec, graph: Graph, network: NetworkEntry, memory: MemoryEntry
) -> StageEntry:
    position = spec.stages.index(stage)
    previous = spec.stages[position - 1].name if position else ""
    select = None
    if stage.select is not None:
        select = SelectEntry(scores=f"{previous}.scores", order=f"{previous}.order", policy=stage.select)
    return StageEntry(
        name=stage.name,
        graph=stage_part(stage.name, graph),
        inputs=tuple(_input_entry(tensor, previous) for tensor in graph.inputs),
        outputs=tuple(_output_entry(tensor, previous) for tensor in graph.outputs),
        select=select,
        network=network,
        memory=memory,
    )


def _input_entry(tensor: TensorSpec, previous: str) -> InputEntry:
    sources = {"indices": f"{previous}.order", "prior_labels": f"{previous}.labels"}
    return InputEntry(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        source=sources.get(tensor.name, tensor.name),
        prefix=tensor.name == "indices",
    )


def _output_entry(tensor: TensorSpec, previous: str) -> OutputEntry:
    stand_in = f"{previous}.labels" if previous and tensor.name == "labels" else None
    return OutputEntry(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, when_skipped=stand_in)
