"""Evaluate a cascade on labelled frames: its stages alone, its own decisions, and the oracles of paper 000.

Each frame runs twice: with every block refined, so that each stage labels every pixel, and by the cascade's own
policies. What the oracles add needs nothing but those labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cascadert.bundle import Bundle, BundleManifest
from cascadert.calibration.evaluation import CascadeLabels, EvaluatedFrame, Evaluation, Labels, Sample
from cascadert.calibration.evaluation_rows import EvaluationTally, decision_grid
from cascadert.calibration.logits import labels_of
from cascadert.calibration.pavpu import MeanUncertainty
from cascadert.calibration.uncertainty_figures import UncertaintyOptions, UncertaintyTally, uncertainty_outputs
from cascadert.errors import InvalidRequest
from cascadert.geometry import Grid
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.pipeline import Pipeline
from cascadert.runtime.plan import LABELS
from cascadert.runtime.results import Array, Planes, Policies, Result
from cascadert.spec import SelectPolicy, ThresholdPolicy, TopKPolicy
from cascadert.stage_spec import ENTROPY, LOGITS


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate.

    Attributes:
        stages: the faster and the better of the two that oracles choose between; the first and the last that label.
        blocks: sizes of blocks in pixels to ask the block oracle for, beside the cascade's own.
        uncertainty: the stage whose uncertainty to judge, if any.
        threads: of ONNX Runtime; 0 for all cores.
    """

    stages: tuple[str, str] | None = None
    blocks: tuple[int, ...] = ()
    uncertainty: UncertaintyOptions | None = None
    threads: int = 0


