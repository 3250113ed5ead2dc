"""What each network makes of every frame of a clip: predicted once, kept in a folder, and put together from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from cascadert.geometry import Grid
from experiments.cascade_clips import AccurateStage, Clip, FastStage
from experiments.cascade_stages import Labels, grid_of, run_accurate, runnable, spec_of
from experiments.experiment import Context

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FastMaps:
    """Of every frame: labels uint8 and entropy in bits float32, both `[F, H, W]`; and multiply-adds of one frame."""

    labels: Labels
    entropy: NDArray[np.float32]
    macs: int

    def scores(self, grid: Grid) -> NDArray[np.float32]:
        """Return the mean entropy of each block, float32 `[F, G]`: over the block itself, also where blocks overlap."""
        boxes = map(grid.box, range(grid.size))
        means = [self.entropy[:, top:bottom, left:right].mean((1, 2)) for top, left, bottom, right in boxes]
        return np.stack(means, 1)


@dataclass(frozen=True)
class AccurateMaps:
    """Labels of every frame with all blocks refined, uint8 `[F, H, W]`, and multiply-adds of one block."""

    labels: Labels
    macs: int


def maps_folder(context: Context) -> Path:
    """Where maps and fine-tuned networks are kept: all experiments of this family share them."""
    return context.work.parent / "cascade"


def fast_maps(folder: Path, clip: Clip, stage: FastStage) -> FastMaps:
    """Predict with the fast network, or read what was predicted before."""
    height, width = stage.input_size

    def predict() -> Arrays:
        found = runnable(spec_of(clip, stage, clip.accurate), "fast")
        made = [found.runner.run({"frame": frame[None]}) for frame in track(clip.frames, f"fast {height}x{width}")]
        arrays = {name: np.concatenate([one[name] for one in made]) for name in ("labels", "entropy")}
        return {**arrays, "macs": np.array(found.macs)}

    key = _key(clip, clip.fast_weights, asdict(stage))
    kept = _kept(folder / f"{clip.name}-fast-{height}x{width}-{key}.npz", predict)
    return FastMaps(kept["labels"], kept["entropy"], int(kept["macs"]))


def accurate_maps(folder: Path, clip: Clip, stage: AccurateStage) -> AccurateMaps:
    """Predict all blocks with the accurate network, or read what was predicted before."""
    height, width = stage.block
    name = f"{height}x{width} halo {stage.halo}"

    def predict() -> Arrays:
        found = runnable(spec_of(clip, clip.fast, stage), "accurate")
        every, nothing = np.arange(grid_of(clip, stage).size, dtype=np.int32), np.zeros(clip.size, np.uint8)
        labels = [run_accurate(found, frame, every, nothing) for frame in track(clip.frames, name)]
        return {"labels": np.stack(labels), "macs": np.array(found.macs)}

    weights = stage.weights or clip.accurate_weights
    key = _key(clip, weights, asdict(replace(stage, weights=None)))
    kept = _kept(folder / f"{clip.name}-accurate-{height}x{width}-{key}.npz", predict)
    return AccurateMaps(kept["labels"], int(kept["macs"]))


def selective_labels(folder: Path, clip: Clip, stage: AccurateStage, fast: FastMaps, theta: float) -> Labels:
    """Return the labels of a cascade at one theta, run as such: where blocks are averaged, maps cannot be composed."""

    def predict() -> Arrays:
        found = runnable(spec_of(clip, clip.fast, stage), "accurate")
        labels = fast.labels.copy()
        for index, scores in enumerate(fast.scores(grid_of(clip, stage))):
            chosen = np.flatnonzero(scores > np.float32(theta)).astype(np.int32)
            if len(chosen):
                labels[index] = run_accurate(found, clip.frames[index], chosen, labels[index])
        return {"labels": labels}

    settings = {"theta": theta, "prior": _sha(fast.labels), **asdict(replace(stage, weights=None))}
    key = _key(clip, stage.weights or clip.accurate_weights, settings)
    labels: Labels = _kept(folder / f"{clip.name}-cascade-{key}.npz", predict)["labels"]
    return labels


def _key(clip: Clip, weights: Path, settings: dict[str, Any]) -> str:
    """Return a digest of all that a map depends on, so that none is taken for another."""
    frames = _sha(clip.frames[:: max(1, len(clip.frames) // 4)])
    content = [settings, frames, len(clip.frames), hashlib.sha256(weights.read_bytes()).hexdigest()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _sha(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _kept(path: Path, predict: Callable[[], Arrays]) -> Arrays:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial-{path.name}")
        np.savez(partial, **predict())  # type: ignore[arg-type]
        partial.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
