"""From a specification and weights to a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cascadert.artefacts import check_output
from cascadert.bundle import BUNDLE_FILE, BUNDLE_SCHEMA, CREATED_BY, Bundle, BundleManifest, StageEntry, write_bundle
from cascadert.errors import BundleError
from cascadert.export.entries import describe_network, stage_entry
from cascadert.export.examples import Example, examples
from cascadert.export.exporter import export_graph
from cascadert.export.lowering import lower
from cascadert.export.memory import estimate_memory
from cascadert.export.networks import load_networks, state_sha256
from cascadert.export.stages import Stage, make_stages
from cascadert.export.stages.fronts import INDICES
from cascadert.graph import Graph
from cascadert.spec import CascadeSpec, load_spec

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and over what.

    `random_weights`: the seed of every network without weights. `until`: the last stage; what it does not need is left
    out (see `CascadeSpec.until`). `replace`: overwrite the output.
    """

    random_weights: int | None = None
    until: str | None = None
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
    if options.until is not None:
        spec = spec.until(options.until)
    return export_spec(spec, spec_path.parent.resolve(), output, options, progress)


def export_spec(
    spec: CascadeSpec,
    folder: Path,
    output: Path,
    options: ExportOptions = ExportOptions(),
    progress: Progress | None = None,
) -> Bundle:
    """Export a specification that was read already; its paths count from `folder`. See `export_bundle`."""
    stages = make_stages(spec, load_networks(spec, folder, options.random_weights))
    entries: list[StageEntry] = []
    graphs: dict[str, Graph] = {}
    given = examples(stages, spec, prepared=True)
    for stage in stages:
        if progress:
            progress(stage.name)
        _, example = next(given)  # runs the stage, which takes as long as to export it
        graphs[stage.name] = export_stage(stage, example)
        network = describe_network(spec, stage, example, options.random_weights)
        memory = estimate_memory(lower(graphs[stage.name], "onnxruntime"), spec.blocks)
        entries.append(stage_entry(spec, stage, graphs[stage.name], network, memory))
    fields = {"schema": BUNDLE_SCHEMA, "created_by": CREATED_BY, "spec": spec, "spec_folder": str(folder)}
    manifest = BundleManifest.model_validate({**fields, "stages": tuple(entries)})
    return write_bundle(output, manifest, graphs, replace=options.replace)


def reference_stages(spec: CascadeSpec, folder: Path, random_weights: int | None = None) -> tuple[Stage, ...]:
    """Build the torch modules of every stage: what is exported, and what parity compares with.

    Raises:
        SpecError: a network names no weights, and no seed was given.
        NetworkError: a network or weights that do not work.
    """
    stages = make_stages(spec, load_networks(spec, folder, random_weights))
    for _ in examples(stages, spec, prepared=True):
        pass
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


def export_stage(stage: Stage, example: Example) -> Graph:
    """Export one stage as a semantic graph.

    Args:
        stage: in PyTorch.
        example: of each input, by name; those of blocks have two rows, unless there is but one block.

    Raises:
        ExportError: torch cannot trace the network, or its operators cannot become ONNX.
    """
    blocks = stage.context.frame.cameras * stage.context.grid.size
    rows = [INDICES, *(name for name in example if name.startswith(f"{stage.wiring.rows_of}."))]
    dynamic = {name: {0: "n"} for name in rows if blocks > 1 and stage.sees_blocks}
    return export_graph(stage, {name: tensor.clone() for name, tensor in example.items()}, stage.output_names, dynamic)
