"""How a kit is shown: what is in it, and what to type on the board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from cascadert.cli.console import out, print_json
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.engines.kit import Kit, KitStage


def refuse_kit(path: Path, wanted: str) -> None:
    """Refuse a kit where something else is wanted.

    Raises:
        InvalidRequest: it is one.
    """
    from cascadert.engines.kit import is_kit

    if is_kit(path):
        remedy = f"give {wanted}; of a kit, `cascadert build-engine` makes a deployment on its device"
        raise InvalidRequest(str(path), "is a kit, which holds no engines yet", remedy)


def describe_kit(kit: Kit, *, as_json: bool = False) -> None:
    """Print what a kit holds, as tables or as its manifest in JSON."""
    from cascadert.precision import precision_names

    manifest = kit.manifest
    if as_json:
        found = {"path": str(kit.path), "kind": "kit", "manifest": manifest.model_dump(mode="json", by_alias=True)}
        print_json(json.dumps(found, indent=1))
        return
    precisions = precision_names({stage.stage: stage.precision for stage in manifest.stages})
    smallest, typical, largest = manifest.blocks
    out.print(f"[bold]kit[/bold] {kit.path}", soft_wrap=True)
    out.print(
        f"of {manifest.bundle.spec.name} for [bold]{manifest.target.name}[/bold]: {manifest.backend.name} "
        f"{manifest.backend.versions}, {precisions}; refines {smallest} to {largest} blocks, tuned for {typical}",
        soft_wrap=True,
    )
    table = Table("part", Column("bytes", justify="right"), Column("sha256", no_wrap=True), box=SIMPLE_HEAD)
    for part in manifest.parts():
        table.add_row(part.path, f"{part.bytes:,}", f"{part.sha256[:16]}…")
    out.print(table)
    stages = Table("stage", "precision", "device", "builder flags", "shapes", box=SIMPLE_HEAD)
    for stage in manifest.stages:
        stages.add_row(stage.stage, stage.precision, stage.device, _flags(stage), _shapes(stage))
    out.print(stages)
    out.print(f"copy it to the device ({manifest.target.title}) and type there:", soft_wrap=True)
    out.print(f"  cascadert build-engine {kit.path.name} -o {kit.path.stem}", soft_wrap=True)


def _flags(stage: KitStage) -> str:
    """Return the flags, and how many operators stay float32 under them."""
    settings = stage.settings
    kept = f", {len(settings.float32_nodes)} operators in float32" if settings.float32_nodes else ""
    return " ".join(settings.flags) + kept or "none: the graph is typed"


def _shapes(stage: KitStage) -> str:
    return "; ".join(f"{name} {' / '.join(map(str, shapes))}" for name, shapes in stage.shapes.items()) or "fixed"
