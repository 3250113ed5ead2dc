"""`export`, `parity` and `build-engine`: from a specification to what runs on a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from cascadert.cli.console import Force, Json, needs, out, print_json, tracking
from cascadert.cli.look import describe

if TYPE_CHECKING:
    from cascadert.bundle import Bundle
    from cascadert.calibration.parity import ParityReport

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder written by [bold]export[/bold].")]


def export(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The cascade's TOML file; its paths count from there.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The folder to write.")],
    random_weights: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Make up weights for stages that name none, to try things out."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Export the networks of a specification to a bundle: one ONNX graph per stage, and how they are wired.

    Python: cascadert.export.compile.export_bundle
    """
    with needs("export", "cascadert export"):
        from cascadert.export.compile import ExportOptions, export_bundle

    with tracking(f"exporting {spec}", quiet=as_json, counted=False) as tracker:
        options = ExportOptions(random_weights=random_weights, replace=force)
        bundle = export_bundle(spec, output, options, lambda stage: tracker.say(f"exporting stage {stage}"))
    describe(bundle, as_json=as_json)


def parity(
    bundle: BundlePath,
    frames: Annotated[
        list[Path] | None,
        typer.Option(metavar="SOURCE", help="Image, folder or video, one per camera; else generated streets."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Frames to generate, or to take of SOURCE at most.")] = 3,
    spec: Annotated[
        Path | None, typer.Option(metavar="SPEC", help="The specification's present path, if it moved since export.")
    ] = None,
    glob: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take.")] = None,
    dialect: Annotated[
        Literal["semantic", "onnxruntime", "tensorrt"],
        typer.Option(help="Which form of the graphs to run: the bundle's own, or what a backend is given."),
    ] = "semantic",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare a bundle with the PyTorch networks it came from, stage by stage and port by port.

    Fails (exit code 1) beyond the limits, and when the comparison shows
    nothing: one class everywhere, or no block selected.

    Python: cascadert.calibration.parity.check_parity
    """
    with needs("export,cpu", "cascadert parity"):
        from cascadert.bundle import read_bundle
        from cascadert.calibration.parity import ParityOptions, check_parity

    opened = read_bundle(bundle)
    with ExitStack() as stack, tracking("comparing frames", quiet=as_json) as tracker:
        given = None if not frames else _planes(stack, opened, frames, glob, count)
        options = ParityOptions(spec=spec, frames=count, threads=threads, dialect=dialect)
        report = check_parity(opened, given, options, lambda done: tracker.count(done, count))
    if as_json:
        print_json(report.to_json())
    else:
        _print_parity(report)
    report.check()


def _planes(
    stack: ExitStack, bundle: Bundle, sources: list[Path], glob: str | None, count: int
) -> Iterator[Mapping[str, Any]]:
    from cascadert.jetson.sources import Cameras

    cameras = stack.enter_context(Cameras(sources, bundle.spec.frame, pattern=glob))
    return (cameras.planes(frames) for frames in islice(cameras, count))


def _print_parity(report: ParityReport) -> None:
    headers = ("port", "agree", "tied", "differ", "largest", "mean", "")
    table = Table(Column("stage", no_wrap=True), *headers, box=SIMPLE_HEAD, padding=(0, 1))
    for row in report.rows:
        sizes = ["", ""] if row.largest is None or row.mean is None else [f"{row.largest:.1e}", f"{row.mean:.1e}"]
        cells = [f"{row.equal / row.elements:.4%}", f"{row.tied:,}", f"{row.different:,}", *sizes]
        mark = "[green]pass[/green]" if row.passed else "[bold red]FAIL[/bold red]"
        table.add_row(row.stage, row.port, *cells, mark)
    out.print(table)
    out.print(f"limits: {'; '.join(dict.fromkeys(row.limit for row in report.rows))}")
    for stage, refined in report.selected.items():
        shown = ", ".join(map(str, refined))
        out.print(f"stage {stage} refined {shown} of {report.blocks} blocks on {report.frames} frame(s)")
    out.print(f"{report.classes} classes appear")


def build_engine(
    bundle: BundlePath,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="See [bold]cascadert targets[/bold].")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DEPLOYMENT", help="The folder to write.")],
    precision: Annotated[str, typer.Option(help="What convolutions compute in; fp32 has TF32 off.")] = "fp32",
    typical_blocks: Annotated[
        int | None, typer.Option(help="Tune refinement for this many blocks; a quarter of all if not given.")
    ] = None,
    max_blocks: Annotated[int | None, typer.Option(help="The most blocks that engines take; all if not given.")] = None,
    workspace_bytes: Annotated[int | None, typer.Option(help="Scratch memory that engines may use.")] = None,
    optimization_level: Annotated[
        int | None, typer.Option(help="0 (fast to build) to 5 (fast to run); TensorRT's own if not given.")
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Give a stage up after so many seconds.")] = 3600.0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Build a bundle for one target: a deployment with one engine per stage. Needs no GPU.

    Python: cascadert.engines.build.build_engine
    """
    with needs("export,rtx", "cascadert build-engine"):
        from cascadert.bundle import read_bundle
        from cascadert.engines.build import BuildOptions, BuildProgress
        from cascadert.engines.build import build_engine as build

    options = BuildOptions(
        precision, workspace_bytes, optimization_level, typical_blocks, max_blocks, replace=force, timeout_s=timeout_s
    )
    with tracking(f"building for {target}", quiet=as_json, counted=False) as tracker:

        def show(step: BuildProgress) -> None:
            tracker.say(f"{step.stage}: {step.phase}")
            tracker.count(round(step.fraction * 100), 100)

        deployment = build(read_bundle(bundle), target, output, options, show)
    describe(deployment, as_json=as_json)
