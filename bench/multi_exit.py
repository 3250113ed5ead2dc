"""A network with exits on the validation clip of CamVid: exit rate, multiply-adds, mIoU and time against the threshold.

    python bench/multi_exit.py --root CAMVID -o bench/results/multi_exit.json --plots docs/images

CamVid is for non-commercial research and not part of this project; give its folder (images/val, labels/val). Every
stage runs on every frame once, from which the curve and the plans follow. Then the cascade itself runs at three
thresholds in three ways, which take turns: stage after stage, overlapped, and overlapped with speculation. Labels must
be the same, and the stages that answer must be those of the curve. What can run side by side depends on the cores that
others leave free: it is measured, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cascadert.bundle import Bundle, BundleManifest
from cascadert.calibration.exit_measurement import measure_exits
from cascadert.calibration.exit_plots import plot_curve, plot_front
from cascadert.calibration.exit_report import CurvePoint, ExitReport, plan_exits
from cascadert.calibration.exit_search import Fastest
from cascadert.cli.frames import LabelledFrames
from cascadert.export.compile import ExportOptions, export_bundle
from cascadert.export.rewire import rewired
from cascadert.jetson.machine import machine, versions
from cascadert.jetson.policies import exit_policies
from cascadert.runtime.open import open_graphs
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.results import Result, Submission

SPEC = Path(__file__).parents[1] / "examples" / "camvid" / "multi-exit.toml"
MAX_DROP = 0.01
SERIAL = "serial"
TURN = 8

Frames = list[tuple[dict[str, Any], np.ndarray]]


@dataclass(frozen=True)
class Timing:
    """One mode at one threshold, medians over rounds; ratios are to the serial mode of the same round."""

    mode: str
    threshold: float
    period_ms: float
    latency_ms: float
    period_ratio: float
    latency_ratio: float


def plain(manifest: BundleManifest) -> BundleManifest:
    """Return the cascade without speculation."""
    stages = tuple(stage.model_copy(update={"speculate": False}) for stage in manifest.spec.stages)
    return rewired(manifest, manifest.spec.with_stages(stages))


def free_cores(seconds: float = 1.0) -> float:
    """Return how many cores' worth of time this process gets for as many busy threads as there are cores."""
    end, block = time.perf_counter() + seconds, bytes(1 << 20)

    def work() -> None:
        while time.perf_counter() < end:
            hashlib.sha256(block)  # lets other threads run

    started, used = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=work) for _ in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.process_time() - used) / (time.perf_counter() - started)


def stream(pipeline: Pipeline, frames: Frames, threshold: float) -> tuple[float, list[Result]]:
    """Return milliseconds per frame of a stream, and the results."""
    policies = exit_policies(pipeline.manifest, threshold)
    started = time.perf_counter()
    results = list(pipeline.stream(Submission(planes, policies=policies) for planes, _ in frames))
    return (time.perf_counter() - started) * 1e3 / len(frames), results


def one_by_one(pipeline: Pipeline, frames: Frames, threshold: float) -> float:
    """Return the median latency of frames that meet no other."""
    policies = exit_policies(pipeline.manifest, threshold)
    return statistics.median(pipeline.infer(planes, policies).latency_ms for planes, _ in frames)


def time_modes(bundle: Bundle, frames: Frames, thresholds: list[float], rounds: int) -> tuple[list[Timing], int]:
    """Time every mode at every threshold, and compare labels; return how many frames were compared.

    Modes take turns on a few frames each, so that who else uses the machine slows all of them.
    """
    unguided, serial, threaded = plain(bundle.manifest), RuntimeOptions("serial", threads=1), RuntimeOptions(threads=1)
    modes = {
        SERIAL: (unguided, serial),
        "overlapped": (unguided, threaded),
        "overlapped, speculative": (bundle.manifest, threaded),
    }
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    compared = 0
    with ExitStack() as stack:
        pipelines = {
            name: stack.enter_context(open_graphs(manifest, bundle.graphs, options))
            for name, (manifest, options) in modes.items()
        }
        for turn in range(rounds + 1):
            some = [frames[(turn * TURN + i) % len(frames)] for i in range(TURN)]
            for threshold in thresholds:
                labels: list[np.ndarray] = []
                for name, pipeline in pipelines.items():
                    period_ms, results = stream(pipeline, some, threshold)
                    latency_ms = one_by_one(pipeline, some, threshold)
                    if turn:  # the first warms up
                        found.setdefault((name, threshold), []).append((period_ms, latency_ms))
                    labels = labels or [result.labels for result in results]
                    np.testing.assert_array_equal([result.labels for result in results], labels)
                    compared += len(results)
    return [_timing(name, threshold, found) for name in modes for threshold in thresholds], compared


