"""One stage of a cascade at a time, exported by the product and run in ONNX Runtime on one thread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascadert.calibration.stage_runs import GraphRunner
from cascadert.export.compile import export_stage
from cascadert.export.entries import describe_network
from cascadert.export.examples import examples
from cascadert.export.lowering import lower
from cascadert.export.networks import load_networks
from cascadert.export.stages import make_stages
from cascadert.geometry import Grid
from cascadert.spec import CascadeSpec, parse_spec
from experiments.cascade_clips import AccurateStage, Clip, FastStage

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class RunnableStage:
    """A stage of a cascade, and multiply-adds for one frame or one block."""

    runner: GraphRunner
    macs: int


def spec_of(clip: Clip, fast: FastStage, accurate: AccurateStage) -> CascadeSpec:
    """Return the specification of a cascade whose fast stage hands out the uncertainty of every pixel, too."""
    grid = {"block": accurate.block, "stride": accurate.stride or accurate.block}
    stages: list[dict[str, Any]] = [
        {
            "name": "fast",
            "model": "enet",
            "args": {"classes": len(clip.names)},
            "weights": str(clip.fast_weights),
            "input_size": fast.input_size,
            "emit": ("labels", "scores", "order", "entropy"),
        },
        {
            "name": "accurate",
            "model": "pspnet-small",
            "args": {"classes": len(clip.names), "enlarge": accurate.enlarge},
            "weights": str(accurate.weights or clip.accurate_weights),
            "halo": accurate.halo,
            "merge": accurate.merge,
            "select": {"policy": "threshold", "theta": 0.5},
        },
    ]
    frame = {"height": clip.size[0], "width": clip.size[1]}
    data = {"name": clip.name, "classes": clip.classes, "frame": frame, "grid": grid, "stages": stages}
    return parse_spec(data, clip.name)


def grid_of(clip: Clip, accurate: AccurateStage) -> Grid:
    """Return the blocks of a cascade."""
    return Grid(*clip.size, accurate.block, accurate.stride or accurate.block)


def runnable(spec: CascadeSpec, name: str) -> RunnableStage:
    """Export one stage of a specification and load it; the last ones are kept."""
    return _runnable(spec.model_dump_json(), name)


@lru_cache(maxsize=8)
def _runnable(content: str, name: str) -> RunnableStage:
    spec = CascadeSpec.model_validate_json(content)
    stages = make_stages(spec, load_networks(spec, Path(), None))
    for stage, example in examples(stages, spec, prepared=True):
        if stage.name == name:
            network = describe_network(spec, stage, example, None)
            graph = lower(export_stage(stage, example), "onnxruntime")
            return RunnableStage(GraphRunner(name, graph, threads=1), network.macs)
    raise KeyError(name)


def run_accurate(stage: RunnableStage, frame: Labels, blocks: NDArray[np.int32], prior: Labels) -> Labels:
    """Return `prior` `[H, W]` with some blocks refined, as the cascade does it."""
    inputs: dict[str, NDArray[Any]] = {"frame": frame[None], "indices": blocks, "prior_labels": prior[None]}
    labels: Labels = stage.runner.run(inputs)["labels"][0]
    return labels