def evaluate(
    bundle: Bundle,
    samples: Iterable[Sample],
    options: EvaluateOptions = EvaluateOptions(),
    show: Callable[[EvaluatedFrame], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate a bundle in ONNX Runtime.

    Args:
        bundle: the cascade. Policies that depend on time are taken as a quarter of the blocks.
        samples: frames with their labels; read once, never held.
        options: see `EvaluateOptions`.
        show: called with each frame, to look at.
        progress: called with the number of frames done.

    Raises:
        InvalidRequest: stages that there are not or that do not label, blocks that do not fit, or no frames.
        MissingExtra: ONNX Runtime is not installed.
    """
    labelled = stages_that_label(bundle.manifest)
    faster, better = choose_stages(tuple(labelled), options.stages)
    grids = grids_of(bundle.spec.make_grid(), options.blocks)
    tally = EvaluationTally(bundle.manifest, tuple(labelled), faster, better, grids)
    doubt = None if options.uncertainty is None else UncertaintyTally(bundle.manifest, options.uncertainty)
    tensors = set(labelled.values()) | (set() if doubt is None else doubt.reads)
    decided = [stage for stage in bundle.manifest.stages if stage.select is not None]
    by_block = {stage.name for stage in decided if decision_grid(bundle.manifest, stage) == grids[0]}
    count = 0
    with _opened(bundle, tensors, options.threads) as pipeline:
        for count, sample in enumerate(samples, start=1):
            every, found = _run_twice(pipeline, sample.planes, labelled)
            oracle = tally.add(found, sample.truth)
            maps = None if doubt is None else doubt.add(every.tensors, sample.truth)
            if show:
                refined = found.refined[better] if better in by_block else None
                show(EvaluatedFrame(sample, found, faster, better, refined, oracle, maps))
            if progress:
                progress(count)
    if not count:
        raise InvalidRequest("evaluation", "there was no frame", "give frames")
    return Evaluation(
        classes=bundle.spec.classes.names,
        frames=count,
        pixels=tally.pixels,
        faster=faster,
        better=better,
        rows=tally.rows(),
        uncertainty=None if doubt is None else doubt.figures(),
    )


def mean_uncertainty(
    bundle: Bundle,
    frames: Iterable[Planes],
    stage: str,
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Return the mean of a stage's uncertainty over all pixels of some frames: of training images, PAvPU's threshold.

    Raises:
        InvalidRequest: a stage without uncertainty, or no frames.
    """
    entropy = uncertainty_outputs(bundle.manifest, stage)[ENTROPY]
    mean, policies = MeanUncertainty(), _until(bundle.manifest, stage)
    with _opened(bundle, {entropy}, threads) as pipeline:
        for count, planes in enumerate(frames, start=1):
            mean.add(pipeline.infer(planes, policies).tensors[entropy])
            if progress:
                progress(count)
    if not mean.pixels:
        raise InvalidRequest("training images", "there was no frame", "give frames")
    return mean.value()


def stages_that_label(manifest: BundleManifest) -> dict[str, str]:
    """Return the stages that label, in order, and the tensor of each: labels, or the logits of a member of an ensemble.

    Raises:
        InvalidRequest: fewer than two.
    """
    found: dict[str, str] = {}
    for stage in manifest.stages:
        made = {output.name for output in stage.outputs}
        if made & {LABELS, LOGITS}:
            found[stage.name] = f"{stage.name}.{LABELS if LABELS in made else LOGITS}"
    if len(found) < 2:
        remedy = 'let two stages have "labels" or "logits" in emit'
        raise InvalidRequest("evaluation", f"compares stages that label, and there is only {', '.join(found)}", remedy)
    return found


def choose_stages(labelled: Sequence[str], asked: tuple[str, str] | None) -> tuple[str, str]:
    """Return the faster and the better stage: as asked, or the first and the last.

    Raises:
        InvalidRequest: a stage that does not label, or one against itself.
    """
    faster, better = asked or (labelled[0], labelled[-1])
    for name in (faster, better):
        if name not in labelled:
            raise InvalidRequest(f"stage '{name}'", "is none that labels", f"choose two of {', '.join(labelled)}")
    if faster == better:
        raise InvalidRequest(f"stage '{faster}'", "is compared with itself", f"choose two of {', '.join(labelled)}")
    return faster, better


def grids_of(own: Grid, blocks: Sequence[int]) -> tuple[Grid, ...]:
    """Return the cascade's own blocks, and squares of other sizes side by side.

    Raises:
        GridError: blocks larger than the frame.
    """
    others = (Grid(own.height, own.width, (block, block), (block, block)) for block in blocks)
    return tuple(dict.fromkeys((own, *others)))


def _opened(bundle: Bundle, tensors: AbstractSet[str], threads: int) -> Pipeline:
    return open_pipeline(bundle, RuntimeOptions(mode="serial", threads=threads, tensors=tuple(sorted(tensors))))


def _run_twice(pipeline: Pipeline, planes: Planes, labelled: Mapping[str, str]) -> tuple[Result, CascadeLabels]:
    """Run a frame with every block refined, and on the cascade's own decisions."""
    own = _policies(pipeline.manifest)
    every = pipeline.infer(planes, dict.fromkeys(own, TopKPolicy(k=pipeline.blocks)))
    result = pipeline.infer(planes, own) if own else every
    frame = pipeline.manifest.spec.frame
    stages = {name: _labels(every.tensors[tensor], (frame.height, frame.width)) for name, tensor in labelled.items()}
    refined = {run.stage: run.order[: run.n].tolist() for run in result.runs if run.n and run.order is not None}
    return every, CascadeLabels(stages, result.labels, {name: tuple(refined.get(name, ())) for name in own})


def _labels(tensor: Array, size: tuple[int, int]) -> Labels:
    """Return labels as they are, and those of logits `[N, K, h, w]`."""
    return labels_of(tensor, size) if tensor.ndim == 4 else tensor


def _policies(manifest: BundleManifest) -> dict[str, SelectPolicy]:
    """Return the cascade's own; where n depends on time, which numbers do not, a quarter of the blocks."""
    found: dict[str, SelectPolicy] = {s.name: s.select.policy for s in manifest.stages if s.select is not None}
    quarter = TopKPolicy(k=-(-manifest.spec.blocks // 4))
    return {
        name: policy if isinstance(policy, ThresholdPolicy | TopKPolicy) else quarter for name, policy in found.items()
    }


def _until(manifest: BundleManifest, last: str) -> Policies:
    """Return policies that refine every block up to one stage, and none after it."""
    names = [stage.name for stage in manifest.stages]
    needed = set(names[: names.index(last) + 1])
    decided = [stage.name for stage in manifest.stages if stage.select is not None]
    return {name: TopKPolicy(k=manifest.spec.blocks if name in needed else 0) for name in decided}
