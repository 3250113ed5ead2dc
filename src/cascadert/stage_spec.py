"""What a specification may say of one stage: its network, what it reads, what it makes, and the decision before it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Channels = tuple[float, float, float]
Merge = Literal["owner", "average"]
Upsample = Literal["bilinear", "nearest"]
StageInput = Literal["frame", "blocks", "carried"]
Measure = Literal[
    "entropy", "normalised-entropy", "triangular", "binary-entropy", "one-term", "confidence", "learned"
]  # fmt: skip
Smoothing = Literal["none", "mean", "median", "max"]
Unit = Literal["bits", "share"]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
LABELS, SCORES, ORDER, ENTROPY, LOGITS = "labels", "scores", "order", "entropy", "logits"
OF_LOGITS = frozenset({LABELS, SCORES, ORDER, ENTROPY, LOGITS})  # any other output is a tensor that the network names
NAME = r"^[a-z][a-z0-9_]*$"


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _measure(value: Any) -> Any:
    return {"measure": value} if isinstance(value, str) else value


def _of_a_stage(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*", name):
        raise ValueError(f'"{name}" names no tensor of a stage: write "stage.output"')
    return name


# strict: "1024", true and 1024.0 are no numbers of pixels, and nothing is repaired silently.
Positive = Annotated[int, Field(gt=0, strict=True)]
PixelPair = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]
Name = Annotated[str, Field(pattern=NAME)]
TensorName = Annotated[str, AfterValidator(_of_a_stage)]


class Strict(BaseModel):
    """Base of everything that is read from disk: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(Strict):
    """Pixels as the network was trained on them: (RGB / 255 - mean) / std, per channel."""

    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD

    @model_validator(mode="after")
    def _std_is_positive(self) -> Preprocessing:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, found {list(self.std)}")
        return self


class ThresholdPolicy(Strict):
    """Refine every block whose score is above theta, strictly (paper 000, section 3)."""

    policy: Literal["threshold"] = "threshold"
    theta: Annotated[float, Field(strict=True)]


class TopKPolicy(Strict):
    """Refine the k blocks of the highest score, whatever it is."""

    policy: Literal["top-k"] = "top-k"
    k: Annotated[int, Field(ge=0, strict=True)]


class LatencyPolicy(Strict):
    """Refine as many blocks as fit into the budget, t_f + t_b(n) <= budget_ms; none at or below theta, if given."""

    policy: Literal["latency"] = "latency"
    budget_ms: Annotated[float, Field(gt=0, strict=True)]
    theta: Annotated[float, Field(strict=True)] | None = None


class FrameRatePolicy(Strict):
    """Refine every block above a theta that follows the load: 1000 / fps milliseconds per frame, theta_min at least."""

    policy: Literal["frame-rate"] = "frame-rate"
    fps: Annotated[float, Field(gt=0, strict=True)]
    theta_min: Annotated[float, Field(strict=True)] = 0.0


SelectPolicy = Annotated[ThresholdPolicy | TopKPolicy | LatencyPolicy | FrameRatePolicy, Field(discriminator="policy")]


class ScoreSpec(Strict):
    """What makes a block hard.

    `measure`: "entropy" in bits (paper 000, eq. 1), or divided by log2 K; for two classes "triangular",
    "binary-entropy" and "one-term" of the foreground's probability (paper 001); "learned" by the network itself (paper
    003); "confidence": 1 minus the share of pixels whose best class has a probability of `pixel` at least, for the
    whole frame (paper 004, eq. 7). Pixels on an edge of the labels are then judged by their neighbourhood:
    `smoothing` over a square of 2 `window` + 1 pixels of the logits (eq. 9).
    """

    measure: Measure = "entropy"
    pixel: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.9
    smoothing: Smoothing = "median"
    window: Annotated[int, Field(ge=1, le=8, strict=True)] = 2

    @model_validator(mode="after")
    def _details_belong_to_confidence(self) -> ScoreSpec:
        defaults = {name: field.default for name, field in type(self).model_fields.items() if name != "measure"}
        changed = [name for name, default in defaults.items() if getattr(self, name) != default]
        if changed and self.measure != "confidence":
            raise ValueError(f'{changed[0]} belongs to measure = "confidence", found measure = "{self.measure}"')
        return self

    @property
    def unit(self) -> Unit:
        """Of the scores: bits, or a share from 0 to 1."""
        return "bits" if self.measure in ("entropy", "binary-entropy", "one-term") else "share"


class NetworkSpec(Strict):
    """A network of which several stages take their parts: exits of one backbone, columns that were trained together."""

    name: Name
    model: str
    args: dict[str, Any] = {}
    weights: str | None = None


class StageSpec(Strict):
    """One graph and the decision before it; `docs/spec.md` says what every field means.

    The network is a `model` of the stage's own, or the `part` of a shared `network`.
    """

    name: Name
    input: StageInput | None = None
    model: str | None = None
    args: dict[str, Any] = {}
    weights: str | None = None
    network: str | None = None
    part: str | None = None
    reads: tuple[TensorName, ...] = ()
    after: str | None = None
    emit: tuple[Name, ...] | None = None
    preprocessing: Preprocessing = Preprocessing()
    scale: Annotated[float, Field(gt=0, strict=True)] = 1.0
    input_size: PixelPair | None = None
    upsample: Upsample = "bilinear"
    score: Annotated[ScoreSpec, BeforeValidator(_measure)] = ScoreSpec()
    halo: Annotated[int, Field(ge=0, strict=True)] = 0
    merge: Merge = "owner"
    select: SelectPolicy | None = None
    speculate: bool = False

    @model_validator(mode="after")
    def _has_one_network(self) -> StageSpec:
        if (self.model is None) == (self.network is None):
            found = "neither" if self.model is None else "both"
            raise ValueError(f"stage '{self.name}' needs a model or a network (of [[networks]]), found {found}")
        if self.network is not None and (self.args or self.weights is not None):
            raise ValueError(f"stage '{self.name}': args and weights belong to [[networks]] '{self.network}'")
        if self.part is not None and self.network is None:
            raise ValueError(f"stage '{self.name}': part = \"{self.part}\" needs network = ...")
        return self

    @model_validator(mode="after")
    def _emits_what_there_is(self) -> StageSpec:
        emitted = self.emit or ()
        if self.emit is not None and not emitted:
            raise ValueError(f"stage '{self.name}': emit = [] makes nothing: name its outputs, or leave emit out")
        if len(set(emitted)) < len(emitted):
            raise ValueError(f"stage '{self.name}': emit names one twice, found {list(emitted)}")
        edges = [name for name in emitted if re.fullmatch(r"pixels(_\d+)?|logits_\d+", name)]
        if edges:
            raise ValueError(
                f"stage '{self.name}': emit = \"{edges[0]}\" is a name that graphs use inside: choose another"
            )
        if (SCORES in emitted) != (ORDER in emitted):
            raise ValueError(f"stage '{self.name}': scores and order belong together, found emit = {list(emitted)}")
        return self
