"""The page of a comparison of precisions: one file, pictures inside it."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cascadert.artefacts import why_not_writable
from cascadert.calibration.exhibits import Exhibit
from cascadert.calibration.metrics import PAvPU
from cascadert.calibration.pictures import (
    BETTER,
    GAINED,
    KEPT,
    LOST,
    OTHER,
    WORSE,
    Colour,
    Image8,
    draw_difference,
    draw_selection,
)
from cascadert.calibration.plots import plot_class_iou, plot_scores, plot_sqnr
from cascadert.calibration.precision_report import REFERENCE, PrecisionReport
from cascadert.calibration.selection_metrics import NEAR_THETA_BITS
from cascadert.errors import SourceError, import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class Origin:
    """What made a page: the bundle and the frames, the command, versions of packages, and the machine."""

    bundle: str
    frames: str
    command: str
    versions: Mapping[str, str]
    machine: str


@dataclass(frozen=True)
class ShownFrame:
    """One of the worst frames, drawn."""

    exhibit: Exhibit
    selection: str
    difference: str


def check_page(path: Path) -> None:
    """Check that a page can be written to `path`, before the work that makes it. Nothing is created.

    Raises:
        MissingExtra: matplotlib or jinja2 is not installed.
        SourceError: the file cannot be written.
    """
    import_extra("jinja2", "report", "to write a page")
    import_extra("matplotlib", "report", "to draw plots")
    reason = "it is a folder" if path.is_dir() else why_not_writable(path)
    if reason is None and path.exists() and not os.access(path, os.W_OK):
        reason = "no permission to replace it"
    if reason is not None:
        raise SourceError(str(path), f"cannot be written ({reason})", "choose another output")


def write_page(path: Path, report: PrecisionReport, origin: Origin) -> None:
    """Write the page, and the folders that lead to it.

    Raises:
        MissingExtra: matplotlib or jinja2 is not installed.
        SourceError: the file cannot be written.
    """
    jinja2 = import_extra("jinja2", "report", "to write a page")
    import_extra("matplotlib", "report", "to draw plots")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(_TEMPLATE.name).render(
        report=report,
        origin=origin,
        reference=report.row(REFERENCE),
        labelled=report.row(REFERENCE).quality is not None,
        sqnr=_svg(plot_sqnr(report)),
        scatters=dict(_scatters(report)),
        class_iou=_svg(plot_class_iou(report)) if report.row(REFERENCE).quality else None,
        frames=[_shown(exhibit, report) for exhibit in report.exhibits],
        failed=[check for check in report.checks if not check.passed],
        first=report.spec.stages[0].name,
        several=len(report.row(REFERENCE).after) > 1,
        near_theta_bits=NEAR_THETA_BITS,
        window=PAvPU.window,
        block_key={"both": _hex(KEPT), "fp32 only: lost": _hex(LOST), "this row only: gained": _hex(GAINED)},
        pixel_key=_pixel_key(report),
        infinity=math.inf,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SourceError(str(path), f"cannot be written ({error.strerror})", "choose another output") from error


def _pixel_key(report: PrecisionReport) -> dict[str, str]:
    if report.row(REFERENCE).quality is None:
        return {"labels unknown": _hex(OTHER)}
    return {"right here, wrong in fp32": _hex(BETTER), "the reverse": _hex(WORSE), "neither right": _hex(OTHER)}


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _scatters(report: PrecisionReport) -> Iterator[tuple[str, str]]:
    """Yield each decision's stage and its plot."""
    for stage in dict.fromkeys(decision.stage for decision in report.decisions):
        yield stage, _svg(plot_scores([decision for decision in report.decisions if decision.stage == stage]))


def _shown(exhibit: Exhibit, report: PrecisionReport) -> ShownFrame:
    pictures = draw_selection(exhibit, report.grid), draw_difference(exhibit)
    return ShownFrame(exhibit, *map(_jpeg, pictures))


def _jpeg(picture: Image8) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, subsampling=0)
    return _data_uri(buffer.getvalue(), "image/jpeg")


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri(buffer.getvalue(), "image/svg+xml")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
