"""`inspect`: what an artefact is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.tree import Tree

from cascadert.cli.calibration_tables import print_calibration
from cascadert.cli.console import Json, out, print_json, tracking
from cascadert.cli.memory_tables import plan_to_dict, print_memory, show_bytes
from cascadert.cli.stages import parse_precision
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.bundle import Bundle, BundleManifest, NetworkEntry, StageEntry
    from cascadert.deployment import Deployment, DeploymentManifest
    from cascadert.engines.memory_plan import MemoryPlan


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A bundle, a deployment or a kit.")],
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="Say whether a bundle fits this target's memory.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="PRECISION",
            help="Estimate a bundle's memory in this precision, or as in fast=int8,accurate=fp16; else in each.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a bundle or deployment and show its stages, how they are wired, and what they cost; or what a kit holds.

    Python: cascadert.deployment.open_artefact, cascadert.engines.memory_plan.plan_artefact
    """
    from cascadert.deployment import open_artefact
    from cascadert.engines.kit import is_kit, read_kit
    from cascadert.engines.memory_plan import plan_artefact

    if is_kit(path):
        from cascadert.cli.kits import describe_kit

        if target is not None or precision is not None:
            raise InvalidRequest(str(path), "is a kit: it has its target", "leave --target and --precision out")
        describe_kit(read_kit(path), as_json=as_json)
        return
    with tracking(f"checking {path}", quiet=as_json, counted=False):
        artefact = open_artefact(path)
        plans = plan_artefact(artefact, target, parse_precision(precision))
    describe(artefact, plans, as_json=as_json)


def describe(
    artefact: Bundle | Deployment, plans: Sequence[MemoryPlan] | None = None, *, as_json: bool = False
) -> None:
    """Print what an artefact is and what it takes, as tables or as its manifest in JSON."""
    from cascadert.deployment import Deployment
    from cascadert.engines.memory_plan import plan_artefact

    plans = plan_artefact(artefact) if plans is None else plans
    bundle = artefact.manifest.bundle if isinstance(artefact, Deployment) else artefact.manifest
    kind = "deployment" if isinstance(artefact, Deployment) else "bundle"
    if as_json:
        manifest = artefact.manifest.model_dump(mode="json", by_alias=True)
        memory = [plan_to_dict(plan) for plan in plans]
        found = {"path": str(artefact.path), "kind": kind, "memory": memory, "manifest": manifest}
        print_json(json.dumps(found, indent=1))
        return
    out.print(f"[bold]{kind}[/bold] {artefact.path}", soft_wrap=True)
    out.print(_frame_line(bundle))
    out.print(_stage_table(bundle))
    for stage in bundle.stages:
        if stage.select is not None:
            does = "refines blocks" if sees_blocks(stage) else "runs"
            out.print(f"{stage.name} {does}: {show_decision(stage)}", soft_wrap=True)
    print_memory(plans)
    if isinstance(artefact, Deployment):
        out.print(_wiring(bundle))
        _print_built(artefact.manifest)
    else:
        print_calibration(artefact)
        out.print(_wiring(bundle))


def _frame_line(manifest: BundleManifest) -> str:
    spec, grid = manifest.spec, manifest.spec.make_grid()
    frame, (rows, columns) = spec.frame, grid.shape
    blocks = (
        f"{grid.size} blocks ({rows} rows x {columns}) of {grid.block[1]}x{grid.block[0]} "
        f"at stride {grid.stride[1]}x{grid.stride[0]}"
    )
    return (
        f"{spec.name}: {frame.width}x{frame.height} {frame.pixel_format}, {frame.cameras} camera(s), fit {frame.fit}; "
        f"{spec.num_classes} classes; {blocks if grid.size > 1 else 'no blocks'}"
    )


def _stage_table(manifest: BundleManifest) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for header in ("stage", "network", "sees", "weights", "MACs", "graph"):
        table.add_column(header, overflow="fold", no_wrap=header != "network")
    for stage in manifest.stages:
        network = stage.network
        table.add_row(
            stage.name,
            _network_name(network) + (" (random)" if network.random_seed is not None else ""),
            _sees(network.input_shapes),
            f"{network.parameters:,}",
            f"{_count(network.macs)}/{'block' if sees_blocks(stage) else 'frame'}",
            show_bytes(stage.graph.bytes),
        )
    return table


def _network_name(network: NetworkEntry) -> str:
    return network.model if network.part is None else f"{network.model}: {network.part}"


def _sees(shapes: tuple[tuple[int, ...], ...]) -> str:
    """Return what a network sees: pixels, or channels of carried maps."""
    sizes = [
        f"{shape[3]}x{shape[2]}" + (f"x{shape[1]}" if shape[1] != 3 else "") for shape in shapes if len(shape) == 4
    ]
    return ", ".join(dict.fromkeys(sizes))


def _count(macs: int) -> str:
    return f"{macs / 1e9:.3f} G" if macs >= 1e8 else f"{macs / 1e6:.3f} M"


def sees_blocks(stage: StageEntry) -> bool:
    """Whether a stage's network sees selected blocks, and not whole frames or maps."""
    return stage.select is not None and any(entry.prefix for entry in stage.inputs)


def show_decision(stage: StageEntry) -> str:
    """Return which blocks a stage refines, as people say it; nothing for a stage that sees whole frames."""
    if stage.select is None:
        return ""
    policy, scores = stage.select.policy, stage.select.scores
    if policy.policy == "top-k":
        return f"top {policy.k} by {scores}"
    if policy.policy == "latency":
        return f"what fits {policy.budget_ms:g} ms, by {scores}"
    if policy.policy == "frame-rate":
        return f"what holds {policy.fps:g} frames/s, by {scores}"
    return f"{scores} > {policy.theta:g}"


def _wiring(manifest: BundleManifest) -> Tree:
    tree = Tree("ports")
    for stage in manifest.stages:
        branch = tree.add(f"[bold]{stage.name}[/bold]")
        for entry in stage.inputs:
            origin = f"first n of {entry.source}" if entry.prefix else entry.source
            branch.add(f"[cyan]in[/cyan]  {_plain(str(entry.spec()))} from {origin}")
        for output in stage.outputs:
            skipped = f", {output.when_skipped} where skipped" if output.when_skipped else ""
            branch.add(f"[green]out[/green] {_plain(str(output.spec()))}{skipped}")
    return tree


def _plain(text: str) -> str:
    """Keep rich from reading `[n]` as a style."""
    return text.replace("[", r"\[")


def _print_built(manifest: DeploymentManifest) -> None:
    from cascadert.precision import precision_names

    built, precisions = manifest.built_for, precision_names(manifest.precisions)
    capability = f", compute capability {built.compute_capability}" if built.compute_capability else ""
    if built.gpu is not None:
        capability = f" {built.tensorrt}, {built.gpu.name}{capability}"
    out.print(f"built for [bold]{built.target}[/bold]: {built.backend}{capability}, {precisions}")
    if built.blocks is not None:
        smallest, typical, largest = built.blocks
        out.print(f"refines {smallest} to {largest} blocks, tuned for {typical}")
    table = Table("stage", "precision", "device", "engine", "built in", box=SIMPLE_HEAD)
    for entry in manifest.engines:
        seconds = f"{entry.build_seconds:.1f} s" + (", earlier" if entry.from_cache else "")
        table.add_row(entry.stage, entry.precision, entry.device, show_bytes(entry.engine.bytes), seconds)
    out.print(table)
    out.print("by " + ", ".join(f"{name} {version}" for name, version in manifest.builder.items()))
