"""`parity`: does a bundle compute what was trained, and what does a precision cost?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from cascadert.cli.calibration_tables import show_score_error, show_sqnr
from cascadert.cli.compile import BundlePath
from cascadert.cli.console import Json, needs, out, print_json, print_note, tracking
from cascadert.cli.frames import LabelledFrames, Pair
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.bundle import Bundle
    from cascadert.calibration.parity import ParityReport
    from cascadert.calibration.precision_report import PrecisionReport, PrecisionRow
    from cascadert.precision import Numerics

DialectName = Literal["semantic", "onnxruntime", "tensorrt"]
_PACKAGES = ("onnxruntime", "onnx", "torch", "numpy")


@dataclass(frozen=True)
class _Given:
    """What to compare on: sources and labels, one of each for a camera, and how many frames of them at most."""

    frames: list[Path]
    labels: list[Path]
    glob: str | None
    count: int


def parity(
    bundle: BundlePath,
    frames: Annotated[
        list[Path] | None,
        typer.Option(metavar="SOURCE", help="Image, folder or video, one per camera; else generated streets."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Frames to generate, or to take of SOURCE, evenly spread.")] = 3,
    precisions: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Compare these with fp32: fp16, int8 (or int8-tensorrt, int8-cpu alone)."),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="With --precisions: class ids as PNG of the names and sizes of the images; one per camera. They are "
            "fitted to the cascade as the images are.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --precisions: write a page with plots and pictures.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(metavar="SPEC", help="The specification's present path, if it moved since export.")
    ] = None,
    glob: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take.")] = None,
    dialect: Annotated[
        DialectName, typer.Option(help="Which form of the graphs to run: the bundle's own, or what a backend is given.")
    ] = "semantic",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare a bundle with the PyTorch networks it came from, or its precisions with fp32.

    Without --precisions: stage by stage and port by port. With them: labels,
    logits, uncertainty and selected blocks of PyTorch, fp32 and each precision
    in ONNX Runtime, with the limits of the parity gate.

    Fails (exit code 1) beyond the limits, and when the comparison shows
    nothing: one class everywhere, or no block selected.

    Python: cascadert.calibration.parity.check_parity,
    cascadert.calibration.precision_parity.compare_precisions
    """
    given = _Given(frames or [], labels or [], glob, count)
    if precisions is None:
        _refuse({"--labels": labels, "--html": html}, "compares precisions", "pass --precisions, too, or leave it out")
        _compare_with_torch(bundle, given, spec, dialect, threads, as_json)
        return
    _refuse({"--dialect": dialect != "semantic"}, "does not go with --precisions", "every precision has its own form")
    _refuse({"--labels": labels and not frames}, "needs frames of the same names", "pass them with --frames")
    _compare_precisions(bundle, given, precisions, spec, threads, html, as_json)


def _refuse(options: Mapping[str, object], found: str, remedy: str) -> None:
    for name, value in options.items():
        if value:
            raise InvalidRequest(name, found, remedy)


def _compare_with_torch(
    path: Path, given: _Given, spec: Path | None, dialect: DialectName, threads: int, as_json: bool
) -> None:
    with needs("export,cpu", "cascadert parity"):
        from cascadert.bundle import read_bundle
        from cascadert.calibration.parity import ParityOptions, check_parity

    bundle = read_bundle(path)
    with ExitStack() as stack, tracking("comparing frames", quiet=as_json) as tracker:
        planes = (shown for shown, _ in _pairs(stack, bundle, given)) if given.frames else None
        options = ParityOptions(spec=spec, frames=given.count, threads=threads, dialect=dialect)
        report = check_parity(bundle, planes, options, lambda done: tracker.count(done, given.count))
    if as_json:
        print_json(report.to_json())
    else:
        _print_ports(report)
    report.check()


def _compare_precisions(
    path: Path, given: _Given, precisions: str, spec: Path | None, threads: int, html: Path | None, as_json: bool
) -> None:
    with needs("export,cpu", "cascadert parity"):
        from cascadert.bundle import read_bundle
        from cascadert.calibration.page import check_page
        from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions, offered_numerics

    if html is not None:
        check_page(html)
    bundle = read_bundle(path)
    options = PrecisionOptions(
        numerics=parse_precisions(precisions, offered_numerics(bundle)), spec=spec, frames=given.count, threads=threads
    )
    with ExitStack() as stack, tracking("comparing frames", quiet=as_json) as tracker:
        planes, truths = None, None
        if given.frames:
            first, second = tee(_pairs(stack, bundle, given))
            planes = (shown for shown, _ in first)
            truths = (truth for _, truth in second if truth is not None) if given.labels else None
        report = compare_precisions(bundle, planes, options, truths, lambda done: tracker.count(done, given.count))
    if html is not None:
        _write_page(html, report, path, given, precisions)
    if as_json:
        print_json(report.to_json())
    else:
        print_rows(report)
    if html is not None:
        print_note(f"wrote {html}")
    report.check()


