"""X4: at the same theta, are larger blocks faster and better than smaller ones?

Rules: better where the difference of mIoU, paired by seed, is above zero at both thetas and every step in size
(`verdict_of`, the worst of them); faster where t = t_f + n t_b falls at both thetas and every step. t_b is that of one
block at a time, as in the paper; beside it multiply-adds.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadert.calibration.plots import make_figure, styled
from experiments.cascade_clips import AccurateStage, Clip, Size, camvid_clip, thinned
from experiments.cascade_counts import count_blocks, mean_blocks
from experiments.cascade_maps import FastMaps, accurate_maps, fast_maps, maps_folder
from experiments.cascade_stages import grid_of
from experiments.cascade_times import stage_times
from experiments.cascade_tuning import Crop
from experiments.cascade_words import differences, holds_if, mean_and_sd, size_name, worst
from experiments.experiment import Context, Experiment, Finding, Outcome, verdict_of
from experiments.x03_crops import EVERY, SEEDS, tuned_stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES: tuple[Size, ...] = ((60, 60), (120, 120), (180, 240))
THETAS = (0.25, 0.5)

Rows = dict[float, dict[str, dict[str, Any]]]


def run(context: Context) -> Outcome:
    clip, folder = thinned(camvid_clip(context), EVERY), maps_folder(context)
    fast = fast_maps(folder, clip, clip.fast)
    stages = {size: [tuned_stage(context, clip, Crop(size), seed) for seed in SEEDS] for size in SIZES}
    alone = {size_name(size): (own[0], 1) for size, own in stages.items()}
    batches = {f"{size_name(size)}, all": (own[0], grid_of(clip, own[0]).size) for size, own in stages.items()}
    times = stage_times(folder, clip, {"fast": clip.fast}, alone | batches)
    rows: Rows = {
        theta: {size_name(size): _row(context, clip, fast, own, theta, times) for size, own in stages.items()}
        for theta in THETAS
    }
    return Outcome(
        findings=(_better(rows), _faster(rows)),
        numbers={
            "cpu_ms": {name: round(value, 3) for name, value in times.items()},
            "by_theta": {f"{theta:g}": row for theta, row in rows.items()},
        },
        deviations=(
            "On one CPU thread the time of a block grows with its pixels. On the paper's GTX 1080 Ti a block of 512 "
            "takes 73 ms and four of 256 take 114: half of a small block's time is lost there.",
            "Blocks of 60, 120 and 180x240 in frames of 360x480, without a halo; each size has networks that were "
            "fine-tuned on it (X3). Every second of the 101 validation frames.",
        ),
        seeds=SEEDS,
        figure=lambda: _figure(rows),
    )


def _row(
    context: Context, clip: Clip, fast: FastMaps, own: list[AccurateStage], theta: float, times: dict[str, float]
) -> dict[str, Any]:
    grid, folder = grid_of(clip, own[0]), maps_folder(context)
    maps = [accurate_maps(folder, clip, stage) for stage in own]
    scores, classes = fast.scores(grid), len(clip.names)
    counts = [count_blocks(fast.labels, one.labels, clip.truths, grid, scores, classes) for one in maps]
    chosen, name = counts[0].above(theta), size_name(own[0].block)
    n = mean_blocks(chosen)
    return {
        "blocks": grid.size,
        "mean_n": round(n, 3),
        "share_refined": round(n / grid.size, 4),
        "miou": [one.miou(chosen) for one in counts],
        "ms": round(times["fast"] + n * times[name], 2),
        "ms_batched": round(times["fast"] + n * times[f"{name}, all"] / grid.size, 2),
        "gmacs": round((fast.macs + n * maps[0].macs) / 1e9, 4),
    }


def _better(rows: Rows) -> Finding:
    steps = [
        verdict_of(differences(small["miou"], large["miou"]))
        for row in rows.values()
        for small, large in pairwise(row.values())
    ]
    shown = "; ".join(
        f"theta {theta:g}: " + ", ".join(f"{name} {mean_and_sd(one['miou'])}" for name, one in row.items())
        for theta, row in rows.items()
    )
    return Finding(
        "At the same theta larger blocks are better: 73.7 with 512, 71.6 with 256 at 0.25; 70.6 and 70.1 at 0.5 "
        "(Table 1, ENet and PSPNet)",
        f"{shown}; step by step: {', '.join(steps)}",
        worst(steps),
    )


def _faster(rows: Rows) -> Finding:
    falls = [large["ms"] < small["ms"] for row in rows.values() for small, large in pairwise(row.values())]
    shown = "; ".join(
        f"theta {theta:g}: "
        + ", ".join(f"{name} {one['ms']:.0f} ms ({one['share_refined']:.0%} of the frame)" for name, one in row.items())
        for theta, row in rows.items()
    )
    return Finding(
        "And faster: 366 ms with 512, 471 with 256 at 0.25; 210 and 288 at 0.5 (Table 1)",
        shown,
        holds_if(all(falls)),
    )


def _figure(rows: Rows) -> Figure:
    figure = make_figure(height=3.6)
    axes = styled(figure.subplots())
    for (theta, row), colour in zip(rows.items(), ("#1f6fb2", "#c2541d"), strict=True):
        points = [(one["ms"], float(np.mean(one["miou"]))) for one in row.values()]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"theta {theta:g}")
        for name, point in zip(row, points, strict=True):
            axes.annotate(name, point, xytext=(6, -13), textcoords="offset points", fontsize=9)
        for one in row.values():
            axes.scatter([one["ms"]] * len(one["miou"]), one["miou"], s=7, color="#7a828e")
    axes.set_xlabel("t_f + n t_b, CPU time of one thread, one block at a time, ms")
    axes.set_ylabel("mIoU, %")
    axes.legend(frameon=False, fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="x4",
    title="Large blocks or small ones at the same theta",
    data="CamVid",
    run=run,
    minutes=(0.2, 6),
)
