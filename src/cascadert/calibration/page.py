"""Pages: one HTML file from a template, pictures inside it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cascadert.artefacts import why_not_writable
from cascadert.errors import SourceError, import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Origin:
    """What made a page: the bundle and the frames, the command, versions of packages, and the machine."""

    bundle: str
    frames: str
    command: str
    versions: Mapping[str, str]
    machine: str


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


def render_page(path: Path, template: Path, values: Mapping[str, Any]) -> None:
    """Write a page from a template, which may extend `page.html.j2`, and the folders that lead to it.

    Raises:
        MissingExtra: jinja2 is not installed.
        SourceError: the file cannot be written.
    """
    jinja2 = import_extra("jinja2", "report", "to write a page")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name).render(values)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SourceError(str(path), f"cannot be written ({error.strerror})", "choose another output") from error


def jpeg_uri(picture: NDArray[np.uint8]) -> str:
    """Return a picture, RGB uint8 `[H, W, 3]`, as the source of an image."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85, subsampling=0)
    return _data_uri(buffer.getvalue(), "image/jpeg")


def svg_uri(figure: Figure) -> str:
    """Return a plot as the source of an image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri(buffer.getvalue(), "image/svg+xml")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
