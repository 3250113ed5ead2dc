"""`Bundle`: a compiled cascade, portable between machines: a manifest and one semantic ONNX graph per stage.

The manifest wires the stages: each input names its `producer.tensor`, the frame being the producer `frame`. Nothing is
implied by position but the order in which stages run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cascadert._version import __version__
from cascadert.artefacts import (
    Manifest,
    Part,
    make_part,
    read_json,
    read_manifest,
    read_part,
    read_shared_part,
    write_folder,
)
from cascadert.graph import DType, Graph, TensorSpec
from cascadert.precision import Calibrator, Int8Dialect, Numerics, StageCalibration
from cascadert.sharing import split
from cascadert.spec import CascadeSpec
from cascadert.stage_spec import SelectPolicy, Strict, ThresholdPolicy, Unit

BUNDLE_SCHEMA = "cascadert-bundle-2"
BUNDLE_FILE = "bundle.json"
FRAME = "frame"
CREATED_BY = f"cascadert {__version__}"


class TensorEntry(Strict):
    """Name, element type and shape of a tensor; a dynamic dimension has a name."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]

    def spec(self) -> TensorSpec:
        """Return the same as a plain value."""
        return TensorSpec(self.name, self.dtype, self.shape)


class InputEntry(TensorEntry):
    """An input and where it comes from: `source` is `producer.tensor`, for frames `frame` or `frame.<plane>`.

    `prefix` marks the input as the first n entries of its source: the blocks to refine, or rows that were made of them.
    """

    source: str
    prefix: bool = False

    @property
    def producer(self) -> str:
        """The stage (or `frame`) that makes the tensor."""
        return self.source.split(".", 1)[0]


class OutputEntry(TensorEntry):
    """An output; `when_skipped` is the tensor that stands for it when n = 0, none where nothing does.

    The one size that may be dynamic is the first: a row for each of the n blocks.
    """

    when_skipped: str | None = None


class SelectEntry(Strict):
    """The decision before a stage: how many blocks of `order` to refine, from their sorted `scores`.

    Uncertainty shifts with precision: `thetas` has the threshold that stands for the policy's own where the stage that
    makes the scores computes otherwise than in fp32.
    """

    scores: str
    order: str
    unit: Unit = "bits"
    policy: SelectPolicy
    thetas: dict[Numerics, float] = Field(default_factory=dict)

    @property
    def producer(self) -> str:
        """The stage that makes the scores."""
        return self.scores.split(".", 1)[0]

    def policy_for(self, numerics: Numerics) -> SelectPolicy:
        """Return the policy for scores that were computed so; the policy itself where nothing was refitted."""
        if isinstance(self.policy, ThresholdPolicy) and numerics in self.thetas:
            return ThresholdPolicy(theta=self.thetas[numerics])
        return self.policy


class NetworkEntry(Strict):
    """Where a stage's network came from, so that parity can build it again, and what it costs.

    `state_sha256` covers every parameter and buffer of this stage's part. `macs` counts convolutions for one frame or
    one block; `input_shapes` is what the network sees then.
    """

    model: str
    part: str | None = None
    args: dict[str, Any]
    weights: str | None
    random_seed: int | None
    state_sha256: str
    parameters: int
    macs: int
    input_shapes: tuple[tuple[int, ...], ...]


class SharedPart(Part):
    """A graph that is stored without the weights that earlier graphs hold; size and sha256 are those of the whole."""

    stored: Literal["pieces"]


class MemoryEntry(Strict):
    """What a stage takes while it runs, besides its inputs and outputs, estimated from its graph.

    Activations are the most that is alive at once: `activation_bytes`, and `activation_bytes_per_block` for each block.
    """

    weights_bytes: Annotated[int, Field(ge=0)]
    activation_bytes: Annotated[int, Field(ge=0)]
    activation_bytes_per_block: Annotated[int, Field(ge=0)]

    def activations(self, n: int) -> int:
        """Bytes of activations for n blocks; for whole frames n does not matter."""
        return self.activation_bytes + n * self.activation_bytes_per_block


