"""The rows of an evaluation, added up frame by frame from labels alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cascadert.bundle import BundleManifest, StageEntry
from cascadert.calibration.evaluation import CascadeLabels, EvaluationRow, Kind, Labels, OracleChoice, Taken
from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.calibration.oracles import better_blocks, pixel_oracle, refine
from cascadert.geometry import Grid

_SEED = 0


class EvaluationTally:
    """Adds frames up: each stage, the cascade, random blocks as a baseline, and the oracles.

    Args:
        manifest: of the cascade.
        labelled: the stages that label.
        faster: the one of these that the oracles begin with.
        better: the one that they take blocks and pixels from.
        grids: blocks of the block oracles; the cascade's own first.
    """

    def __init__(
        self, manifest: BundleManifest, labelled: Sequence[str], faster: str, better: str, grids: Sequence[Grid]
    ) -> None:
        self._faster, self._better, self._grids = faster, better, grids
        self._cameras = manifest.spec.frame.cameras
        self._rng = np.random.default_rng(_SEED)
        decided = [stage for stage in manifest.stages if stage.select is not None]
        self._compares = any(_decides_between(stage, faster, better) for stage in decided)
        classes = manifest.spec.num_classes
        self._stages = {name: _Line(name, "stage", classes) for name in labelled}
        own = [_Refined(decision_grid(manifest, stage), self._cameras, stage.name) for stage in decided]
        self._cascade = _Line("cascade", "cascade", classes, own)
        self._random_grid = next((each.grid for each in own if each.stage == better), grids[0])
        self._random = _Line("random blocks", "random", classes, [_Refined(self._random_grid, self._cameras)])
        self._blocks = [
            _Line(f"block oracle, {_size(grid)}", "block oracle", classes, [_Refined(grid, self._cameras)])
            for grid in grids
        ]
        self._pixels = _Line("pixel oracle", "pixel oracle", classes)

    def add(self, found: CascadeLabels, truth: Labels) -> OracleChoice:
        """Add a frame, truth uint8 `[N, H, W]`; return what the oracle makes of the cascade's own blocks."""
        fast, accurate = found.stages[self._faster], found.stages[self._better]
        for name, line in self._stages.items():
            line.add(found.stages[name], truth)
        self._cascade.add(found.cascade, truth, (len(blocks) for blocks in found.refined.values()))
        if self._compares:
            self._add_random(fast, accurate, truth, len(found.refined[self._better]))
        self._pixels.add(pixel_oracle(fast, accurate, truth), truth)
        choices = [self._ask(fast, accurate, truth, grid) for grid in self._grids]
        for line, choice in zip(self._blocks, choices, strict=True):
            line.add(choice.labels, truth, [len(choice.blocks)])
        return choices[0]

    def rows(self) -> tuple[EvaluationRow, ...]:
        """Return what was added up, from stages alone to what no choice could beat."""
        random = [self._random] if self._compares else []
        lines = (*self._stages.values(), *random, self._cascade, *self._blocks, self._pixels)
        return tuple(line.row() for line in lines)

    @property
    def pixels(self) -> int:
        """Pixels with a label."""
        return int(self._cascade.matrix.counts.sum())

    def _ask(self, fast: Labels, accurate: Labels, truth: Labels, grid: Grid) -> OracleChoice:
        chosen = [
            camera * grid.size + block
            for camera, views in enumerate(zip(fast, accurate, truth, strict=True))
            for block in better_blocks(*views, grid)
        ]
        return OracleChoice(tuple(chosen), refine_cameras(fast, accurate, chosen, grid))

    def _add_random(self, fast: Labels, accurate: Labels, truth: Labels, n: int) -> None:
        chosen = self._rng.choice(self._cameras * self._random_grid.size, n, replace=False).tolist()
        self._random.add(refine_cameras(fast, accurate, chosen, self._random_grid), truth, [n])


def decision_grid(manifest: BundleManifest, stage: StageEntry) -> Grid:
    """Return the blocks that a decision is about: those of the cascade, or whole frames."""
    assert stage.select is not None
    outputs = {f"{entry.name}.{output.name}": output for entry in manifest.stages for output in entry.outputs}
    (candidates,) = outputs[stage.select.order].shape
    frame, grid = manifest.spec.frame, manifest.spec.make_grid()
    whole = frame.height, frame.width
    return grid if candidates == manifest.spec.blocks else Grid(*whole, whole, whole)


def _decides_between(stage: StageEntry, faster: str, better: str) -> bool:
    """Whether a decision is about what `better` refines of what `faster` made."""
    return stage.select is not None and (stage.select.producer, stage.name) == (faster, better)


def refine_cameras(fast: Labels, accurate: Labels, blocks: Iterable[int], grid: Grid) -> Labels:
    """Refine blocks that count through the cameras; labels uint8 `[N, H, W]`."""
    of_camera: list[list[int]] = [[] for _ in fast]
    for block in blocks:
        of_camera[block // grid.size].append(block % grid.size)
    views = zip(fast, accurate, of_camera, strict=True)
    return np.stack([refine(view, better, chosen, grid) for view, better, chosen in views])


def _size(grid: Grid) -> str:
    """Return width x height, as people say it."""
    height, width = grid.block
    stride = "" if grid.stride == grid.block else f" every {grid.stride[1]}x{grid.stride[0]}"
    return f"{width}x{height}{stride}"


@dataclass
class _Refined:
    """How many blocks of one grid."""

    grid: Grid
    cameras: int
    stage: str | None = None
    counts: list[int] = field(default_factory=list)

    def taken(self) -> Taken:
        height, width = self.grid.block
        return Taken(float(np.mean(self.counts)), self.cameras * self.grid.size, height, width, self.stage)


class _Line:
    """One row while it is added up."""

    def __init__(self, name: str, kind: Kind, classes: int, refined: Sequence[_Refined] = ()) -> None:
        self._name, self._kind, self._refined = name, kind, refined
        self.matrix = ConfusionMatrix(classes)

    def add(self, labels: Labels, truth: Labels, counts: Iterable[int] = ()) -> None:
        self.matrix.add(labels, truth)
        for refined, count in zip(self._refined, counts, strict=True):
            refined.counts.append(count)

    def row(self) -> EvaluationRow:
        return EvaluationRow(
            self._name,
            self._kind,
            self.matrix.accuracy(),
            self.matrix.mean_iou(),
            tuple(self.matrix.iou().tolist()),
            tuple(refined.taken() for refined in self._refined),
        )
