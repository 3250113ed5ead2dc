"""`calibrate`: from a bundle to one that can be built in fp16 and int8."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from cascadert.cli.calibration_tables import print_thetas, show_sqnr
from cascadert.cli.compile import BundlePath
from cascadert.cli.console import Force, Json, needs, out, print_json, tracking
from cascadert.cli.tuning import (
    Block,
    Halo,
    MaxDrop,
    Precision,
    Profile,
    Spec,
    TargetFps,
    TargetMs,
    Wanted,
    command,
    origin_of,
)
from cascadert.cli.tuning_tables import print_tuning
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.bundle import Bundle
    from cascadert.calibration.calibrate import Calibrated
    from cascadert.calibration.judge import Found
    from cascadert.calibration.refit import Recording
    from cascadert.calibration.stage_plans import DialectPlan
    from cascadert.calibration.tuning_report import TuningReport
    from cascadert.precision import Int8Dialect

_DIALECTS: dict[str, tuple[Int8Dialect, ...]] = {
    "both": ("tensorrt", "cpu"),
    "tensorrt": ("tensorrt",),
    "cpu": ("cpu",),
    "none": (),
}


def calibrate(
    bundle: BundlePath,
    images: Annotated[
        list[Path], typer.Option(metavar="SOURCE", help="Folder or video like what it will see, one per camera.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="CALIBRATED", help="The folder to write.")],
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Class ids as PNG of the names and sizes of the images: mIoU decides then. They are fitted to the "
            "cascade as the images are.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Frames to take, 8 or more, evenly spread; every fourth judges.")] = 64,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks to keep for each refinement stage.")] = 128,
    weighting: Annotated[
        Literal["classes", "uncertainty"],
        typer.Option(help="Which blocks are kept more often: of rare classes, or also of uncertain instances."),
    ] = "classes",
    int8: Annotated[
        Literal["both", "tensorrt", "cpu", "none"],
        typer.Option(help="Prepare int8 for TensorRT, for ONNX Runtime on CPUs, both, or fp16 alone."),
    ] = "both",
    calibrator: Annotated[
        Literal["min-max", "percentile", "entropy", "mse"] | None, typer.Option(help="Try only this one, not all.")
    ] = None,
    refit: Annotated[
        Literal["blocks", "miou", "none"],
        typer.Option(help="Refit theta so that as many blocks are refined, or that mIoU is kept, or not at all."),
    ] = "blocks",
    seed: Annotated[int, typer.Option(help="Of the choice of blocks.")] = 0,
    glob: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page with plots and pictures; with labels also curves of quality and cost."
        ),
    ] = None,
    max_drop: MaxDrop = None,
    target_ms: TargetMs = None,
    target_fps: TargetFps = None,
    precision: Precision = None,
    block: Block = None,
    halo: Halo = None,
    spec: Spec = None,
    profile: Profile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure ranges, choose what stays in floating point, and refit theta, for fp16 and int8.

    Three frames of four calibrate, the fourth judges: calibrators, operators
    that fall back and theta are chosen by what was measured on those. Says
    what each precision costs in labels and in the blocks that are refined;
    fails (exit code 1) if that is beyond the limits of the parity gate.

    With a goal (--max-drop, --target-ms or --target-fps) it first tunes: theta,
    and with --block, --halo and --precision also these, are chosen by curves of
    quality and cost over labelled frames, and judged on the held-out ones. Of a
    network with exits it plans these, as exits does.

    Python: cascadert.calibration.calibrate.calibrate, and .tuning.tune
    """
    with needs("export,cpu", "cascadert calibrate"):
        from cascadert.artefacts import check_output
        from cascadert.bundle import BUNDLE_FILE, read_bundle
        from cascadert.calibration.calibrate import HELD_OUT, CalibrateOptions
        from cascadert.calibration.calibrate import calibrate as run
        from cascadert.calibration.page import check_page
        from cascadert.calibration.samples import SampleOptions
        from cascadert.calibration.tuning import is_exit_chain, tune, why_not
        from cascadert.precision import CALIBRATORS

    if count < 2 * HELD_OUT:
        found = f"is too few, since every {HELD_OUT}th frame judges and does not calibrate"
        raise InvalidRequest(f"--count {count}", found, f"give at least {2 * HELD_OUT}")
    wanted = Wanted(max_drop, target_ms, target_fps, precision, block, halo, spec, profile)
    tuning = wanted.options(labelled=bool(labels), page=html is not None, threads=threads)
    check_output(output, [BUNDLE_FILE], replace=force)
    if html is not None:
        check_page(html)
    started = time.monotonic()
    opened = read_bundle(bundle)
    if tuning is not None and not wanted.asked and not is_exit_chain(opened.manifest) and why_not(opened.manifest):
        tuning = None  # a page was asked for, not curves
    options = CalibrateOptions(
        source=", ".join(map(str, images)),
        samples=SampleOptions(frames=count, blocks=blocks, weighting=weighting, seed=seed, threads=threads),
        calibrators=CALIBRATORS if calibrator is None else (calibrator,),
        dialects=_DIALECTS[int8],
        refit=refit,
        replace=force,
    )
    with tracking(f"calibrating {bundle}", quiet=as_json, counted=False) as tracker:
        recording = _read(opened, images, labels or [], glob, count)
        report = None
        if tuning is None:
            calibrated = run(opened, recording, output, options, tracker.say)
        else:
            tuned = tune(opened, recording, output, tuning, options, tracker.say)
            calibrated, report = tuned.calibrated, tuned.report
    if html is not None:
        _write_pages(html, calibrated, report, images, labels or [])
    seconds = time.monotonic() - started
    if as_json:
        print_json(json.dumps({**_as_json(calibrated, report), "seconds": seconds}, indent=1))
    else:
        if report is not None:
            print_tuning(report)
        _print(calibrated)
        out.print(f"wrote {calibrated.bundle.path} after {show_duration(seconds)}", soft_wrap=True)
    calibrated.report.check()


