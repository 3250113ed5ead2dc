"""How long the stages of a cascade take: CPU time of one thread, taken in turn, and kept with the maps.

CPU time leaves out what other programs take from a busy machine. It is measured once and kept, so that an experiment
that is run again gives the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from files import write_json

from experiments.cascade_clips import AccurateStage, Clip, FastStage
from experiments.cascade_stages import grid_of, run_accurate, runnable, spec_of

ROUNDS = 15

Call = Callable[[], object]


def medians_in_turn(calls: Mapping[str, Call], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median time of each call in milliseconds, all of them once in every round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def stage_times(
    folder: Path, clip: Clip, fast: Mapping[str, FastStage], accurate: Mapping[str, tuple[AccurateStage, int]]
) -> dict[str, float]:
    """Return the CPU time in milliseconds of each fast stage, and of each accurate stage on so many blocks at once.

    They are measured in turn, with random pixels and the clip's own weights: neither changes how long a network takes.
    """
    settings = [
        clip.size,
        {name: asdict(stage) for name, stage in fast.items()},
        {name: [asdict(replace(stage, weights=None)), n] for name, (stage, n) in accurate.items()},
        ROUNDS,
    ]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{clip.name}-times-{digest}.json"
    if not path.exists():
        write_json(path, dict(medians_in_turn(_calls(clip, fast, accurate), ROUNDS, time.thread_time)))
    found: dict[str, float] = json.loads(path.read_text())
    return found


def _calls(
    clip: Clip, fast: Mapping[str, FastStage], accurate: Mapping[str, tuple[AccurateStage, int]]
) -> dict[str, Call]:
    frame = np.random.default_rng(0).integers(0, 256, (*clip.size, 3), np.uint8)
    return {
        **{name: _fast_call(clip, stage, frame) for name, stage in fast.items()},
        **{name: _accurate_call(clip, stage, n, frame) for name, (stage, n) in accurate.items()},
    }


def _fast_call(clip: Clip, stage: FastStage, frame: np.ndarray) -> Call:
    found = runnable(spec_of(clip, stage, clip.accurate), "fast")
    return lambda: found.runner.run({"frame": frame[None]})


def _accurate_call(clip: Clip, stage: AccurateStage, n: int, frame: np.ndarray) -> Call:
    own = replace(stage, weights=None)
    found, prior = runnable(spec_of(clip, clip.fast, own), "accurate"), np.zeros(clip.size, np.uint8)
    blocks = np.linspace(0, grid_of(clip, own).size - 1, n).round().astype(np.int32)
    return lambda: run_accurate(found, frame, blocks, prior)
