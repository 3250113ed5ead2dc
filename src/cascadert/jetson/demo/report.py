"""The demo's page: what was done, what was measured, and how to repeat each step."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cascadert.jetson.demo.measure import EVERY_BLOCK, FAST, Sweep
from cascadert.jetson.machine import machine, versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cascadert.jetson.demo.make import DemoOptions, DemoSummary

_TEMPLATE = Path(__file__).parents[1] / "report.html.j2"
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx", "numpy")
_QUALITY, _COST, _GREY = "#0b6e4f", "#c2541d", "#7a828e"


def write_report(path: Path, summary: DemoSummary, options: DemoOptions) -> None:
    """Write the page, pictures inside it, from what was measured."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    sweep, spec = summary.sweep, summary.bundle.spec
    page = environment.get_template(_TEMPLATE.name).render(
        summary=summary,
        spec=spec,
        grid=spec.make_grid(),
        halo=spec.stages[1].halo,
        options=options,
        fast=sweep.row(FAST),
        every=sweep.row(EVERY_BLOCK),
        chosen=next(row for row in sweep.rows if row.theta == summary.video.theta),
        gif=data_uri((summary.output / "demo.gif").read_bytes(), "image/gif"),
        sheet=data_uri(_as_jpeg(summary.output / "contact_sheet.png"), "image/jpeg"),
        gpus=[built for built in summary.deployments if built.manifest.built_for.compute_capability],
        tradeoff=svg(plot_tradeoff(sweep)),
        histogram=svg(plot_scores(sweep, summary.video.theta)),
        classes=class_rows(summary),
        versions=versions(_PACKAGES),
        machine=machine(),
        commands=commands(summary, options),
    )
    path.write_text(page, encoding="utf-8")


def data_uri(content: bytes, kind: str) -> str:
    """Embed a file in a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _as_jpeg(path: Path) -> bytes:
    buffer = io.BytesIO()
    Image.open(path).save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """Embed a figure in a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return data_uri(buffer.getvalue(), "image/svg+xml")


def _axes() -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(5.6, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def plot_tradeoff(sweep: Sweep) -> Figure:
    """Plot mIoU and time per frame over theta, the two networks as horizontal lines."""
    figure, quality = _axes()
    cost = quality.twinx()
    cost.spines["top"].set_visible(False)
    rows = [row for row in sweep.rows if row.theta is not None]
    thetas = [row.theta for row in rows]
    for axes, values, colour, label in (
        (quality, [100 * row.mean_iou for row in rows], _QUALITY, "mIoU of the cascade, %"),
        (cost, [row.median_ms for row in rows], _COST, "time per frame, ms"),
    ):
        axes.plot(thetas, values, "o-", color=colour)
        axes.set_ylabel(label, color=colour)
        axes.tick_params(axis="y", colors=colour)
    for name, style in ((FAST, ":"), (EVERY_BLOCK, "--")):
        level = 100 * sweep.row(name).mean_iou
        quality.axhline(level, color=_QUALITY, linestyle=style, linewidth=1)
        place = {"xytext": (0, 3), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        quality.annotate(name, (0.5, level), **place, color=_QUALITY, fontsize=8)
    quality.margins(y=0.12)
    cost.set_ylim(0, 1.1 * max(row.median_ms for row in rows))
    quality.set_xlabel("θ, bits: blocks with a higher score are refined")
    return figure


def plot_scores(sweep: Sweep, theta: float) -> Figure:
    """Plot how the scores of all blocks are distributed, and where theta cuts them."""
    figure, axes = _axes()
    scores = sweep.scores[np.isfinite(sweep.scores)]
    axes.hist(scores, bins=40, color=_GREY)
    axes.axvline(theta, color=_COST)
    share = float((scores > theta).mean())
    axes.annotate(
        f"θ = {theta:g}: {share:.0%} above", (theta, 0.95), xytext=(5, 0), xycoords=("data", "axes fraction"),
        textcoords="offset points", color=_COST, va="top",
    )  # fmt: skip
    axes.set_xlabel("score of a block: mean entropy, bits")
    axes.set_ylabel("blocks")
    return figure


def class_rows(summary: DemoSummary) -> list[dict[str, Any]]:
    """Return the IoU of each class that occurs, for the fast network, the cascade and every block refined."""
    sweep = summary.sweep
    rows = (sweep.row(FAST), next(r for r in sweep.rows if r.theta == summary.video.theta), sweep.row(EVERY_BLOCK))
    names = summary.bundle.spec.classes.names
    return [{"name": names[i], "iou": [row.iou[i] for row in rows]} for i in sweep.classes]


def commands(summary: DemoSummary, options: DemoOptions) -> list[tuple[str, str]]:
    """Return each step and the command that repeats it."""
    here, spec = summary.output, _short(options.spec)
    seed = [] if options.random_weights is None else ["--random-weights", str(options.random_weights)]
    steps: list[tuple[str, Sequence[str]]] = [
        ("export", ["export", spec, "-o", f"{here}/bundle", "--force", *seed]),
        ("check parity", ["parity", f"{here}/bundle", "--frames", f"{here}/frames"]),
    ]
    for built in summary.deployments:
        target = built.manifest.built_for.target
        build = ["build-engine", f"{here}/bundle", "--target", target, "-o", f"{here}/deployments/{target}", "--force"]
        steps.append((f"build engines for {target}", build))
    theta = f"{summary.video.theta:g}"
    run = ["run", f"{here}/bundle", f"{here}/frames", "--theta", theta, "-o", "overlay.mp4", "--stats", "stats.json"]
    steps.append(("run", run))
    return [(name, shlex.join(["cascadert", *map(str, words)])) for name, words in steps]


def _short(path: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(resolved)


def plain(summary: DemoSummary) -> dict[str, Any]:
    """Return the results as plain values, for `demo.json`."""
    sweep = [{k: v for k, v in asdict(row).items() if k != "iou"} for row in summary.sweep.rows]
    engines = {
        deployment.manifest.built_for.target: {
            entry.stage: {"bytes": entry.engine.bytes, "build_seconds": round(entry.build_seconds, 3)}
            for entry in deployment.manifest.engines
        }
        for deployment in summary.deployments
    }
    return {
        "video": asdict(summary.video),
        "sweep": {"frames": summary.sweep.frames, "blocks": summary.sweep.blocks, "rows": sweep},
        "parity": [{**asdict(row), "passed": row.passed} for row in summary.parity.rows],
        "engines": engines,
        "seconds": {name: round(seconds, 2) for name, seconds in summary.seconds.items()},
        "versions": versions(_PACKAGES),
        "machine": machine(),
    }