class StageEntry(Strict):
    """One graph, its wiring, the decision before it, and what it takes.

    `follows` names the stage whose decision is this one's as well: it reads rows of the blocks that were selected
    there. `speculative` has the stage queued before its decision is known; what it made is dropped where n = 0.
    """

    name: str
    graph: Part | SharedPart
    inputs: tuple[InputEntry, ...]
    outputs: tuple[OutputEntry, ...]
    select: SelectEntry | None
    follows: str | None = None
    speculative: bool = False
    network: NetworkEntry
    memory: MemoryEntry
    calibration: Part | None = None


class QualityRow(Strict):
    """What one precision costs, measured in ONNX Runtime on the held-out frames, by which calibration chose.

    `iou_selected` compares the refined blocks with those of fp32, micro-averaged: before θ was refitted, and after.
    `score_errors` has the mean absolute change of each stage's scores, in their unit. Values that need labels are
    absent without them, and the SQNR of signals that are equal; mIoU is a share, not a percentage.
    """

    numerics: Numerics
    label_agreement: float
    sqnr_db: dict[str, float | None]
    score_errors: dict[str, float]
    iou_selected_before: float
    iou_selected: float
    mean_n: float
    miou_fast: float | None = None
    miou: float | None = None


class CalibrationEntry(Strict):
    """How a bundle was calibrated, and what came of it.

    `images_sha256` is the digest of the frames, in order; `chosen` the calibrator of each stage and dialect.
    """

    source: str
    images: int
    images_sha256: str
    seed: int
    chosen: dict[str, dict[Int8Dialect, Calibrator]]
    quality: tuple[QualityRow, ...] = ()


class BundleManifest(Manifest):
    """Everything about a cascade but its weights and graphs."""

    schema_: Annotated[Literal["cascadert-bundle-2"], Field(alias="schema")]
    spec: CascadeSpec
    spec_folder: str
    stages: Annotated[tuple[StageEntry, ...], Field(min_length=1)]
    calibration: CalibrationEntry | None = None

    def parts(self) -> tuple[Part, ...]:
        """Return the graphs, and what calibration found."""
        found = (stage.calibration for stage in self.stages if stage.calibration is not None)
        return (*(stage.graph for stage in self.stages), *found)

    @model_validator(mode="after")
    def _wired(self) -> BundleManifest:
        names, wanted = [stage.name for stage in self.stages], [stage.name for stage in self.spec.stages]
        if names != wanted:
            raise ValueError(f"the stages are {names} where the spec has {wanted}")
        known = {f"{FRAME}.y", f"{FRAME}.uv"} if self.spec.frame.pixel_format == "nv12" else {FRAME}
        earlier: dict[str, StageEntry] = {}
        for stage in self.stages:
            select = () if stage.select is None else (stage.select.scores, stage.select.order)
            skipped = (output.when_skipped for output in stage.outputs if output.when_skipped is not None)
            for source in (*(i.source for i in stage.inputs), *select, *skipped):
                if source not in known:
                    raise ValueError(f"stage '{stage.name}' reads '{source}', which no earlier stage makes")
            _check_decision(stage, earlier)
            known |= {f"{stage.name}.{output.name}" for output in stage.outputs}
            earlier[stage.name] = stage
        if not any(name.endswith(".labels") for name in known):
            raise ValueError("no stage makes labels")
        return self