def parse_precisions(text: str, offered: Sequence[Numerics]) -> tuple[Numerics, ...]:
    """Return the numerics that a list of precisions names; `int8` stands for every dialect that the bundle offers.

    Raises:
        InvalidRequest: an unknown name, or a precision that the bundle does not offer.
    """
    found: dict[Numerics, None] = {}
    for word in (word.strip() for word in text.split(",")):
        chosen = [numerics for numerics in offered if numerics == word or numerics.split("-")[0] == word]
        if not chosen:
            raise InvalidRequest(f"precision '{word}'", *_why_not(word, offered))
        found.update(dict.fromkeys(chosen))
    return tuple(found)


def _why_not(word: str, offered: Sequence[Numerics]) -> tuple[str, str]:
    choice = f"choose of {', '.join(offered)}"
    if word in ("int8", "int8-tensorrt", "int8-cpu"):
        return "not every stage of the bundle was calibrated for it", f"run `cascadert calibrate` first, or {choice}"
    if word == "tf32":
        return "is arithmetic of GPUs, and this runs on the CPU", choice
    return "is not known", choice


def _pairs(stack: ExitStack, bundle: Bundle, given: _Given) -> Iterator[Pair]:
    """Open the sources, and yield planes and labels of frames that are spread evenly over them."""
    return stack.enter_context(LabelledFrames(bundle.spec, given.frames, given.labels, given.glob)).spread(given.count)


def _print_ports(report: ParityReport) -> None:
    headers = ("port", "agree", "tied", "differ", "largest", "mean", "")
    table = Table(Column("stage", no_wrap=True), *headers, box=SIMPLE_HEAD, padding=(0, 1))
    for row in report.rows:
        sizes = ["", ""] if row.largest is None or row.mean is None else [f"{row.largest:.1e}", f"{row.mean:.1e}"]
        cells = [f"{row.equal / row.elements:.4%}", f"{row.tied:,}", f"{row.different:,}", *sizes]
        table.add_row(row.stage, row.port, *cells, _mark(row.passed))
    out.print(table)
    out.print(f"limits: {'; '.join(dict.fromkeys(row.limit for row in report.rows))}")
    for stage, refined in report.selected.items():
        shown = ", ".join(map(str, refined))
        out.print(f"stage {stage} refined {shown} of {report.blocks} blocks on {report.frames} frame(s)")
    for stage, frames in report.ran.items():
        out.print(f"stage {stage} ran on {frames} of {report.frames} frame(s)")
    for note in report.notes:
        print_note(note)
    out.print(f"{report.classes} classes appear")


def _mark(passed: bool) -> str:
    return "[green]pass[/green]" if passed else "[bold red]FAIL[/bold red]"


def print_rows(report: PrecisionReport) -> None:
    """Print a row for each way to compute, then what is beyond its limit."""
    labelled = report.row("fp32").quality is not None
    headers = ["labels\n%", *(["mIoU\n%"] if labelled else []), "SQNR\ndB", "score\nerror", "select\nIoU"]
    headers += ["refit\nIoU", "n\n", ""]
    table = Table(Column("", no_wrap=True), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in report.rows:
        mark = "" if row.name == "fp32" else _mark(report.row_passed(row.name))
        table.add_row(row.name, *_cells(row), mark)
    out.print(table)
    out.print(f"{report.frames} frame(s), {report.classes} classes; SQNR and IoU against fp32, the least of any stage")
    out.print("score error: the largest mean of any stage, in bits or as a share; n: blocks, or how often a stage runs")
    out.print("select, refit: refined blocks with theta of fp32, and refitted")
    for check in report.checks:
        if not check.passed:
            out.print(f"[bold red]FAIL[/bold red] {check.row}: {check.what} is {check.shown}, allowed {check.asked}")
    for note in report.notes:
        print_note(note)


def _cells(row: PrecisionRow) -> list[str]:
    from cascadert.calibration.selection_metrics import SelectionAgreement

    quality = [] if row.quality is None else [f"{100 * row.quality.miou:.2f}"]
    before, after = (SelectionAgreement.least_iou(side) for side in (row.before, row.after))
    ious = ["" if iou is None else f"{iou:.3f}" for iou in (before, after)]
    blocks = " + ".join(f"{n:.2f}" for n in row.mean_n.values())
    sqnr = show_sqnr(min(row.sqnr_db.values()))
    error = show_score_error(error.mean for error in row.score_errors.values())
    return [f"{100 * row.label_agreement:.2f}", *quality, sqnr, error, *ious, blocks]


def _write_page(html: Path, report: PrecisionReport, bundle: Path, given: _Given, precisions: str) -> None:
    from cascadert.calibration.page import Origin
    from cascadert.calibration.report import write_page
    from cascadert.jetson.machine import machine, versions

    frames = f"{report.frames} generated street(s)"
    if given.frames:
        frames = f"{report.frames} of {', '.join(map(str, given.frames))}"
    if given.labels:
        frames += f", labels of {', '.join(map(str, given.labels))}"
    command = _command(bundle, given, precisions, html)
    write_page(html, report, Origin(str(bundle), frames, command, versions(_PACKAGES), machine()))


def _command(bundle: Path, given: _Given, precisions: str, html: Path) -> str:
    words = ["cascadert", "parity", bundle, "--precisions", precisions, "--count", given.count]
    for option, values in (("--frames", given.frames), ("--labels", given.labels)):
        words += [word for value in values for word in (option, value)]
    words += [] if given.glob is None else ["--glob", given.glob]
    return shlex.join(map(str, [*words, "--html", html]))
