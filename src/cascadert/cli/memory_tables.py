"""How the memory that a cascade takes is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from cascadert.cli.console import out

if TYPE_CHECKING:
    from cascadert.engines.memory_plan import MemoryPlan


def print_memory(plans: Sequence[MemoryPlan]) -> None:
    """Print the first plan stage by stage, and what all of them come to."""
    first = plans[0]
    out.print(f"memory in {_precisions(first)}, as estimated for ONNX Runtime:")
    out.print(_stage_table(first))
    out.print(f"and {show_bytes(first.slot_bytes)} for each frame in flight: its planes, and every output")
    out.print(_total_table(plans))
    for line in _footnotes(plans):
        out.print(Text(line))


def plan_to_dict(plan: MemoryPlan) -> dict[str, Any]:
    """Return a plan for JSON, with its sums."""
    return {**asdict(plan), "total_bytes": plan.total_bytes, "fits": plan.fits}


def show_bytes(count: int) -> str:
    """Return a size in binary units."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _stage_table(plan: MemoryPlan) -> Table:
    several = ("activations, n = 1", f"n = {plan.blocks}") if plan.blocks > 1 else ("activations",)
    table = Table("stage", "weights", *several, box=SIMPLE_HEAD)
    for stage in plan.stages:
        sizes = (stage.weights_bytes, stage.activation_bytes, stage.largest_activation_bytes)[: 1 + len(several)]
        table.add_row(stage.stage, *map(show_bytes, sizes))
    return table


def _total_table(plans: Sequence[MemoryPlan]) -> Table:
    first = plans[0]
    frames = Column(f"{first.slots} frames in flight")
    table = Table("precision", "weights", "activations", frames, "total", box=SIMPLE_HEAD)
    if first.fits is not None:
        table.add_column("fits")
    for plan in plans:
        sizes = (plan.weights_bytes, plan.activation_bytes, plan.slots * plan.slot_bytes, plan.total_bytes)
        fits = [] if plan.fits is None else ["[green]yes[/green]" if plan.fits else "[bold red]NO[/bold red]"]
        table.add_row(_precisions(plan), *map(show_bytes, sizes), *fits)
    return table


def _footnotes(plans: Sequence[MemoryPlan]) -> Sequence[str]:
    first, lines = plans[0], []
    if first.memory_bytes is not None:
        memory, reserve = (show_bytes(size) for size in (first.memory_bytes, first.reserve_bytes))
        lines.append(f"fits {first.target}: the smallest has {memory}, {reserve} of it for the system and CUDA")
    int8 = [stage for plan in plans for stage in plan.stages if stage.precision == "int8"]
    lines += [f"int8 holds {x.quantized:.1%} of the weights of {x.stage}" for x in int8 if x.quantized is not None]
    assumed = [stage.stage for stage in int8 if stage.quantized is None]
    if assumed:
        lines.append(f"int8 is counted as holding all weights of {', '.join(dict.fromkeys(assumed))}")
    return lines


def _precisions(plan: MemoryPlan) -> str:
    from cascadert.precision import precision_names

    return precision_names(plan.precisions)
