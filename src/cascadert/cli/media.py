"""`run` and `demo`: a cascade on images and video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cascadert.cli.console import Force, Json, needs, out, print_json, print_note, tracking
from cascadert.cli.kits import refuse_kit
from cascadert.cli.policies import Slots, StageThreads, Threads, check_exit_options, make_policy, make_threads

if TYPE_CHECKING:
    from cascadert.jetson.statistics import RunSummary


def run(
    artefact: Annotated[Path, typer.Argument(metavar="DEPLOYMENT_OR_BUNDLE", help="What to run.")],
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE", help="An image, a folder of images or a video; one per camera.")
    ],
    theta: Annotated[
        float | None,
        typer.Option(
            help="Refine blocks whose score (bits) is above this, in place of the bundle's decision; beside "
            "--budget-ms or --fps: none at or below it."
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Refine this many blocks, the most uncertain, in place of the bundle's.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Refine as many blocks as fit: milliseconds for all stages of a frame.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Keep this frame rate: theta follows the load, frame by frame.")
    ] = None,
    exit_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="TH",
            help="Leave at the first exit that is as confident: 0 at the first always, above 1 at the last always.",
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            help="Answer each frame so long after it was handed over, with the last labels finished then; before the "
            "first labels there is no answer, and these are taken as they come, late.",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="The stage that --theta, --top-k, --budget-ms or --fps is for, if several decide; "
            "beside --exit-threshold, the one that it is for, in place of all after an exit."
        ),
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
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A trace of every stream for ui.perfetto.dev, as JSON.")
    ] = None,
    glob: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take, as in '*.jpg'.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    serial: Annotated[
        bool, typer.Option("--serial", help="Run stage after stage, not stages of several frames side by side.")
    ] = False,
    threads: Threads = 0,
    stage_threads: StageThreads = None,
    slots: Slots = 0,
    live: Annotated[
        bool, typer.Option("--live", help="Give frames at the source's own rate and drop the oldest that waits.")
    ] = False,
    on_error: Annotated[
        Literal["stop", "continue"], typer.Option(help="What to do when a stage fails on a frame.")
    ] = "stop",
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Costs for --budget-ms, by [bold]bench --save-profile[/bold]; else measured before."
        ),
    ] = None,
    legend: Annotated[bool, typer.Option("--legend", help="Name the classes on the overlay.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a bundle or deployment on a source; write overlays, labels and statistics.

    Stages of several frames run side by side; with --serial one after the
    other. Labels are the same.

    Python: cascadert.jetson.run.run
    """
    refuse_kit(artefact, "a bundle or deployment")
    policy = make_policy(theta, top_k, budget_ms, fps)
    deciding = {"--theta": theta, "--top-k": top_k, "--budget-ms": budget_ms, "--fps": fps}
    check_exit_options(exit_threshold, deadline_ms, deciding)
    with needs("cpu", "cascadert run"):
        from cascadert.jetson.outputs import OutputOptions
        from cascadert.jetson.overlay import OverlayOptions
        from cascadert.jetson.run import RunOptions
        from cascadert.jetson.run import run as run_cascade

    outputs = OutputOptions(output, save_labels, stats, trace, force, OverlayOptions(legend=legend))
    options = RunOptions(
        policy=policy,
        stage=stage,
        exit_threshold=exit_threshold,
        deadline_ms=deadline_ms,
        outputs=outputs,
        pattern=glob,
        limit=limit,
        threads=make_threads(threads, stage_threads),
        slots=slots,
        serial=serial,
        live=live,
        keep_going=on_error == "continue",
        profile=profile,
    )
    with tracking(f"running {artefact.name}", quiet=as_json) as tracker:
        summary = run_cascade(artefact, source, options, tracker.count, print_note)
    if as_json:
        print_json(summary.to_json())
    else:
        _print_summary(summary, outputs.paths)
    summary.check()


def _print_summary(summary: RunSummary, outputs: tuple[Path, ...]) -> None:
    out.print(_stage_table(summary))
    latency = summary.latency_ms
    out.print(
        f"{len(summary.frames)} frame(s), {summary.mode}: {summary.fps:.2f} frames/s with reading and writing; "
        f"median latency {latency['p50']:.1f} ms (p90 {latency['p90']:.1f}), waiting for its turn included"
    )
    _print_answers(summary)
    for policy in summary.policies.values():
        if policy.policy == "latency":
            _print_budget(summary, policy.budget_ms)
    busiest = max(summary.busy, key=lambda stream: summary.busy[stream])
    out.print(f"the busiest stream, {busiest}, was at work {summary.busy[busiest]:.0%} of the time")
    if summary.dropped:
        out.print(f"{summary.dropped} frame(s) dropped: the cascade does not keep up with the source")
    for failure in summary.failures:
        out.print(f"no result for {failure.name}: {failure.error}", soft_wrap=True, markup=False)
    largest = sorted(summary.class_shares.items(), key=lambda item: -item[1])[:6]
    out.print(", ".join(f"{name} {share:.1%}" for name, share in largest if share))
    for written in outputs:
        out.print(f"wrote {written}", soft_wrap=True)


def _stage_table(summary: RunSummary) -> Table:
    """What each stage did; frames on which it did not run count for its blocks, as none, and not for its time."""
    table = Table("stage", "decision", "ran on", box=SIMPLE_HEAD)
    if summary.mean_n:
        table.add_column("blocks refined (mean)")
    table.add_column("ms where it ran (mean)")
    for stage, milliseconds in summary.stage_ms.items():
        refined = f"{summary.mean_n[stage]:.2f} of {summary.blocks}" if stage in summary.mean_n else ""
        table.add_row(
            stage,
            _show_decision(summary, stage),
            f"{summary.ran[stage] / len(summary.frames):.0%} of frames",
            *([refined] if summary.mean_n else []),
            "-" if milliseconds is None else f"{milliseconds:.1f}",
        )
    return table


def _show_decision(summary: RunSummary, stage: str) -> str:
    from cascadert.jetson.policies import show_policy

    if stage in summary.confidences:
        return f"confidence < {summary.confidences[stage]:g}"
    return show_policy(summary.policies[stage]) if stage in summary.policies else ""


def _print_answers(summary: RunSummary) -> None:
    """Say which stages answered, where a frame's labels are not always those of the last."""
    frames = len(summary.frames)
    if len(summary.answered) > 1:
        shares = ", ".join(f"{stage} {count / frames:.0%} ({count})" for stage, count in summary.answered.items())
        out.print(f"labels are from: {shares}")
    deadline = summary.deadline
    if deadline is not None:
        late = f", late: {deadline.late}, by at most {deadline.latest_by_ms:.1f} ms" if deadline.late else ""
        out.print(f"answered within {deadline.deadline_ms:g} ms: {deadline.in_time} of {frames} frame(s){late}")


def _print_budget(summary: RunSummary, budget_ms: float) -> None:
    times = sorted(sum(stage.milliseconds for stage in frame.stages) for frame in summary.frames)
    kept = sum(time <= budget_ms for time in times)
    out.print(
        f"the stages of a frame kept within {budget_ms:g} ms on {kept} of {len(times)} frame(s): "
        f"median {median(times):.1f} ms, longest {times[-1]:.1f} ms"
    )


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