def _check_decision(stage: StageEntry, earlier: Mapping[str, StageEntry]) -> None:
    """Check who decides about a stage that sees selected blocks, or that is queued before it is known to run."""
    subject, decided = f"stage '{stage.name}'", stage.select is not None
    if stage.follows is not None:
        followed = earlier.get(stage.follows)
        if decided or followed is None or followed.select is None:
            raise ValueError(f"{subject} follows '{stage.follows}', which is no earlier stage with a decision")
    elif not decided and any(entry.prefix for entry in stage.inputs):
        raise ValueError(f"{subject} sees the first n blocks, and nothing decides about n")
    if stage.speculative and (not decided or any(i.prefix or i.producer == FRAME for i in stage.inputs)):
        raise ValueError(f"{subject} is speculative: it needs a decision, and may not read blocks or the frame")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose parts were checked against its manifest."""

    path: Path
    manifest: BundleManifest

    @property
    def spec(self) -> CascadeSpec:
        """The specification that was exported."""
        return self.manifest.spec

    @cached_property
    def graphs(self) -> Mapping[str, Graph]:
        """Semantic graph of each stage, by name."""
        found, whole = dict[str, Graph](), dict[str, bytes]()
        for stage in self.manifest.stages:
            if isinstance(stage.graph, SharedPart):
                found[stage.name] = _graph(stage, read_shared_part(self.path, stage.graph, whole))
            else:
                whole[stage.graph.path] = read_part(self.path, stage.graph)
                found[stage.name] = _graph(stage, whole[stage.graph.path])
        return found

    @cached_property
    def calibrations(self) -> Mapping[str, StageCalibration]:
        """What calibration found out about each calibrated stage, by name."""
        return {
            stage.name: read_json(self.path, stage.calibration, StageCalibration)
            for stage in self.manifest.stages
            if stage.calibration is not None
        }


def _graph(stage: StageEntry, onnx: bytes) -> Graph:
    inputs, outputs = (tuple(entry.spec() for entry in entries) for entries in (stage.inputs, stage.outputs))
    return Graph(onnx, inputs, outputs)


def stage_part(name: str, graph: Graph) -> Part:
    """Describe a stage's graph as a part of a bundle."""
    return make_part(f"stages/{name}.onnx", graph.onnx)


def calibration_part(name: str, calibration: StageCalibration) -> Part:
    """Describe what calibration found out about a stage as a part of a bundle."""
    return make_part(f"calibration/{name}.json", calibration.to_json())


def write_bundle(
    path: Path,
    manifest: BundleManifest,
    graphs: Mapping[str, Graph],
    calibrations: Mapping[str, StageCalibration] = MappingProxyType({}),
    *,
    replace: bool = False,
) -> Bundle:
    """Write a bundle atomically; `graphs` and `calibrations` by stage. What graphs share is stored once.

    Raises:
        InvalidRequest: the path exists and `replace` is false.
    """
    manifest, files = _stored(manifest, graphs)
    for stage in manifest.stages:
        if stage.calibration is not None:
            files[stage.calibration.path] = calibrations[stage.name].to_json()
    write_folder(path, {**files, BUNDLE_FILE: manifest.to_json().encode()}, replace=replace)
    return Bundle(path, manifest)


def _stored(manifest: BundleManifest, graphs: Mapping[str, Graph]) -> tuple[BundleManifest, dict[str, bytes]]:
    """Return the files of all graphs, and a manifest that says which of them are pieces of those that are whole."""
    stages, whole, shared = [], dict[str, bytes](), dict[str, bytes]()
    for stage in manifest.stages:
        onnx, part = graphs[stage.name].onnx, stage_part(stage.name, graphs[stage.name])
        pieces = split(onnx, whole)
        if pieces is None:
            whole[part.path] = onnx
        else:
            part = SharedPart(path=f"stages/{stage.name}.pieces", sha256=part.sha256, bytes=part.bytes, stored="pieces")
            shared[part.path] = pieces
        stages.append(stage.model_copy(update={"graph": part}))
    return manifest.model_copy(update={"stages": tuple(stages)}), whole | shared


def read_bundle(path: Path) -> Bundle:
    """Open a bundle and verify all its parts.

    Raises:
        BundleError: see `read_manifest` and `read_part`.
    """
    bundle = Bundle(path, read_manifest(path, BUNDLE_FILE, BUNDLE_SCHEMA, BundleManifest))
    _ = bundle.graphs, bundle.calibrations  # reads and verifies every part
    return bundle
