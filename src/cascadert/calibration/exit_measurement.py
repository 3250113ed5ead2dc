"""What every exit of a bundle makes of labelled frames, and what its stages take: each runs once on each frame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import Bundle, BundleManifest
from cascadert.calibration.exit_chain import Exit, exits_of
from cascadert.calibration.exits import Candidate, ExitCosts, ExitRecords
from cascadert.calibration.metrics import ConfusionMatrix, Labels
from cascadert.errors import InvalidRequest
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.results import Planes, Result
from cascadert.spec import TopKPolicy
from cascadert.stage_spec import LABELS, SCORES


@dataclass(frozen=True)
class ExitMeasurement:
    """What was measured.

    Attributes:
        manifest: of the bundle.
        exits: E of them, in order.
        confidence: of each exit in each image, float32 `[E, I]`, NaN for one that makes no scores.
        confusion: pixels of (truth, prediction) that each exit counts in each image, int64 `[E, I, K, K]`.
        stage_ms: median time of each stage.
        times_from: what measured these.
    """

    manifest: BundleManifest
    exits: tuple[Exit, ...]
    confidence: NDArray[np.float32]
    confusion: NDArray[np.int64]
    stage_ms: Mapping[str, float]
    times_from: str

    @property
    def images(self) -> int:
        """Number of images I."""
        return len(self.confidence[0])

    @cached_property
    def macs(self) -> Mapping[str, int]:
        """Multiply-adds of each stage's network on one frame."""
        return {stage.name: stage.network.macs for stage in self.manifest.stages}

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """The exits for the search: each at a point of its own, the first at 1."""
        return tuple(
            Candidate(one.name, point, self.stage_ms[one.name]) for point, one in enumerate(self.exits, start=1)
        )

    def records(self, images: Sequence[int] | slice = slice(None)) -> ExitRecords:
        """Return the records of some images; an exit without scores, which can only be the last, counts as certain."""
        confidence = np.nan_to_num(self.confidence[:, images], nan=1.0)
        return ExitRecords.from_confusion(self.candidates, confidence, self.confusion[:, images])

    def costs(self, *, speculative: bool) -> ExitCosts:
        """Return the times of segments; `speculative` if exits run beside the segments that follow."""
        segments = tuple(sum(self.stage_ms[stage] for stage in one.segment) for one in self.exits)
        return ExitCosts(segments, speculative)

    def macs_of(self, taken: Sequence[str]) -> int:
        """Return what an image costs that leaves at the last of these exits and was refused by the others."""
        by_name = {one.name: one for one in self.exits}
        return sum(self.macs[stage] for stage in by_name[taken[-1]].way.union(taken))


def measure_exits(
    bundle: Bundle,
    frames: Iterable[tuple[Planes, Labels]],
    threads: int = 0,
    stage_ms: Mapping[str, float] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ExitMeasurement:
    """Run every stage on every frame, one after the other, in ONNX Runtime.

    Args:
        bundle: a cascade with exits, see `exits_of`.
        frames: each with its labels, uint8 `[N, H, W]`; read once, never held.
        threads: of ONNX Runtime; 0 for all cores.
        stage_ms: times of the stages on the machine that matters; none: those of this run.
        progress: called with the number of frames done.

    Raises:
        InvalidRequest: a cascade without exits, or no frame.
        MissingExtra: ONNX Runtime is not installed.
    """
    exits = exits_of(bundle.manifest)
    tally = _Tally(bundle.manifest, exits)
    options = RuntimeOptions(mode="serial", threads=threads, tensors=tuple(tally.tensors))
    onward = {one.decision: TopKPolicy(k=1) for one in exits if one.decision is not None}
    with open_pipeline(bundle, options) as pipeline:
        for count, (planes, truth) in enumerate(frames, start=1):
            tally.add(pipeline.infer(planes, onward), truth)
            if progress:
                progress(count)
    return tally.finish(stage_ms)


class _Tally:
    """Adds frames up."""

    def __init__(self, manifest: BundleManifest, exits: tuple[Exit, ...]) -> None:
        self._manifest, self._exits = manifest, exits
        made = {f"{stage.name}.{output.name}" for stage in manifest.stages for output in stage.outputs}
        self.tensors = sorted(made & {f"{one.name}.{output}" for one in exits for output in (LABELS, SCORES)})
        self._confidence: list[list[float]] = []
        self._confusion: list[list[NDArray[np.int64]]] = []
        self._ms: dict[str, list[float]] = {stage.name: [] for stage in manifest.stages}

    def add(self, result: Result, truth: Labels) -> None:
        self._confidence.append([_confidence(result, one.name) for one in self._exits])
        self._confusion.append([self._counts(result.tensors[f"{one.name}.{LABELS}"], truth) for one in self._exits])
        for run in result.runs:
            self._ms[run.stage].append(run.milliseconds)

    def finish(self, stage_ms: Mapping[str, float] | None) -> ExitMeasurement:
        if not self._confidence:
            raise InvalidRequest("exits", "there was no frame to judge them on", "give labelled frames")
        return ExitMeasurement(
            manifest=self._manifest,
            exits=self._exits,
            confidence=np.array(self._confidence, np.float32).T,
            confusion=np.stack([np.stack(frame) for frame in self._confusion], axis=1),
            stage_ms={name: median(found) for name, found in self._ms.items()} if stage_ms is None else stage_ms,
            times_from="this run, stage after stage" if stage_ms is None else "a bench",
        )

    def _counts(self, labels: Labels, truth: Labels) -> NDArray[np.int64]:
        matrix = ConfusionMatrix(self._manifest.spec.num_classes)
        matrix.add(labels, truth)
        return matrix.counts


def _confidence(result: Result, name: str) -> float:
    """Return 1 - score in float32, in which the stage made the score of it: nothing is lost."""
    scores = result.tensors.get(f"{name}.{SCORES}")
    return float("nan") if scores is None else float(np.float32(1) - scores[0])
