"""X16: a halo around equal blocks, beside the paper's remedy for small blocks, overlapping them.

Rules: differences of mIoU are paired by seed and judged by `verdict_of`. Which remedy is better is asked between the
halo and the overlap whose multiply-adds are nearest: 34 pixels (2.45 times those of no halo) and a stride of 80 (2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cascadert.calibration.plots import make_figure, styled
from experiments.cascade_clips import AccurateStage, Clip, Size, camvid_clip, thinned
from experiments.cascade_counts import count_blocks, mean_blocks, miou_of
from experiments.cascade_maps import FastMaps, accurate_maps, fast_maps, maps_folder, selective_labels
from experiments.cascade_stages import grid_of
from experiments.cascade_times import stage_times
from experiments.cascade_tuning import Crop
from experiments.cascade_words import differences, mean_and_sd
from experiments.experiment import Context, Experiment, Finding, Outcome, verdict_of
from experiments.x03_crops import EVERY, OVERLAP, SEEDS, tuned_stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCK: Size = (120, 120)
HALOS = (0, 17, 34, 68)
THETA = 1.0
"""That of examples/camvid."""

ALL = "all blocks"
AT_THETA = f"theta {THETA:g}"
OWNER, AVERAGE = "every 80, owner", "every 80, average"

Rows = dict[str, dict[str, Any]]


def stages_of(context: Context, clip: Clip, seed: int) -> dict[str, AccurateStage]:
    """Return the ways to refine blocks of 120, each with a network fine-tuned for what it sees."""
    halos = {f"halo {halo}": tuned_stage(context, clip, Crop(BLOCK, halo), seed) for halo in HALOS}
    overlapping = replace(halos["halo 0"], stride=OVERLAP)
    return {**halos, OWNER: overlapping, AVERAGE: replace(overlapping, merge="average")}


def run(context: Context) -> Outcome:
    clip, folder = thinned(camvid_clip(context), EVERY), maps_folder(context)
    fast = fast_maps(folder, clip, clip.fast)
    by_seed = [
        {name: _row(context, clip, fast, stage) for name, stage in stages_of(context, clip, seed).items()}
        for seed in SEEDS
    ]
    grids = {name: grid_of(clip, stage).size for name, stage in stages_of(context, clip, SEEDS[0]).items()}
    times = stage_times(
        folder, clip, {}, {name: (stage, 4) for name, stage in stages_of(context, clip, SEEDS[0]).items()}
    )
    rows: Rows = {
        name: {
            "blocks": grids[name],
            "macs_per_block": by_seed[0][name]["macs"],
            "macs_all_blocks": grids[name] * by_seed[0][name]["macs"],
            "ms_per_block": round(times[name] / 4, 3),
            "ms_all_blocks": round(grids[name] * times[name] / 4, 2),
            "blocks_at_theta": by_seed[0][name]["blocks_at_theta"],
            "miou_all_blocks": [one[name][ALL] for one in by_seed],
            "miou_at_theta": [one[name][AT_THETA] for one in by_seed],
        }
        for name in by_seed[0]
    }
    return Outcome(
        findings=(_halo_helps(rows), _overlap_helps(rows), _which(rows)),
        numbers={"theta": THETA, "miou_fast": miou_of(fast.labels, clip.truths, len(clip.names)), "rows": rows},
        deviations=(
            "The paper has no halo: it overlaps blocks (480 every 320), and does not say how their labels are merged. "
            "Both merges are here: the block whose centre is nearest, and the average of class probabilities.",
            "Every network was fine-tuned from the same one for what it sees, with equally many pixels; seeds draw "
            "the fine-tuning. Overlapping blocks use the network of halo 0.",
            "Every second of the 101 validation frames. Times are CPU time of one thread for four blocks in one batch.",
        ),
        seeds=SEEDS,
        figure=lambda: _figure(rows),
    )


def _row(context: Context, clip: Clip, fast: FastMaps, stage: AccurateStage) -> dict[str, Any]:
    folder, grid, classes = maps_folder(context), grid_of(clip, stage), len(clip.names)
    every, scores = accurate_maps(folder, clip, stage), fast.scores(grid)
    counts = count_blocks(fast.labels, every.labels, clip.truths, grid, scores, classes)
    chosen = counts.above(THETA)
    at_theta = counts.miou(chosen)
    if stage.merge == "average":
        labels = selective_labels(folder, clip, stage, fast, THETA)
        at_theta = miou_of(labels, clip.truths, classes)
    return {
        "macs": every.macs,
        "blocks_at_theta": mean_blocks(chosen),
        ALL: miou_of(every.labels, clip.truths, classes),
        AT_THETA: at_theta,
    }


def _halo_helps(rows: Rows) -> Finding:
    steps = [f"halo {halo}" for halo in HALOS]
    shown = "; ".join(f"{name}: {mean_and_sd(rows[name]['miou_all_blocks'])}, {_cost(rows, name)}" for name in steps)
    gains = differences(rows["halo 0"]["miou_all_blocks"], rows[steps[-1]]["miou_all_blocks"])
    return Finding(
        "A crop restricts the context, which costs mIoU (section 4.3): a halo around equal blocks brings it back "
        "(ours, not in the paper)",
        f"{shown}",
        verdict_of(gains),
    )


def _overlap_helps(rows: Rows) -> Finding:
    both = "; ".join(
        f"{name}: {mean_and_sd(rows[name]['miou_all_blocks'])}, {_cost(rows, name)}" for name in (OWNER, AVERAGE)
    )
    return Finding(
        "Overlapping blocks bring it back: 76.3 for 480 every 320, 74.6 for 512 side by side (Table 2)",
        f"{both}; side by side {mean_and_sd(rows['halo 0']['miou_all_blocks'])}",
        verdict_of(differences(rows["halo 0"]["miou_all_blocks"], rows[AVERAGE]["miou_all_blocks"])),
    )


def _which(rows: Rows) -> Finding:
    def said(name: str) -> str:
        row = rows[name]
        return (
            f"{name}: {mean_and_sd(row['miou_at_theta'])} with {row['blocks_at_theta']:.1f} of {row['blocks']} blocks"
        )

    names = ("halo 34", OWNER, AVERAGE)
    every = ", ".join(f"{name} {mean_and_sd(rows[name]['miou_all_blocks'])}" for name in names)
    return Finding(
        "At about equal cost a halo is better than the paper's overlap (ours, not in the paper)",
        f"all blocks: {every}; at theta {THETA:g}: {'; '.join(map(said, names))}",
        verdict_of(differences(rows[AVERAGE]["miou_all_blocks"], rows["halo 34"]["miou_all_blocks"])),
    )


def _cost(rows: Rows, name: str) -> str:
    base, row = rows["halo 0"], rows[name]
    macs = row["macs_all_blocks"] / base["macs_all_blocks"]
    time = row["ms_all_blocks"] / base["ms_all_blocks"]
    return f"{macs:.2f} x MACs, {time:.2f} x time"


def _figure(rows: Rows) -> Figure:
    figure = make_figure(height=4.0)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, what, title in zip(
        panels, ("macs", "ms"), ("multiply-adds, G", "CPU time of one thread, ms"), strict=True
    ):
        scale = 1e-9 if what == "macs" else 1.0
        _panel(styled(axes), rows, f"{what}_all_blocks", scale)
        axes.set_xlabel(f"all blocks of a frame: {title}")
    panels[0].set_ylabel("mIoU of all blocks, %")
    panels[0].legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _panel(axes: Any, rows: Rows, cost: str, scale: float) -> None:
    def point(name: str) -> tuple[float, float]:
        return scale * rows[name][cost], float(np.mean(rows[name]["miou_all_blocks"]))

    halos = [f"halo {halo}" for halo in HALOS]
    axes.plot(*zip(*map(point, halos), strict=True), color="#1f6fb2", marker="o", label="halo around blocks of 120")
    for name in halos:
        axes.annotate(name, point(name), xytext=(6, -12), textcoords="offset points", fontsize=9)
    for name, marker in ((OWNER, "D"), (AVERAGE, "s")):
        axes.plot(*point(name), marker=marker, color="#c2541d", linestyle="", label=f"120 {name}")
    for name in rows:
        values = rows[name]["miou_all_blocks"]
        axes.scatter([scale * rows[name][cost]] * len(values), values, s=7, color="#7a828e")


EXPERIMENT = Experiment(
    name="x16",
    title="Halo, beside overlapping blocks",
    data="CamVid",
    run=run,
    minutes=(0.3, 6),
)
