"""Decisions under a budget, on a stream whose difficulty jumps: n, theta, predicted and measured time of every frame.

    python bench/budget.py demo/cpu --budget-ms 200 --fps 6 -o bench/results/budget

The stream is an empty street, then a crowded one in noise, then the empty one again. Two runs on the same frames: a
latency budget (with a floor: blocks that score less are not worth refining) and a frame rate, which steers theta.
Costs are measured before, on frames of the first kind. Writes OUTPUT.json and OUTPUT.png.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cascadert.bundle import Bundle
from cascadert.deployment import Deployment, open_artefact
from cascadert.pixels import planes_from_rgb
from cascadert.runtime.costs import StageCosts
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.profiling.profile import ProfileOptions, measure_profile
from cascadert.runtime.results import Planes, Result
from cascadert.scenes import SceneOptions, clip
from cascadert.spec import CascadeSpec, FrameRatePolicy, LatencyPolicy, SelectPolicy

NOISE = 28.0  # grey levels
SETTLED = 10  # frames after a jump that do not count as settled


def stream(spec: CascadeSpec, part: int) -> list[Planes]:
    """Return three parts of a stream: empty, crowded and noisy, empty."""
    noise = np.random.default_rng(0)
    frames = []
    for clutter, sigma in ((0.0, 0.0), (4.0, NOISE), (0.0, 0.0)):
        for scene in clip(7, part, SceneOptions(spec.frame.height, spec.frame.width, clutter)):
            image = scene.image + noise.normal(0.0, sigma, scene.image.shape)
            frames.append(planes_from_rgb(image.clip(0, 255).astype(np.uint8)[None], spec.frame.pixel_format))
    return frames


def measure(artefact: Bundle | Deployment, stage: str, frames: list[Planes], threads: int) -> StageCosts:
    with open_pipeline(artefact, RuntimeOptions("serial", threads=threads)) as pipeline:
        return measure_profile(pipeline, frames, ProfileOptions(repeats=7, warm_up=2)).costs[stage]


def run(
    artefact: Bundle | Deployment,
    stage: str,
    frames: list[Planes],
    policy: SelectPolicy,
    costs: StageCosts,
    threads: int,
) -> list[Result]:
    with open_pipeline(artefact, RuntimeOptions(threads=threads, costs={stage: costs})) as pipeline:
        return list(pipeline.stream(frames, {stage: policy}))


def row(result: Result, stage: str, floor: float) -> dict[str, Any]:
    refine = next(run for run in result.runs if run.stage == stage)
    assert refine.scores is not None
    ends = [span.end_ms for span in result.spans]
    return {
        "n": refine.n,
        "last_score": float(refine.scores[refine.n - 1]) if refine.n else None,
        "worth": int(np.count_nonzero(refine.scores > floor)),
        "theta": refine.theta,
        "predicted_ms": refine.predicted_ms,
        "measured_ms": sum(run.milliseconds for run in result.runs),
        "refine_ms": refine.milliseconds,
        "end_ms": max(ends),
    }


def summary(rows: list[dict[str, Any]], part: int, limit_ms: float, key: str) -> dict[str, Any]:
    """Sum up each part after its first frames: n, time, error of prediction, and what lies beyond the limit."""
    found = {}
    for name, first in (("empty", 0), ("crowded", part), ("empty again", 2 * part)):
        settled = rows[first + SETTLED : first + part]
        times = np.array([r[key] for r in settled])
        errors = np.array([r["measured_ms"] / r["predicted_ms"] - 1 for r in settled])
        steps = np.abs(np.diff([r["n"] for r in settled]))
        found[name] = {
            "n": float(np.median([r["n"] for r in settled])),
            "worth": float(np.median([r["worth"] for r in settled])),
            f"{key}_median": float(np.median(times)),
            "prediction_error_median": float(np.median(errors)),
            "over_limit_share": float(np.mean(times > limit_ms)),
            "largest_excess": float(max(0.0, times.max() / limit_ms - 1)),
            "largest_step_of_n": int(steps.max()),
        }
    return found


def draw(rows: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace, path: Path) -> None:
    figure, axes = plt.subplots(3, 2, figsize=(12, 8), sharex=True, layout="constrained")
    titles = {"latency": f"latency budget {arguments.budget_ms:g} ms", "frame-rate": f"{arguments.fps:g} frames/s"}
    for column, (name, found) in enumerate(rows.items()):
        blocks, times, thetas = axes[:, column]
        blocks.set_title(f"{titles[name]}; scores above {arguments.floor:g} bits are worth refining", fontsize=10)
        blocks.plot([r["worth"] for r in found], color="0.7", label="blocks worth refining")
        blocks.plot([r["n"] for r in found], color="tab:blue", label="n, refined")
        times.plot([r["measured_ms"] for r in found], color="tab:orange", lw=1, label="measured $t_f + t_b(n)$")
        times.plot([r["predicted_ms"] for r in found], color="k", lw=1, ls=":", label="predicted")
        if name == "latency":
            times.axhline(arguments.budget_ms, color="tab:red", lw=0.8, label="budget")
        else:
            periods: NDArray[np.float64] = np.diff([r["end_ms"] for r in found], prepend=np.nan)
            times.plot(periods, color="tab:green", lw=1, label="period")
            times.axhline(1000 / arguments.fps, color="tab:red", lw=0.8, label="wanted period")
        _thetas(thetas, found, arguments.floor)
    for axis, label in zip(axes[:, 0], ("blocks", "ms", "bits"), strict=True):
        axis.set_ylabel(label)
    for axis in axes.flat:
        axis.legend(fontsize=8, loc="upper right")
        for jump in (arguments.part, 2 * arguments.part):
            axis.axvline(jump - 0.5, color="0.5", lw=0.6, ls="--")
    for axis in axes[2]:
        axis.set_xlabel("frame: empty street | crowded, with noise | empty street")
    figure.savefig(path, dpi=110)


def _thetas(axis: Axes, found: list[dict[str, Any]], floor: float) -> None:
    axis.plot([floor] * len(found), color="0.6", lw=0.8, label="floor")
    last = [np.nan if r["last_score"] is None else r["last_score"] for r in found]
    axis.plot(last, color="tab:blue", lw=1, label="score of the last block refined")
    if any(r["theta"] is not None for r in found):
        axis.plot([np.nan if r["theta"] is None else r["theta"] for r in found], color="tab:purple", label="theta")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefact", type=Path, help="a bundle or deployment with one deciding stage")
    parser.add_argument("--budget-ms", type=float, default=200.0)
    parser.add_argument("--fps", type=float, default=6.0)
    parser.add_argument("--floor", type=float, default=1.0, help="bits")
    parser.add_argument("--part", type=int, default=60, help="frames of each part")
    parser.add_argument("--threads", type=int, default=1, help="of each stage")
    parser.add_argument("-o", "--output", type=Path, required=True, help="without suffix")
    arguments = parser.parse_args()
    artefact = open_artefact(arguments.artefact)
    manifest = artefact.manifest if isinstance(artefact, Bundle) else artefact.manifest.bundle
    stage = next(entry.name for entry in manifest.stages if entry.select is not None)
    frames = stream(manifest.spec, arguments.part)
    costs = measure(artefact, stage, frames[: arguments.part], arguments.threads)
    policies: dict[str, SelectPolicy] = {
        "latency": LatencyPolicy(policy="latency", budget_ms=arguments.budget_ms, theta=arguments.floor),
        "frame-rate": FrameRatePolicy(policy="frame-rate", fps=arguments.fps, theta_min=arguments.floor),
    }
    rows, report = {}, {}
    for name, policy in policies.items():
        results = run(artefact, stage, frames, policy, costs, arguments.threads)
        rows[name] = [row(result, stage, arguments.floor) for result in results]
    periods = np.diff([r["end_ms"] for r in rows["frame-rate"]], prepend=0.0).tolist()
    for found, period in zip(rows["frame-rate"], periods, strict=True):
        found["period_ms"] = period
    report = {
        "latency": summary(rows["latency"], arguments.part, arguments.budget_ms, "measured_ms"),
        "frame-rate": summary(rows["frame-rate"], arguments.part, 1000 / arguments.fps, "period_ms"),
    }
    draw(rows, arguments, arguments.output.with_suffix(".png"))
    settings = {n: value.name if isinstance(value, Path) else value for n, value in vars(arguments).items()}
    found = {"settings": settings, "cores": len(os.sched_getaffinity(0)), "costs": asdict(costs), "summary": report}
    lines = ",\n".join(f'"{name}": [\n' + ",\n".join(map(json.dumps, r)) + "\n]" for name, r in rows.items())
    text = json.dumps(found, indent=1)[:-2] + ',\n"frames": {\n' + lines + "\n}\n}\n"
    arguments.output.with_suffix(".json").write_text(text)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
