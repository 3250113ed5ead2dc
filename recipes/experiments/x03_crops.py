"""X3: does the accurate network gain from larger crops, and overlapping blocks from their overlap?

Rules: a size is better than the next smaller one if the difference of mIoU, paired by seed, is above zero by more than
two standard errors (`verdict_of`); "rises" needs that at every step. The same rule for overlapping blocks against
blocks of equal size side by side.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from street_data import load_camvid

from cascadert.calibration.plots import make_figure, styled
from experiments.cascade_clips import AccurateStage, Clip, Size, camvid_clip, thinned
from experiments.cascade_counts import miou_of
from experiments.cascade_maps import accurate_maps, maps_folder
from experiments.cascade_stages import grid_of
from experiments.cascade_tuning import PIXELS, Crop, fine_tuned
from experiments.cascade_words import differences, mean_and_sd, size_name, worst
from experiments.experiment import Context, Experiment, Finding, Outcome, verdict_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (0, 1)
SIZES: tuple[Size, ...] = ((60, 60), (120, 120), (180, 240), (360, 480))
EVERY = 2
"""Of the validation frames, which are one clip, every second one is enough."""

OVERLAP: Size = (80, 80)
"""Stride of blocks of 120: two thirds, as the paper's 480 every 320."""


def tuned_stage(context: Context, clip: Clip, crop: Crop, seed: int, stride: Size | None = None) -> AccurateStage:
    """Return a stage whose network was fine-tuned on its blocks, training it if need be."""
    data = load_camvid(context.camvid, "train")
    folder = maps_folder(context) / "weights"
    weights = fine_tuned(data, len(clip.names), clip.accurate_weights, crop, seed, folder, context.options.device)
    return AccurateStage(crop.size, stride, crop.halo, enlarge=1.0, weights=weights)


def tuned_miou(context: Context, clip: Clip, crop: Crop, seed: int, stride: Size | None = None) -> float:
    """Return the mIoU in per cent of all blocks by a network that was fine-tuned on them."""
    labels = accurate_maps(maps_folder(context), clip, tuned_stage(context, clip, crop, seed, stride)).labels
    return miou_of(labels, clip.truths, len(clip.names))


def run(context: Context) -> Outcome:
    clip = thinned(camvid_clip(context), EVERY)
    alone = {size: [tuned_miou(context, clip, Crop(size), seed) for seed in SEEDS] for size in SIZES}
    overlapping = [tuned_miou(context, clip, Crop((120, 120)), seed, OVERLAP) for seed in SEEDS]
    return Outcome(
        findings=(_rises(alone), _overlap(alone[120, 120], overlapping)),
        numbers={
            "training_pixels": PIXELS,
            "miou_by_block_and_seed": {size_name(size): values for size, values in alone.items()},
            "miou_120_every_80_by_seed": overlapping,
            "blocks": {
                **{size_name(size): grid_of(clip, AccurateStage(size)).size for size in SIZES},
                "120 every 80": grid_of(clip, AccurateStage((120, 120), OVERLAP)).size,
            },
        },
        deviations=(
            "CamVid frames of 360x480 and a PSPNet of 1.3 M parameters; crops are 60 to 360x480 pixels, the paper's "
            "256 to 1024. Measured on every second of the 101 validation frames.",
            "Fine-tuned from one network (examples/camvid/weights, trained on crops of 256) for as many pixels at "
            "every size, 8.6 million: seeds draw the fine-tuning, not that network.",
            "Overlapping blocks are those of the network for blocks of 120 side by side; the block whose centre is "
            "nearest labels a pixel (X16 has the average as well).",
            "The paper's overlapping 480 is compared with its 512 side by side, ours with equal blocks.",
        ),
        seeds=SEEDS,
        figure=lambda: _figure(alone, overlapping),
    )


def _rises(alone: dict[Size, list[float]]) -> Finding:
    steps = [verdict_of(differences(alone[small], alone[large])) for small, large in pairwise(SIZES)]
    return Finding(
        "The accurate network's mIoU rises with the crop: 70.9 at 256, 74.6 at 512, 77.3 at 1024 (Table 2)",
        "; ".join(f"{size_name(size)}: {mean_and_sd(values)}" for size, values in alone.items())
        + f"; step by step: {', '.join(steps)}",
        worst(steps),
    )


def _overlap(alone: list[float], overlapping: list[float]) -> Finding:
    return Finding(
        "Overlapping blocks are better than about as large ones side by side: 76.3 for 480 every 320, 74.6 for 512 "
        "(Table 2)",
        f"120 every 80: {mean_and_sd(overlapping)}, 120 side by side: {mean_and_sd(alone)}",
        verdict_of(differences(alone, overlapping)),
    )


def _figure(alone: dict[Size, list[float]], overlapping: list[float]) -> Figure:
    figure = make_figure(height=3.6)
    axes = styled(figure.subplots())
    sides = [float(np.sqrt(height * width)) for height, width in SIZES]
    means = [float(np.mean(values)) for values in alone.values()]
    axes.plot(sides, means, color="#1f6fb2", label="side by side, mean of 2 seeds")
    for side, values in zip(sides, alone.values(), strict=True):
        axes.scatter([side] * len(values), values, s=18, color="#1f6fb2")
    axes.scatter([120] * len(overlapping), overlapping, s=22, marker="D", color="#c2541d", label="120 every 80")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sides, [size_name(size) for size in SIZES])
    axes.minorticks_off()
    axes.set_xlabel("block, pixels")
    axes.set_ylabel("mIoU of all blocks, %")
    axes.legend(frameon=False, fontsize=9)
    return figure


EXPERIMENT = Experiment(
    name="x3",
    title="Size of the crops, and overlap",
    data="CamVid",
    run=run,
    minutes=(0.2, 5),
)
