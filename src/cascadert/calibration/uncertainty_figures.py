"""How unsure a stage is, added up frame by frame: means, PAvPU, and whether the parts of an ensemble's add up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cascadert.bundle import BundleManifest
from cascadert.calibration.evaluation import Labels, PavpuRow, UncertaintyFigures, UncertaintyMaps
from cascadert.calibration.instances import instance_uncertainty
from cascadert.calibration.logits import entropy_bits
from cascadert.calibration.pavpu import MeanUncertainty, PAvPU
from cascadert.errors import InvalidRequest
from cascadert.stage_spec import ENTROPY, LABELS, LOGITS

ALEATORIC: Final = "aleatoric"
EPISTEMIC: Final = "epistemic"
INSTANCE: Final = "entropy by instance"

Map = NDArray[np.float32]


@dataclass(frozen=True)
class UncertaintyOptions:
    """What to judge.

    Attributes:
        stage: one that emits labels and entropy; `aleatoric` and `epistemic` are looked at where it has them.
        threshold: windows below it are certain: the mean over the training images (`evaluate.mean_uncertainty`).
        windows: sides of PAvPU's windows in pixels.
    """

    stage: str
    threshold: float
    windows: tuple[int, ...] = (4,)

    def __post_init__(self) -> None:
        for window in self.windows:
            if window < 1:
                raise InvalidRequest(f"window {window}", "is no number of pixels", "give 1 or more")


def uncertainty_outputs(manifest: BundleManifest, stage: str) -> Mapping[str, str]:
    """Return the uncertainties of a stage, and the tensor of each; entropy is the first.

    Raises:
        InvalidRequest: there is no such stage, or it has no labels or no entropy.
    """
    made = {entry.name: [output.name for output in entry.outputs] for entry in manifest.stages}
    fit = [name for name, outputs in made.items() if {LABELS, ENTROPY} <= set(outputs)]
    if stage not in fit:
        choice = f"choose of {', '.join(fit)}" if fit else 'let one have "labels" and "entropy" in emit'
        raise InvalidRequest(f"uncertainty of stage '{stage}'", "it is none that emits labels and entropy", choice)
    return {name: f"{stage}.{name}" for name in (ENTROPY, ALEATORIC, EPISTEMIC) if name in made[stage]}


class UncertaintyTally:
    """Adds frames up."""

    def __init__(self, manifest: BundleManifest, options: UncertaintyOptions) -> None:
        self._outputs = uncertainty_outputs(manifest, options.stage)
        self._options, self._labels = options, f"{options.stage}.{LABELS}"
        self._logits = f"{options.stage}.{LOGITS}"
        (entry,) = (stage for stage in manifest.stages if stage.name == options.stage)
        self._has_logits = any(output.name == LOGITS for output in entry.outputs)
        (spec,) = (stage for stage in manifest.spec.stages if stage.name == options.stage)
        self._unit = spec.score.unit
        self._most = math.log2(manifest.spec.num_classes) if self._unit == "bits" else 1.0
        self._means = {name: MeanUncertainty() for name in self._outputs}
        self._pavpu = [PAvPU(options.threshold, window) for window in options.windows]
        self._identity_error, self._least_epistemic = 0.0, math.inf

    @property
    def reads(self) -> set[str]:
        """The tensors it looks at."""
        return {self._labels, *self._outputs.values(), *({self._logits} if self._has_logits else ())}

    def add(self, tensors: Mapping[str, NDArray[Any]], truth: Labels) -> UncertaintyMaps:
        """Add a frame; return its maps, and instance uncertainty among them.

        Raises:
            InvalidRequest: parts that nothing is there to compare with.
        """
        labels = tensors[self._labels]
        maps = {name: _as_map(tensor, tensors[tensor]) for name, tensor in self._outputs.items()}
        for name, mean in self._means.items():
            mean.add(maps[name])
        for windows in self._pavpu:
            windows.add(labels, truth, maps[ENTROPY])
        if self._decomposed:
            missing = self._entropy_as(maps[ALEATORIC], maps, tensors) - maps[ALEATORIC] - maps[EPISTEMIC]
            self._identity_error = float(np.maximum(self._identity_error, np.abs(missing).max()))  # NaN stays
        if EPISTEMIC in maps:
            self._least_epistemic = float(np.minimum(self._least_epistemic, maps[EPISTEMIC].min()))
        views = zip(labels, maps[ENTROPY], strict=True)
        maps[INSTANCE] = np.stack([instance_uncertainty(*view).astype(np.float32) for view in views])
        return UncertaintyMaps(maps, self._most, self._unit)

    def figures(self) -> UncertaintyFigures:
        """Return what was added up."""
        return UncertaintyFigures(
            stage=self._options.stage,
            unit=self._unit,
            threshold=self._options.threshold,
            means={name: mean.value() for name, mean in self._means.items()},
            pavpu=tuple(_row(windows) for windows in self._pavpu),
            identity_error=self._identity_error if self._decomposed else None,
            least_epistemic=self._least_epistemic if EPISTEMIC in self._outputs else None,
        )

    def _entropy_as(self, part: Map, maps: Mapping[str, Map], tensors: Mapping[str, NDArray[Any]]) -> Map:
        """Return the predictive uncertainty at the stride of a part: parts add up pixel by pixel, before any resize."""
        if maps[ENTROPY].shape == part.shape:
            return maps[ENTROPY]
        if self._has_logits and self._unit == "bits":
            found = entropy_bits(tensors[self._logits])
            if found.shape == part.shape:
                return found
        sizes = f"{list(part.shape)} where entropy is {list(maps[ENTROPY].shape)}"
        remedy = 'let the stage have "logits" in emit, at the stride of its parts'
        raise InvalidRequest(f"'{ALEATORIC}' of stage '{self._options.stage}'", f"is {sizes}", remedy)

    @property
    def _decomposed(self) -> bool:
        return {ALEATORIC, EPISTEMIC} <= self._outputs.keys()


def _as_map(tensor: str, values: NDArray[Any]) -> Map:
    """Return `[N, h, w]` or `[N, 1, h, w]` as the former."""
    pixels: Map = values[:, 0] if values.ndim == 4 and values.shape[1] == 1 else values
    if pixels.ndim != 3:
        raise InvalidRequest(
            f"tensor '{tensor}'", f"is {list(values.shape)}", "return one number a pixel, [N, 1, h, w]"
        )
    return pixels


def _row(windows: PAvPU) -> PavpuRow:
    return PavpuRow(
        window=windows.window,
        value=windows.value(),
        accurate_certain=windows.accurate_certain,
        accurate_uncertain=windows.accurate_uncertain,
        inaccurate_certain=windows.inaccurate_certain,
        inaccurate_uncertain=windows.inaccurate_uncertain,
    )
