"""`targets`: what engines can be built for, and what is known of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from cascadert.cli.console import Json, out, print_json

if TYPE_CHECKING:
    from cascadert.engines.facts import BackendFacts
    from cascadert.engines.profiles import Target

_SPEEDS = {"fast": ("fast", "bold green"), "works": ("yes", ""), "refused": ("-", "dim")}
_BUILDERS = {"tensorrt-rtx": "RTX", "onnxruntime": "ORT"}
_WIDE = 110
_LEGEND = """\
here: builders that need no GPU, TensorRT-RTX and ONNX Runtime. on device: versions of TensorRT, which builds there.
fast: the hardware has units for it. yes: it is built, but nothing shows that it gains. -: it is refused.
Reasons, opsets, and what is unsure: cascadert targets NAME."""


def targets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show all that is known of this one.")] = None,
    as_json: Json = False,
) -> None:
    """List what engines can be built for, or show all that is known of one target.

    Python: cascadert.engines.profiles.list_targets
    """
    from cascadert.engines.profiles import list_targets, load_target

    if name is not None:
        target = load_target(name)
        if as_json:
            print_json(target.model_dump_json(indent=1))
        else:
            _print_target(target)
        return
    known = list_targets()
    if as_json:
        print_json(json.dumps([target.model_dump() for target in known], indent=1))
        return
    out.print(_table(target for target in known if target.refused is None))
    out.print(Text(_LEGEND))
    for target in known:
        if target.refused is not None:
            out.print(Text(f"{target.name} ({target.title}) is refused: {target.refused}."))


def _table(known: Iterable[Target]) -> Table:
    """Show the devices only where there is room for them."""
    from cascadert.precision import PRECISIONS

    wide = out.width >= _WIDE
    headers = ("SM", "here", "on device", *PRECISIONS, "GiB", "DLA", "tier")
    columns = [Column("target"), *([Column("devices", ratio=1)] if wide else []), *map(Column, headers)]
    for column in columns:
        column.no_wrap = column.header != "devices"
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, int(wide), 0, 0), show_edge=False)
    for target in known:
        here, there = ("\n".join(_builders(target, builds)) for builds in ("anywhere", "device"))
        speeds = (Text(*_SPEEDS[target.precisions[precision].speed]) for precision in PRECISIONS)
        title = [target.title] if wide else []
        end = (_show_sizes(target), str(target.dla_cores or ""), target.tier)
        table.add_row(target.name, *title, target.compute_capability or "", here, there, *speeds, *end)
    return table


def _builders(target: Target, builds: str) -> Iterable[str]:
    for facts in target.backends:
        if facts.builds == builds:
            yield f"{_BUILDERS.get(facts.name, '')} {show_versions(facts.versions)}".lstrip()


def show_versions(versions: str) -> str:
    """Return a range of versions as people say it: ">=8.5,<8.7" is "8.5-8.6", ">=10.3,<11" is "10.3-10.x"."""
    lowest, _, limit = versions.removeprefix(">=").partition(",<")
    if not limit:
        return f"{lowest}+"
    *major, last = limit.split(".")
    highest = ".".join([*major, str(int(last) - 1)])
    if lowest == highest:
        return lowest
    return f"{lowest.removesuffix('.0')}-{highest}{'.x' if lowest.startswith(highest + '.') else ''}"


def _show_sizes(target: Target) -> str:
    sizes = [f"{size:g}" for size in target.memory_gib]
    return "-".join(dict.fromkeys((sizes[0], sizes[-1]))) if sizes else ""


def _print_target(target: Target) -> None:
    capability = f", compute capability {target.compute_capability}" if target.compute_capability else ""
    out.print(Text.assemble((target.name, "bold"), f": {target.title}; tier {target.tier}{capability}"))
    if target.refused is not None:
        out.print(Text(f"refused: {target.refused}", "bold red"))
    if target.memory_gib:
        shared = ", shared with the CPU" if target.integrated else ""
        out.print(Text(f"memory: {', '.join(f'{size:g}' for size in target.memory_gib)} GiB{shared}"))
    if target.dla is not None:
        out.print(Text(f"DLA: {target.dla.cores} cores, with TensorRT {' or '.join(target.dla.tensorrt)}"))
    out.print(_speeds(target))
    out.print(_builder_table(target.backends))
    for note in target.notes:
        out.print(Text(f"note: {note}"))
    if target.unsure:
        out.print(Text(f"not sure, for want of a source or a measurement: {', '.join(target.unsure)}"))


def _speeds(target: Target) -> Table:
    table = Table("precision", "speed", "why", box=SIMPLE_HEAD)
    for precision, fact in target.precisions.items():
        unsure = " (unsure)" if f"precisions.{precision}" in target.unsure else ""
        table.add_row(precision, Text(fact.speed + unsure, _SPEEDS[fact.speed][1]), fact.why)
    return table


def _builder_table(backends: Iterable[BackendFacts]) -> Table:
    table = Table("builder", "versions", "builds", "typing", "opset", "broken", box=SIMPLE_HEAD)
    for facts in backends:
        where = "on the device" if facts.builds == "device" else "anywhere"
        typing = "strong" if facts.strongly_typed else "weak"
        table.add_row(facts.name, facts.versions, where, typing, f"to {facts.opset}", ", ".join(facts.known_bad))
    return table
