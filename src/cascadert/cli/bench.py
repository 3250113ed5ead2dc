"""`bench`: measured against predicted, serial against overlapped, and where the time goes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadert.cli.bench_tables import print_bench
from cascadert.cli.console import Force, Json, needs, print_json, tracking
from cascadert.cli.policies import Slots, StageThreads, Threads, make_policy, make_threads
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.runtime.profiling.report import BenchReport


def bench(
    artefact: Annotated[Path, typer.Argument(metavar="BUNDLE_OR_DEPLOYMENT", help="What to measure.")],
    source: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SOURCE]...", help="Image, folder or video, one per camera; else generated streets."),
    ] = None,
    frames: Annotated[int, typer.Option(min=3, help="Frames of each pass; a source with fewer is repeated.")] = 24,
    rounds: Annotated[
        int, typer.Option(min=5, help="Passes through each pipeline, in turns, and measurements of each n.")
    ] = 7,
    n: Annotated[int | None, typer.Option("--n", min=0, help="Refine this many blocks of every frame.")] = None,
    theta: Annotated[float | None, typer.Option(help="Refine blocks whose score (bits) is above this.")] = None,
    match: Annotated[
        bool, typer.Option("--match", help="Refine the fixed n whose time is nearest to that of the stages before.")
    ] = False,
    stage: Annotated[
        str | None, typer.Option(help="The stage that --n, --theta or --match is for, if several decide.")
    ] = None,
    threads: Threads = 0,
    stage_threads: StageThreads = None,
    slots: Slots = 0,
    glob: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take.")] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A trace of both runs for ui.perfetto.dev, as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A timeline of some frames, serial above overlapped: .png, .svg."),
    ] = None,
    save_profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measured costs as JSON, for [bold]run --profile[/bold].")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a cascade: each stage alone, then serial and overlapped runs in turns, beside what the stages predict.

    Serial has the threads per stage that overlapped has; the best serial run
    may give all cores to each stage.

    Python: cascadert.jetson.bench.run_bench
    """
    policy = make_policy(theta, n, top_k_option="--n")
    with needs("cpu", "cascadert bench"):
        from cascadert.jetson.bench import BenchRequest, run_bench
        from cascadert.jetson.sinks import claim_file

    if match and policy is not None:
        raise InvalidRequest("--match", "decides how many blocks to refine, and so does --n or --theta", "give one")
    for output in filter(None, (trace, plot, save_profile)):
        claim_file(output, replace=force)
    request = BenchRequest(
        policy=policy, stage=stage, match=match, frames=frames, rounds=rounds,
        threads=make_threads(threads, stage_threads), slots=slots, pattern=glob,
        command=shlex.join(["cascadert", *sys.argv[1:]]),
    )  # fmt: skip
    with tracking(f"measuring {artefact.name}", quiet=as_json) as tracker:

        def show(what: str, done: int, total: int) -> None:
            tracker.say(what)
            tracker.count(done, total)

        report = run_bench(artefact, source or (), request, show)
    _write(report, trace, plot, save_profile)
    if as_json:
        print_json(report.to_json())
    else:
        print_bench(report, [output for output in (trace, plot, save_profile) if output is not None])


def _write(report: BenchReport, trace: Path | None, plot: Path | None, profile: Path | None) -> None:
    from cascadert.jetson.sinks import write_atomically
    from cascadert.jetson.timeline import save_timeline
    from cascadert.runtime.profiling.profile_file import profile_json

    if trace is not None:
        text = report.trace_json()
        write_atomically(trace, lambda path: path.write_text(text, encoding="utf-8"))
    if plot is not None:
        save_timeline(plot, report.typical_passages(), [stage.name for stage in report.bench.plan.stages])
    if profile is not None:
        found = profile_json(report.bench.manifest, report.bench.device, report.bench.profile.costs)
        write_atomically(profile, lambda path: path.write_text(found, encoding="utf-8"))
