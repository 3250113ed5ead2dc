"""`run` and `demo`: a cascade on images and video."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cascadert.cli.console import Force, Json, needs, out, print_json, tracking
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.jetson.statistics import RunSummary
    from cascadert.spec import SelectPolicy


def run(
    artefact: Annotated[Path, typer.Argument(metavar="DEPLOYMENT_OR_BUNDLE", help="What to run.")],
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE", help="An image, a folder of images or a video; one per camera.")
    ],
    theta: Annotated[
        float | None, typer.Option(help="Refine blocks whose score (bits) is above this, in place of the bundle's.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Refine this many blocks, the most uncertain, in place of the bundle's.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="The stage that --theta or --top-k is for, if several decide.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Overlay: .mp4, .mkv, .mov, .gif, .png, .jpg, or a folder.")
    ] = None,
    save_labels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Labels: an 8-bit PNG per frame, in the source's size and name.")
    ] = None,
    stats: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Statistics as JSON: per frame n, scores and times.")
    ] = None,
    glob: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take, as in '*.jpg'.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    legend: Annotated[bool, typer.Option("--legend", help="Name the classes on the overlay.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a bundle or deployment on a source; write overlays, labels and statistics.

    Python: cascadert.jetson.run.run
    """
    policy = _policy(theta, top_k)
    with needs("cpu", "cascadert run"):
        from cascadert.jetson.overlay import OverlayOptions
        from cascadert.jetson.run import RunOptions
        from cascadert.jetson.run import run as run_cascade

    options = RunOptions(
        policy=policy,
        stage=stage,
        overlay=output,
        labels=save_labels,
        stats=stats,
        pattern=glob,
        limit=limit,
        threads=threads,
        replace=force,
        look=OverlayOptions(legend=legend),
    )
    with tracking(f"running {artefact.name}", quiet=as_json) as tracker:
        summary = run_cascade(artefact, source, options, tracker.count)
    if as_json:
        print_json(summary.to_json())
    else:
        _print_summary(summary, (output, save_labels, stats))


def _policy(theta: float | None, top_k: int | None) -> SelectPolicy | None:
    from cascadert.spec import ThresholdPolicy, TopKPolicy

    if theta is not None and top_k is not None:
        raise InvalidRequest("--theta and --top-k", "both decide how many blocks to refine", "give one of them")
    if theta is not None and not math.isfinite(theta):
        raise InvalidRequest(f"--theta {theta}", "is not a finite number", "give bits: -1 refines all, 99 none")
    if theta is not None:
        return ThresholdPolicy(theta=theta)
    return None if top_k is None else TopKPolicy(policy="top-k", k=top_k)


def _print_summary(summary: RunSummary, outputs: tuple[Path | None, ...]) -> None:
    from cascadert.jetson.run import show_policy

    table = Table("stage", "decision", "blocks refined (mean)", "ms (mean)", box=SIMPLE_HEAD)
    for stage, milliseconds in summary.stage_ms.items():
        policy = summary.policies.get(stage)
        refined = f"{summary.mean_n[stage]:.2f} of {summary.blocks}" if policy else ""
        table.add_row(stage, show_policy(policy) if policy else "whole frames", refined, f"{milliseconds:.1f}")
    out.print(table)
    out.print(
        f"{len(summary.frames)} frame(s): {summary.mean_ms:.1f} ms each (median {summary.median_ms:.1f}), "
        f"{summary.fps:.2f} frames/s; {summary.wall_fps:.2f} with reading and writing"
    )
    largest = sorted(summary.class_shares.items(), key=lambda item: -item[1])[:6]
    out.print(", ".join(f"{name} {share:.1%}" for name, share in largest if share))
    for written in filter(None, outputs):
        out.print(f"wrote {written}", soft_wrap=True)


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write.")] = Path("demo"),
    target: Annotated[
        list[str] | None, typer.Option("--target", metavar="NAME", help="Build for this target; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
) -> None:
    """Do all of it once, on generated streets: export, parity, engines, video, and a report of what was measured.

    Python: cascadert.jetson.demo.make_demo
    """
    with needs("all", "cascadert demo"):
        from cascadert.jetson.demo import DemoOptions, make_demo

    options = DemoOptions(threads=threads)
    if target:
        options = replace(options, targets=tuple(target))
    with tracking("making the demo") as tracker:

        def show(step: str, done: int, total: int | None) -> None:
            tracker.say(step)
            tracker.count(done, total)

        summary = make_demo(output, options, show)
    video = summary.video
    out.print(
        f"{video.frames} frames: mean IoU {video.fast_mean_iou:.1%} fast, {video.cascade_mean_iou:.1%} as a cascade; "
        f"{video.mean_n:.1f} blocks refined and {video.median_ms:.1f} ms per frame"
    )
    out.print(f"built for {', '.join(built.manifest.built_for.target for built in summary.deployments)}")
    out.print(f"open {summary.report}", soft_wrap=True)
