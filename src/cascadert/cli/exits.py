"""`exits`: which exits a network should have, at which confidences, for a budget or an accuracy."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cascadert.cli.compile import BundlePath
from cascadert.cli.console import Force, Json, needs, print_json, print_note, tracking
from cascadert.cli.exit_tables import print_exits
from cascadert.cli.frames import Count, Images, LabelledFrames, Labels
from cascadert.cli.kits import refuse_kit
from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.bundle import Bundle
    from cascadert.calibration.exit_report import ExitReport
    from cascadert.calibration.exit_search import Best, Fastest

_PACKAGES = ("onnxruntime", "numpy")


def exits(
    bundle: BundlePath,
    images: Images,
    labels: Labels,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", help="Find the fastest plan that loses at most so many points of mIoU."),
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(help="Find the plan of the best mIoU that takes so many milliseconds on average.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="BUNDLE", help="Write a bundle that follows the plan.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Times of the stages, by [bold]bench --json[/bold] on the device; else measured here."
        ),
    ] = None,
    serial: Annotated[
        bool, typer.Option("--serial", help="Plan for stages in a row, as run --serial, also where they speculate.")
    ] = False,
    count: Count = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with tables and plots.")] = None,
    glob: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which files of a folder to take.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find out which exits of a network to use, and how confident each must be.

    Runs every stage on every labelled image once, and searches all choices of
    exits with a threshold for each: an image leaves at the first exit that is
    as confident (th; the bundle's theta is 1 - th). Prints the plans that no
    other beats in mIoU and mean latency; every fourth image judges them and
    does not choose.

    With -o, exits that the plan does not use are left out of the new bundle;
    what calibration refitted to thresholds that change is dropped.

    Python: cascadert.calibration.exit_report.plan_exits
    """
    with needs("export,cpu", "cascadert exits"):
        from cascadert.artefacts import check_output
        from cascadert.bundle import BUNDLE_FILE, read_bundle
        from cascadert.calibration.exit_chain import exits_of
        from cascadert.calibration.exit_measurement import measure_exits
        from cascadert.calibration.exit_report import plan_exits
        from cascadert.calibration.page import check_page
        from cascadert.runtime.profiling.profile_file import read_stage_ms

    refuse_kit(bundle, "a bundle")
    objective = make_objective(max_drop, budget_ms)
    if output is not None:
        if objective is None:
            raise InvalidRequest(f"--output {output}", "needs a plan", "say which with --max-drop or --budget-ms")
        check_output(output, [BUNDLE_FILE], replace=force)
    if html is not None:
        check_page(html)
    opened = read_bundle(bundle)
    exits_of(opened.manifest)  # refuses other cascades before any frame is looked at
    stage_ms = None if profile is None else read_stage_ms(profile, opened.manifest)
    with (
        LabelledFrames(opened.spec, images, labels, glob) as source,
        tracking("running all exits", quiet=as_json) as tracker,
    ):
        total, samples = source.count(count), source.samples(count)
        frames = ((sample.planes, sample.truth) for sample in samples)
        found = measure_exits(opened, frames, threads, stage_ms, lambda done: tracker.count(done, total))
    planned = plan_exits(found, objective, serial=serial)
    if planned.plan is not None and output is not None:
        from cascadert.calibration.exit_plan import write_planned

        write_planned(opened, found.exits, planned.plan, output, replace=force)
    if html is not None:
        _write_page(html, opened, planned.report, {"images": images, "labels": labels})
    if as_json:
        print_json(planned.report.to_json())
    else:
        print_exits(planned.report)
    for written in filter(None, (output, html)):
        print_note(f"wrote {written}")


def make_objective(max_drop: float | None, budget_ms: float | None) -> Fastest | Best | None:
    """Return what to look for, if anything.

    Raises:
        InvalidRequest: both at once, or a bound that is out of range.
    """
    from cascadert.calibration.exit_search import Best, Fastest

    if max_drop is not None and budget_ms is not None:
        found = "bound both accuracy and time"
        raise InvalidRequest("--max-drop and --budget-ms", found, "give one: the other is then as good as can be")
    if max_drop is not None:
        if not 0 <= max_drop <= 100:
            raise InvalidRequest(f"--max-drop {max_drop:g}", "is no number of points", "give 0 to 100")
        return Fastest(max_drop / 100)
    if budget_ms is not None:
        if not 0 < budget_ms < float("inf"):
            raise InvalidRequest(f"--budget-ms {budget_ms:g}", "is no number above 0", "give milliseconds")
        return Best(budget_ms)
    return None


def _write_page(html: Path, bundle: Bundle, report: ExitReport, given: Mapping[str, list[Path]]) -> None:
    from cascadert.calibration.exit_page import write_exit_page
    from cascadert.calibration.page import Origin
    from cascadert.jetson.machine import machine, versions

    images, labels = (", ".join(map(str, given[name])) for name in ("images", "labels"))
    frames = f"{report.images} of {images}, labels of {labels}"
    command = shlex.join(["cascadert", *sys.argv[1:]])
    write_exit_page(html, report, Origin(str(bundle.path), frames, command, versions(_PACKAGES), machine()))
