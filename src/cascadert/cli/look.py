"""`inspect` and `targets`: what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.tree import Tree

from cascadert.cli.console import Json, out, print_json, tracking

if TYPE_CHECKING:
    from cascadert.bundle import Bundle, BundleManifest, StageEntry
    from cascadert.deployment import Deployment, DeploymentManifest


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A bundle or a deployment.")], as_json: Json = False
) -> None:
    """Check a bundle or deployment and show its stages, how they are wired, and what they cost.

    Python: cascadert.deployment.open_artefact
    """
    from cascadert.deployment import open_artefact

    with tracking(f"checking {path}", quiet=as_json, counted=False):
        artefact = open_artefact(path)
    describe(artefact, as_json=as_json)


def targets(as_json: Json = False) -> None:
    """List what engines can be built for.

    Python: cascadert.engines.profiles.list_targets
    """
    from cascadert.engines.profiles import list_targets

    known = list_targets()
    if as_json:
        print_json(json.dumps([target.model_dump() for target in known], indent=1))
        return
    table = Table("target", "devices", "backend", "compute capability", "precisions", box=SIMPLE_HEAD)
    for target in known:
        capability = target.compute_capability or ""
        table.add_row(target.name, target.title, target.backend, capability, ", ".join(target.precisions))
    out.print(table)


def describe(artefact: Bundle | Deployment, *, as_json: bool = False) -> None:
    """Print what an artefact is, as tables or as its manifest in JSON."""
    from cascadert.deployment import Deployment
    from cascadert.runtime.plan import make_plan

    built = artefact.manifest if isinstance(artefact, Deployment) else None
    bundle = artefact.manifest.bundle if isinstance(artefact, Deployment) else artefact.manifest
    slot = make_plan(bundle).slot_bytes
    kind = "bundle" if built is None else "deployment"
    if as_json:
        manifest = artefact.manifest.model_dump(mode="json", by_alias=True)
        found = {"path": str(artefact.path), "kind": kind, "slot_bytes": slot, "manifest": manifest}
        print_json(json.dumps(found, indent=1))
        return
    out.print(f"[bold]{kind}[/bold] {artefact.path}", soft_wrap=True)
    out.print(_frame_line(bundle))
    out.print(_stage_table(bundle))
    out.print(_memory_table(bundle))
    out.print(f"and {show_bytes(slot)} for each frame in flight: its planes, and every output")
    out.print(_wiring(bundle))
    if built is not None:
        _print_built(built)


def _frame_line(manifest: BundleManifest) -> str:
    spec, grid = manifest.spec, manifest.spec.make_grid()
    frame, (rows, columns) = spec.frame, grid.shape
    return (
        f"{spec.name}: {frame.width}x{frame.height} {frame.pixel_format}, {frame.cameras} camera(s), fit {frame.fit}; "
        f"{spec.num_classes} classes; {grid.size} blocks ({rows} rows x {columns}) of "
        f"{grid.block[1]}x{grid.block[0]} at stride {grid.stride[1]}x{grid.stride[0]}"
    )


def _stage_table(manifest: BundleManifest) -> Table:
    table = Table("stage", "network", "sees", "weights", _whole("MACs"), "graph", _whole("refines"), box=SIMPLE_HEAD)
    for stage in manifest.stages:
        network = stage.network
        table.add_row(
            stage.name,
            network.model + (" (random)" if network.random_seed is not None else ""),
            f"{network.input_shape[3]}x{network.input_shape[2]}",
            f"{network.parameters:,}",
            f"{network.macs / 1e9:.3f} G/{'frame' if stage.select is None else 'block'}",
            show_bytes(stage.graph.bytes),
            show_decision(stage),
        )
    return table


def _memory_table(manifest: BundleManifest) -> Table:
    total = manifest.spec.blocks
    table = Table("stage", "weights", "activations, n = 1", f"n = {total}", box=SIMPLE_HEAD)
    table.title, table.title_justify = "memory, as estimated for ONNX Runtime", "left"
    for stage in manifest.stages:
        activations = (show_bytes(stage.memory.activations(n)) for n in (1, total))
        table.add_row(stage.name, show_bytes(stage.memory.weights_bytes), *activations)
    return table


def _whole(header: str) -> Column:
    """Return a column that narrow terminals do not cut."""
    return Column(header, overflow="fold")


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
            skipped = f", {output.when_skipped} when n = 0" if output.when_skipped else ""
            branch.add(f"[green]out[/green] {_plain(str(output.spec()))}{skipped}")
    return tree


def _plain(text: str) -> str:
    """Keep rich from reading `[n]` as a style."""
    return text.replace("[", r"\[")


def _print_built(manifest: DeploymentManifest) -> None:
    built = manifest.built_for
    capability = f", compute capability {built.compute_capability}" if built.compute_capability else ""
    out.print(f"built for [bold]{built.target}[/bold]: {built.backend}, {built.precision}{capability}")
    if built.blocks is not None:
        smallest, typical, largest = built.blocks
        out.print(f"refines {smallest} to {largest} blocks, tuned for {typical}")
    table = Table("stage", "engine", "built in", box=SIMPLE_HEAD)
    for entry in manifest.engines:
        table.add_row(entry.stage, show_bytes(entry.engine.bytes), f"{entry.build_seconds:.1f} s")
    out.print(table)
    out.print("by " + ", ".join(f"{name} {version}" for name, version in manifest.builder.items()))


def show_bytes(count: int) -> str:
    """Return a size in binary units."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
