"""`build-engine`: from a bundle or a kit to a deployment, or to a kit where the device must build itself."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadert.cli.console import Force, Json, print_note, tracking
from cascadert.cli.kits import describe_kit
from cascadert.cli.look import describe
from cascadert.cli.stages import by_stage, parse_precision

if TYPE_CHECKING:
    from cascadert.engines.build import BuildProgress
    from cascadert.precision import Precision

_STEPS = 1000


def build_engine(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A bundle, or a kit that was written for a board.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="See [bold]cascadert targets[/bold]; auto is this machine's GPU. Not for kits."
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="PRECISION",
            help="fp32 (if not given), tf32, fp16 or int8; or of each stage, as in fast=int8,accurate=fp16.",
        ),
    ] = None,
    dla: Annotated[
        str | None, typer.Option(metavar="STAGE=CORE", help="Run stages on a DLA core, as in fast=dla0.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="tensorrt-rtx or tensorrt, where a target has both.")
    ] = None,
    tensorrt: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The version on the board that a kit is for, as in 10.3.0.")
    ] = None,
    typical_blocks: Annotated[
        int | None, typer.Option(help="Tune refinement for this many blocks; a quarter of all if not given.")
    ] = None,
    max_blocks: Annotated[int | None, typer.Option(help="The most blocks that engines take; all if not given.")] = None,
    workspace_bytes: Annotated[int | None, typer.Option(help="Scratch memory that engines may use.")] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0 (fast to build) to 5 (fast to run); TensorRT's own if not given.")
    ] = None,
    aux_streams: Annotated[
        int | None, typer.Option(help="Streams that TensorRT may add within a stage; 0 if not given.")
    ] = None,
    refittable: Annotated[
        bool, typer.Option("--refittable", help="Let engines take other weights: see [bold]cascadert refit[/bold].")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Take engines from the cache, and keep new ones.")
    ] = True,
    timing_cache: Annotated[
        bool, typer.Option("--timing-cache/--no-timing-cache", help="Reuse times of kernels measured on this GPU.")
    ] = True,
    timeout_s: Annotated[float, typer.Option(help="Give a stage up after so many seconds.")] = 3600.0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Build a bundle for one target: a deployment with one engine per stage.

    TensorRT-RTX needs no GPU for it. Full TensorRT must build on the device
    itself: on any other machine a kit DIR/NAME.kit is written instead, one
    file to copy to the board and to build there.

    Engines that were built before come from the cache: files in
    $CASCADERT_CACHE, else in $XDG_CACHE_HOME/cascadert/engines, else in
    ~/.cache/cascadert/engines. Remove what you no longer want.

    Python: cascadert.engines.build.build_or_pack
    """
    from cascadert.bundle import read_bundle
    from cascadert.engines.build import BuildOptions, build_or_pack
    from cascadert.engines.kit import Kit, is_kit, read_kit

    options = BuildOptions(
        precision=parse_precision(precision),
        devices={} if dla is None else by_stage("--dla", dla),
        backend=backend,  # type: ignore[arg-type]  # checked there
        tensorrt=tensorrt,
        workspace_bytes=workspace_bytes,
        optimization_level=optimization_level,
        aux_streams=aux_streams,
        typical_blocks=typical_blocks,
        max_blocks=max_blocks,
        refittable=refittable,
        cache=cache,
        timing_cache=timing_cache,
        replace=force,
        timeout_s=timeout_s,
    )
    opened = read_kit(source) if is_kit(source) else read_bundle(source)
    manifest = opened.manifest.bundle if isinstance(opened, Kit) else opened.manifest
    stages = [stage.name for stage in manifest.stages]
    with tracking(f"building {source.name}", quiet=as_json, counted=False, timed=True) as tracker:

        def show(step: BuildProgress) -> None:
            if step.note:
                tracker.note(f"{step.stage}: {step.note}")
            tracker.say(f"{step.stage}: {step.phase}")
            tracker.count(round(_STEPS * (stages.index(step.stage) + step.fraction)), _STEPS * len(stages))

        result = build_or_pack(opened, target, output, options, show)
    if isinstance(result, Kit):
        describe_kit(result, as_json=as_json)
        target_name = result.plan.target.name
        precisions = {planned.precision for planned in result.plan.stages.values()}
    else:
        describe(result, as_json=as_json)
        target_name, precisions = result.manifest.built_for.target, set(result.manifest.precisions.values())
    for doubt in doubts(target_name, precisions):
        print_note(doubt)


def doubts(target: str, precisions: Collection[Precision]) -> list[str]:
    """Say of precisions that a target takes, but has no units for, what is known of them."""
    from cascadert.engines.profiles import load_target

    facts = load_target(target).precisions
    slow = sorted(precision for precision in precisions if facts[precision].speed == "works")
    return [f"{precision} on {target}: {facts[precision].why}; build fp16, too, and compare" for precision in slow]
