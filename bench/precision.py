"""What fp16 and int8 cost a labelled cascade, and what they save on the CPU.

    python bench/precision.py SPEC --train IMAGES LABELS --val IMAGES LABELS -o bench/results/precision.json

Calibrates on the training frames, then compares on the validation frames, which nothing was chosen on: mIoU of the
fast network alone, of the cascade and with every block refined, the error of block scores, the blocks that are refined
before and after theta was refitted, PAvPU. The same row for each calibrator, with all in int8 that placement allows.
Times are medians of the bare networks in ONNX Runtime on one thread, the forms in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from cascadert.bundle import Bundle, calibration_part, write_bundle
from cascadert.calibration.calibrate import Calibrated, CalibrateOptions, calibrate
from cascadert.calibration.precision_parity import PrecisionOptions, compare_precisions
from cascadert.calibration.precision_report import PrecisionReport
from cascadert.calibration.refit import Recording, measure_reference, refit_thetas
from cascadert.calibration.samples import SampleOptions
from cascadert.calibration.sessions import open_session
from cascadert.calibration.stage_runs import GraphRunner
from cascadert.export.compile import export_bundle
from cascadert.export.network import network_graph
from cascadert.export.precision import as_measured, lower_to
from cascadert.graph import Dialect
from cascadert.jetson.machine import machine, versions
from cascadert.precision import CALIBRATORS, Calibrator, Numerics, QuantizationPlan, StageCalibration

NUMERICS: tuple[Numerics, ...] = ("fp32", "fp16", "int8-tensorrt", "int8-cpu")
FORMS: tuple[tuple[Numerics, Dialect], ...] = (
    ("fp32", "onnxruntime"),
    ("int8-tensorrt", "tensorrt"),
    ("int8-cpu", "onnxruntime"),
)
console = Console()


def read(images: Path, labels: Path, every: int) -> Recording:
    """Every so-many-th frame of a folder, with its labels."""
    paths = sorted(images.glob("*.jpg"))[::every]
    frames = [{"frame": np.asarray(Image.open(path).convert("RGB"))[None]} for path in paths]
    return Recording(frames, [np.asarray(Image.open(labels / f"{path.stem}.png"))[None] for path in paths])


def with_calibrator(calibrated: Calibrated, calibrator: Calibrator, train: Recording, path: Path) -> Bundle:
    """The bundle as one calibrator alone would make it: nothing falls back, theta refitted."""
    bundle, stages, calibrations = calibrated.bundle, [], {}
    for stage in bundle.manifest.stages:
        measured = calibrated.measured[stage.name]
        plans = {
            dialect: QuantizationPlan(calibrator=calibrator, ranges=measured.ranges(calibrator, dialect))
            for dialect in ("tensorrt", "cpu")
        }
        found = StageCalibration.model_validate({"peaks": measured.peaks, "int8": plans})
        calibrations[stage.name] = found
        stages.append(stage.model_copy(update={"calibration": calibration_part(stage.name, found)}))
    thetas = {n: _thetas(bundle, calibrations, n, train) for n in NUMERICS if n.startswith("int8")}
    for i, stage in enumerate(stages):
        if stage.select is not None:
            refitted = {n: found[stage.name] for n, found in thetas.items()}
            stages[i] = stage.model_copy(update={"select": stage.select.model_copy(update={"thetas": refitted})})
    manifest = bundle.manifest.model_copy(update={"stages": tuple(stages)})
    return write_bundle(path, manifest, bundle.graphs, calibrations)


def _thetas(
    bundle: Bundle, calibrations: dict[str, StageCalibration], numerics: Numerics, train: Recording
) -> dict[str, float]:
    def runners(form: Numerics) -> dict[str, GraphRunner]:
        return {
            name: GraphRunner(name, as_measured(graph, form, calibrations[name]))
            for name, graph in bundle.graphs.items()
        }

    reference = measure_reference(bundle.manifest, runners("fp32"), train, "blocks")
    return refit_thetas(bundle.manifest, reference, runners(numerics), train, "blocks")


def rows_of(report: PrecisionReport) -> Iterator[dict[str, Any]]:
    """One flat row for each numerics."""
    for row in report.rows:
        quality = row.quality
        assert quality is not None
        yield {
            "numerics": row.name,
            "miou_fast": round(100 * quality.miou_fast, 2),
            "miou_every_block": round(100 * quality.miou_every, 2),
            "miou": round(100 * quality.miou, 2),
            "entropy_error_bits": round(row.entropy_bits, 4),
            "selection_iou_before": round(min((a.iou for a in row.before.values()), default=1.0), 4),
            "selection_iou": round(min((a.iou for a in row.after.values()), default=1.0), 4),
            "mean_n": round(sum(row.mean_n.values()), 2),
            "labels_kept": round(row.label_agreement, 4),
            "sqnr_db": {name: round(value, 1) if value < 900 else None for name, value in row.sqnr_db.items()},
            "pavpu_before": round(quality.pavpu_before, 4),
            "pavpu": round(quality.pavpu, 4),
        }


def sizes_and_times(bundle: Bundle, rounds: int) -> list[dict[str, Any]]:
    """Bytes of each form's network, and its median time on one thread against fp32's, the forms in turn."""
    found = []
    for name, graph in bundle.graphs.items():
        forms = {n: network_graph(lower_to(graph, dialect, n, bundle.calibrations[name])) for n, dialect in FORMS}
        typed = network_graph(lower_to(graph, "tensorrt", "fp16", bundle.calibrations[name]))
        sessions = {n: open_session(f"{name}, {n}", form.onnx, threads=1) for n, form in forms.items()}
        shape = [size if isinstance(size, int) else 4 for size in forms["fp32"].inputs[0].shape]
        pixels = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        times: dict[str, list[float]] = {n: [] for n in sessions}
        for _ in range(rounds):
            for n, session in sessions.items():
                start = time.perf_counter()
                session.run(None, {"pixels": pixels})
                times[n].append(1e3 * (time.perf_counter() - start))
        medians = {n: statistics.median(values) for n, values in times.items()}
        ratios = {n: statistics.median(a / b for a, b in zip(times["fp32"], times[n], strict=True)) for n in times}
        for n in times:
            row = {"stage": name, "numerics": n, "bytes": len(forms[n].onnx), "median_ms": round(medians[n], 2)}
            found.append({**row, "times_faster": round(ratios[n], 2), "input": shape})
        found.append({"stage": name, "numerics": "fp16", "bytes": len(typed.onnx)})
    return found


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in rows[0]))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--train", type=Path, nargs=2, metavar=("IMAGES", "LABELS"), required=True)
    parser.add_argument("--val", type=Path, nargs=2, metavar=("IMAGES", "LABELS"), required=True)
    parser.add_argument("--train-every", type=int, default=6)
    parser.add_argument("--calibrators-every", type=int, default=3, help="of the validation frames, for their rows")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    train, val = read(*arguments.train, arguments.train_every), read(*arguments.val, 1)
    some = read(*arguments.val, arguments.calibrators_every)
    options = CalibrateOptions(source="training frames", samples=SampleOptions(frames=48))
    found: dict[str, Any] = {
        "machine": machine(),
        "versions": versions(("onnxruntime", "onnx", "numpy")),
        "frames": {"train": len(train.frames), "val": len(val.frames), "calibrators": len(some.frames)},
    }
    with tempfile.TemporaryDirectory() as work:
        started = time.perf_counter()
        bundle = export_bundle(arguments.spec, Path(work) / "bundle")
        calibrated = calibrate(bundle, train, Path(work) / "calibrated", options, console.log)
        found["calibrate_s"] = round(time.perf_counter() - started)
        found["kept_in_floating_point"] = {
            stage: {d: f"{p.fallback.kept} of {len(p.groups)} groups ({p.plan.calibrator})" for d, p in plans.items()}
            for stage, plans in calibrated.plans.items()
        }
        found["sizes_and_times"] = sizes_and_times(calibrated.bundle, arguments.rounds)
        show("networks", found["sizes_and_times"])
        chosen = PrecisionOptions(numerics=NUMERICS, torch=False)
        found["rows"] = list(rows_of(compare_precisions(calibrated.bundle, val.frames, chosen, val.truths)))
        show("calibrated", found["rows"])
        found["calibrators"] = {}
        for calibrator in CALIBRATORS:
            variant = with_calibrator(calibrated, calibrator, train, Path(work) / calibrator)
            only = PrecisionOptions(numerics=("int8-tensorrt", "int8-cpu"), torch=False)
            rows = list(rows_of(compare_precisions(variant, some.frames, only, some.truths)))
            found["calibrators"][calibrator] = rows
            show(calibrator, rows)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
