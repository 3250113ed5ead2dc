"""X14: what fp16 and int8 change: mIoU, which blocks are refined, where frames leave a network with exits.

Rules: those of the parity gate (`cascadert.calibration.gate`). mIoU may fall by half a point; refined blocks must be
those of fp32 with an intersection over union of 0.95; at 5 % of the frames, at most, may another exit be taken whose
score is not next to theta. All with theta refitted, and on validation frames, which calibrated nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from street_data import Data, load_camvid

from cascadert.bundle import read_bundle
from cascadert.calibration.calibrate import CalibrateOptions, calibrate
from cascadert.calibration.gate import FLIPS_LIMIT, MIOU_LOSS_LIMIT, SELECTION_IOU_LIMIT
from cascadert.calibration.plots import COLOURS, make_figure, styled
from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions
from cascadert.calibration.precision_report import REFERENCE, PrecisionReport, PrecisionRow
from cascadert.calibration.samples import SampleOptions
from cascadert.calibration.selection_metrics import SelectionAgreement
from cascadert.precision import Numerics
from experiments.cascade_bundles import exported
from experiments.cascade_precision import at_medians, recording
from experiments.cascade_words import holds_if
from experiments.experiment import Context, Experiment, Finding, Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = Path(__file__).parents[2] / "examples" / "camvid"
SPECS = {"cascade": EXAMPLES / "camvid.toml", "exits": EXAMPLES / "multi-exit.toml"}
NUMERICS: tuple[Numerics, ...] = ("fp32", "fp16", "int8-tensorrt", "int8-cpu")
SAMPLES = SampleOptions(frames=32, blocks=64, threads=1)


@dataclass(frozen=True)
class Thinning:
    """One of so many frames: to calibrate on, and to judge on."""

    train: int
    val: int


THINNING = {"cascade": Thinning(12, 3), "exits": Thinning(12, 1)}


def run(context: Context) -> Outcome:
    data = {split: load_camvid(context.camvid, split) for split in ("train", "val")}
    reports = {name: _report(context, name, spec, data) for name, spec in SPECS.items()}
    findings = [one for name, report in reports.items() for one in _findings(name, report)]
    return Outcome(
        findings=tuple(findings),
        numbers={name: [_numbers(row) for row in report.rows] for name, report in reports.items()},
        deviations=(
            "The papers say nothing of precision: the claims are this project's, from its parity gate. Measured in "
            "ONNX Runtime on the CPU, where fp16 and TensorRT's int8 are computed as their graphs say.",
            "Calibrated on every 12th training frame; the cascade is judged on every third validation frame, exits on "
            "all. Calibration chose the calibrator and what stays in floating point, on training frames alone.",
            "Exits leave at the median of their scores on training frames, so that decisions are as hard as can be.",
        ),
        seeds=(SAMPLES.seed,),
        figure=lambda: _figure(reports),
    )


def _report(context: Context, name: str, spec: Path, data: Mapping[str, Data]) -> PrecisionReport:
    weights = sorted((EXAMPLES / "weights").glob("*.safetensors"))
    content = [spec.read_bytes(), *(path.read_bytes() for path in weights if path.stem in spec.read_text())]
    digest = hashlib.sha256(b"".join(content)).hexdigest()[:12]
    train = recording(data["train"], THINNING[name].train)
    val = recording(data["val"], THINNING[name].val)
    path = context.work / f"{name}-{digest}-calibrated"
    if path.exists():
        bundle = read_bundle(path)
    else:
        plain = exported(spec, context.work / f"{name}-{digest}")
        if name == "exits":
            plain = at_medians(plain, train, context.work / f"{name}-{digest}-medians")
        options = CalibrateOptions(source="CamVid training frames", samples=SAMPLES)
        bundle = calibrate(plain, train, path, options, print).bundle
    return compare_precisions(bundle, val.frames, PrecisionOptions(NUMERICS, torch=False, threads=1), val.truths)


def _findings(name: str, report: PrecisionReport) -> Iterator[Finding]:
    others = [row for row in report.rows if row.name != REFERENCE]
    losses = {row.name: _miou(report.row(REFERENCE)) - _miou(row) for row in others}
    yield Finding(
        f"fp16 and int8 cost at most {100 * MIOU_LOSS_LIMIT:g} points of mIoU (ours)",
        f"{name}: fp32 {_miou(report.row(REFERENCE)):.2f}; "
        + ", ".join(f"{row} {0.0 - round(loss, 2):+.2f}" for row, loss in losses.items()),
        holds_if(max(losses.values()) <= 100 * MIOU_LOSS_LIMIT),
    )
    if name == "cascade":
        yield _blocks(others)
    else:
        yield _exits(others)


def _blocks(rows: list[PrecisionRow]) -> Finding:
    least = {row.name: SelectionAgreement.least_iou(row.after) or 0.0 for row in rows}
    shown = ", ".join(
        f"{row.name} {least[row.name]:.3f} ({sum(len(a.flips) for a in row.after.values())} of "
        f"{sum(a.union for a in row.after.values())} blocks differ)"
        for row in rows
    )
    return Finding(
        f"They refine the same blocks: intersection over union of {SELECTION_IOU_LIMIT:g} at least (ours)",
        f"cascade: {shown}",
        holds_if(min(least.values()) >= SELECTION_IOU_LIMIT),
    )


def _exits(rows: list[PrecisionRow]) -> Finding:
    def far(row: PrecisionRow) -> float:
        return max(len(one.far_flips) / one.frames for one in row.after.values())

    def said(row: PrecisionRow) -> str:
        flips = ", ".join(f"{len(one.flips)} ({len(one.far_flips)})" for one in row.after.values())
        return f"{row.name} {flips}"

    frames = next(iter(rows[0].after.values())).frames
    return Finding(
        f"Frames leave where they do in fp32: flips whose score is not next to theta at {FLIPS_LIMIT:.0%} of the "
        "frames at most, at each exit (ours)",
        f"exits: of {frames} frames at each exit flip (not next to theta): " + "; ".join(map(said, rows)),
        holds_if(max(map(far, rows)) <= FLIPS_LIMIT),
    )


def _miou(row: PrecisionRow) -> float:
    assert row.quality is not None
    return 100 * row.quality.miou


def _numbers(row: PrecisionRow) -> dict[str, Any]:
    assert row.quality is not None
    return {
        "numerics": row.name,
        "miou_fast": round(100 * row.quality.miou_fast, 3),
        "miou": round(_miou(row), 3),
        "miou_every": round(100 * row.quality.miou_every, 3),
        "label_agreement": round(row.label_agreement, 5),
        "mean_n": {name: round(value, 4) for name, value in row.mean_n.items()},
        "score_error": {name: round(error.mean, 5) for name, error in row.score_errors.items()},
        "decisions": {
            when: {
                name: {"iou": round(one.iou, 4), "flips": len(one.flips), "far_flips": len(one.far_flips)}
                for name, one in found.items()
            }
            for when, found in (("theta_as_in_fp32", row.before), ("theta_refitted", row.after))
        },
    }


def _figure(reports: Mapping[str, PrecisionReport]) -> Figure:
    figure = make_figure(height=3.4)
    left, right = (styled(axes, "y") for axes in figure.subplots(1, 2))
    for place, report in enumerate(reports.values()):
        for index, row in enumerate(report.rows):
            where = place + (index - 1.5) * 0.2
            label = row.name if place == 0 else None
            left.bar(where, _miou(row), 0.18, color=COLOURS[row.name], label=label)
            left.annotate(f"{_miou(row):.1f}", (where, _miou(row)), ha="center", va="bottom", fontsize=8)
            if row.name != REFERENCE:
                flips = [len(one.flips) for one in row.after.values()]
                asked = sum(one.frames * (report.spec.blocks if not one.whole else 1) for one in row.after.values())
                right.bar(where, 100 * sum(flips) / asked, 0.18, color=COLOURS[row.name])
    for axes in (left, right):
        axes.set_xticks(range(len(reports)), list(reports))
    left.set_ylabel("mIoU, %")
    right.set_ylabel("decisions that differ from fp32, %")
    figure.legend(loc="outside upper left", ncols=len(NUMERICS), frameon=False, fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="x14",
    title="Precision",
    data="CamVid",
    run=run,
    minutes=(4, 8),
)