def _timing(name: str, threshold: float, found: dict[tuple[str, float], list[tuple[float, float]]]) -> Timing:
    own, serial = np.array(found[name, threshold]), np.array(found[SERIAL, threshold])
    period_ms, latency_ms = np.median(own, axis=0).round(2).tolist()
    period_ratio, latency_ratio = np.median(own / serial, axis=0).round(3).tolist()
    return Timing(name, threshold, period_ms, latency_ms, period_ratio, latency_ratio)


def check_answers(bundle: Bundle, frames: Frames, points: list[CurvePoint], names: list[str]) -> None:
    """Run the cascade at thresholds of the curve: as many frames must leave at each exit."""
    with open_graphs(bundle.manifest, bundle.graphs, RuntimeOptions(mode="serial", threads=1)) as pipeline:
        for point in points:
            _, results = stream(pipeline, frames, point.threshold)
            answered = [result.labels_from for result in results]
            rates = tuple(answered.count(name) / len(frames) for name in names)
            assert rates == point.rates, f"at {point.threshold}: {rates}, and the curve says {point.rates}"
    assert points[0].rates[0] == 1
    assert points[-1].rates[-1] == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--spec", type=Path, default=SPEC, help="another network with exits")
    parser.add_argument("--random-weights", type=int, metavar="SEED", help="where the specification names no weights")
    parser.add_argument("--rounds", type=int, default=25, help=f"of {TURN} frames in each mode")
    parser.add_argument("--limit", type=int, help="frames, for a quick look")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for PNGs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        options = ExportOptions(random_weights=arguments.random_weights)
        bundle = export_bundle(arguments.spec, Path(work) / "bundle", options)
        folders = [[arguments.root / kind / "val"] for kind in ("images", "labels")]
        with LabelledFrames(bundle.spec, *folders, None) as source:
            frames: Frames = [(sample.planes, sample.truth) for sample in source.samples(arguments.limit)]
        report = plan_exits(measure_exits(bundle, frames, threads=1), Fastest(MAX_DROP)).report
        half = (report.curve[0].macs + report.curve[-1].macs) / 2
        middle = min(report.curve, key=lambda point: abs(point.macs - half))
        points = [report.curve[0], middle, report.curve[-1]]
        check_answers(bundle, frames, points, [row.name for row in report.exits])
        thresholds = [point.threshold for point in points]
        free = [free_cores()]
        timings, compared = time_modes(bundle, frames, thresholds, arguments.rounds)
        free.append(free_cores())
    show(report, timings)
    Console().print(f"cores free before and after: {free[0]:.2f}, {free[1]:.2f} of {os.cpu_count()}")
    if arguments.output:
        log = arguments.spec.parent / "weights" / "multi_exit.json"
        found = {
            "machine": machine(),
            "versions": versions(("onnxruntime", "numpy")),
            "threads": 1,
            "spec": arguments.spec.name,
            "weights": "random" if arguments.random_weights is not None else json.loads(log.read_text()),
            "rounds": arguments.rounds,
            "frames_per_round": TURN,
            "cores_free_before_and_after": [round(each, 2) for each in free],
            "frames_with_equal_labels_in_all_modes": compared,
            "modes": [asdict(timing) for timing in timings],
            "report": json.loads(report.to_json()),
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        plot_curve(report.curve, [row.name for row in report.exits]).savefig(
            arguments.plots / "exits_curve.png", dpi=110
        )
        plot_front(report).savefig(arguments.plots / "exits_front.png", dpi=110)


def show(report: ExitReport, timings: list[Timing]) -> None:
    """Print every second point of the curve, and all timings."""
    names = [row.name for row in report.exits]
    table = Table(
        "threshold", *(f"{name} %" for name in names), "mean GMACs", "mIoU %", title="all exits, one threshold"
    )
    for point in report.curve[::2]:
        rates = (f"{100 * rate:.0f}" for rate in point.rates)
        table.add_row(f"{point.threshold:.3f}", *rates, f"{point.macs / 1e9:.3f}", f"{100 * point.miou:.2f}")
    Console().print(table)
    table = Table("mode", "threshold", "ms per frame", "latency ms", "to serial", "latency to serial", title="time")
    for timing in timings:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else value for value in asdict(timing).values()))
    Console().print(table)


if __name__ == "__main__":
    main()