def _read(bundle: Bundle, images: list[Path], labels: list[Path], glob: str | None, count: int) -> Recording:
    """Read frames, evenly spread over the sources where these tell how many there are."""
    from cascadert.calibration.refit import Recording
    from cascadert.cli.frames import LabelledFrames

    with ExitStack() as stack:
        source = stack.enter_context(LabelledFrames(bundle.spec, images, labels, glob))
        pairs = list(source.spread(count))
    truths = [truth for _, truth in pairs if truth is not None]
    return Recording([planes for planes, _ in pairs], truths if labels else None)


def _write_pages(
    html: Path, calibrated: Calibrated, report: TuningReport | None, images: list[Path], labels: list[Path]
) -> None:
    """Write the page of precisions; where there are curves, beside the page of these."""
    from cascadert.calibration.page import Origin
    from cascadert.calibration.report import write_page
    from cascadert.calibration.tuning_page import write_tuning_page
    from cascadert.jetson.machine import machine, versions

    page = html
    if report is not None:
        page = html.with_name(f"{html.stem}-precisions{html.suffix}")
        write_tuning_page(html, report, origin_of(calibrated.bundle, report.frames, images, labels), page.name)
    frames = f"{calibrated.report.frames} held-out frames of {', '.join(map(str, images))}"
    if labels:
        frames += f", labels of {', '.join(map(str, labels))}"
    packages = versions(("onnxruntime", "onnx", "numpy"))
    write_page(page, calibrated.report, Origin(str(calibrated.bundle.path), frames, command(), packages, machine()))


def _print(calibrated: Calibrated) -> None:
    from cascadert.cli.parity import print_rows

    for stage, plans in calibrated.plans.items():
        if plans:
            _print_int8(stage, plans, calibrated.bundle)
        for reason in calibrated.fp16_keep[stage].values():
            out.print(f"{stage}, fp16: {reason}: stays float32")
    print_thetas(calibrated.bundle.manifest)
    print_rows(calibrated.report)


def _print_int8(stage: str, plans: Mapping[Int8Dialect, DialectPlan], bundle: Bundle) -> None:
    """Print what each calibrator gives, and what stays in floating point."""
    table = Table(Column(f"{stage}: int8", no_wrap=True), box=SIMPLE_HEAD, padding=(0, 1))
    for header in ("calibrator", "SQNR, dB", "labels kept, %", "score error", ""):
        table.add_column(header, justify="left" if header in ("calibrator", "") else "right")
    for dialect, plan in plans.items():
        for name, found in plan.tried.items():
            table.add_row(dialect, name, *_cells(found), "chosen" if name == plan.plan.calibrator else "")
        if plan.fallback.kept:
            kept = f"{plan.fallback.kept} of {len(plan.groups)} groups in floating point"
            table.add_row(dialect, "with fallback", *_cells(plan.fallback.found), kept)
    out.print(table)
    for dialect, plan in plans.items():
        _print_kept(stage, dialect, plan, bundle)


def show_duration(seconds: float) -> str:
    """Return a duration as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _print_kept(stage: str, dialect: Int8Dialect, plan: DialectPlan, bundle: Bundle) -> None:
    """Say which groups fell back, that none did, or that there was nothing to quantize."""
    from cascadert.export.precision import quantized_operators

    for group in plan.groups[: plan.fallback.kept]:
        alone = f"alone it leaves {group.found.sqnr_db:.1f} dB"
        out.print(f"{stage}, {dialect}: {group.module} stays in floating point: {alone}")
    if plan.fallback.kept:
        return
    int8 = quantized_operators(bundle.graphs[stage], dialect, plan.fallback.plan)
    found = "nothing that int8 takes stays in floating point" if int8 else "int8 takes none of its operators"
    out.print(f"{stage}, {dialect}: {found}")


def _cells(found: Found) -> tuple[str, str, str]:
    error = "" if found.score_error is None else f"{found.score_error:.4f}{' bits' if found.unit == 'bits' else ''}"
    return show_sqnr(found.sqnr_db), f"{100 * found.agreement:.2f}", error


def _as_json(calibrated: Calibrated, report: TuningReport | None) -> dict[str, Any]:
    def found(value: Found) -> dict[str, Any]:
        sqnr_db = value.sqnr_db if math.isfinite(value.sqnr_db) else None  # JSON has no other word for it
        return {"sqnr_db": sqnr_db, "agreement": value.agreement, "score_error": value.score_error}

    stages = {
        stage: {
            dialect: {
                "tried": {name: found(value) for name, value in plan.tried.items()},
                "chosen": plan.plan.calibrator,
                "final": found(plan.fallback.found),
                "floating_point": dict(plan.fallback.plan.keep),
            }
            for dialect, plan in plans.items()
        }
        for stage, plans in calibrated.plans.items()
    }
    thetas = {s.name: s.select.thetas for s in calibrated.bundle.manifest.stages if s.select is not None}
    return {
        **({} if report is None else _tuning_json(report)),
        "path": str(calibrated.bundle.path),
        "int8": stages,
        "fp16_float32": {stage: dict(kept) for stage, kept in calibrated.fp16_keep.items()},
        "thetas": thetas,
        "parity": json.loads(calibrated.report.to_json()),
    }


def _tuning_json(report: TuningReport) -> dict[str, Any]:
    from cascadert.jetson.machine import machine, versions

    made_by = {"command": command(), "machine": machine(), "versions": versions(("onnxruntime", "onnx", "numpy"))}
    return {**made_by, "tuning": json.loads(report.to_json())}
