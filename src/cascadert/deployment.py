"""`Deployment`: a bundle built for one target, one engine per stage.

The key of a TensorRT-RTX deployment is the compute capability it was built for, that of a TensorRT deployment the GPU
it was built on and the version; ONNX Runtime's is the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cascadert.artefacts import Manifest, Part, make_part, read_manifest, read_part, readable, write_folder
from cascadert.bundle import BUNDLE_FILE, Bundle, BundleManifest, read_bundle
from cascadert.errors import BundleError
from cascadert.precision import Precision
from cascadert.spec import Strict

DEPLOYMENT_SCHEMA = "cascadert-deployment-1"
DEPLOYMENT_FILE = "deployment.json"

Backend = Literal["onnxruntime", "tensorrt-rtx", "tensorrt"]


class GpuFingerprint(Strict):
    """The GPU that TensorRT timed its kernels on: an engine of full TensorRT fits this one or an identical one.

    `multiprocessors` tells boards of one name apart (Orin NX 8 GB and 16 GB, power modes that switch parts off).
    """

    name: str
    compute_capability: str
    multiprocessors: Annotated[int, Field(gt=0)]
    memory_bytes: Annotated[int, Field(gt=0)]


class BuiltFor(Strict):
    """What engines were built for, and how.

    `compute_capability` is absent for a CPU; `gpu` and `tensorrt`, the version, are there for full TensorRT, whose
    engines fit nothing else. `blocks` is the smallest, typical and largest n that refinement engines take; a CPU takes
    any.
    """

    target: str
    backend: Backend
    compute_capability: str | None = None
    gpu: GpuFingerprint | None = None
    tensorrt: str | None = None
    blocks: tuple[int, int, int] | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None

    @model_validator(mode="after")
    def _tensorrt_knows_its_gpu(self) -> BuiltFor:
        if {self.gpu is not None, self.tensorrt is not None} != {self.backend == "tensorrt"}:
            raise ValueError("gpu and the version of tensorrt belong to the backend tensorrt, and to no other")
        return self


class EngineEntry(Strict):
    """The engine of one stage and how it came to be.

    `graph_sha256` is the digest of the bundle's graph, `lowered_sha256` that of what the builder was given. `device`
    is `gpu`, `cpu`, or a DLA core as `dla0`. `architecture_sha256` is that of the lowered graph without its weights,
    where the engine can take others.
    """

    stage: str
    engine: Part
    precision: Precision
    device: Annotated[str, Field(pattern=r"^(gpu|cpu|dla\d)$")] = "gpu"
    graph_sha256: str
    lowered_sha256: str
    architecture_sha256: str | None = None
    build_seconds: float
    from_cache: bool = False

    @property
    def refittable(self) -> bool:
        """Whether the engine can take other weights."""
        return self.architecture_sha256 is not None


class DeploymentManifest(Manifest):
    """The bundle's manifest, what it was built for, and the engines. The bundle's own graphs stay behind."""

    schema_: Annotated[Literal["cascadert-deployment-1"], Field(alias="schema")]
    bundle: BundleManifest
    built_for: BuiltFor
    builder: dict[str, str]
    engines: tuple[EngineEntry, ...]

    def parts(self) -> tuple[Part, ...]:
        """Return the engines."""
        return tuple(entry.engine for entry in self.engines)

    @property
    def precisions(self) -> dict[str, Precision]:
        """What each stage computes in, by name."""
        return {entry.stage: entry.precision for entry in self.engines}


@dataclass(frozen=True)
class Deployment:
    """A deployment on disk whose parts were checked against its manifest."""

    path: Path
    manifest: DeploymentManifest

    def engine(self, stage: str) -> bytes:
        """Read and verify the engine of a stage.

        Raises:
            BundleError: a missing or changed part.
        """
        entry = next((entry for entry in self.manifest.engines if entry.stage == stage), None)
        if entry is None:
            raise BundleError(str(self.path), f"has no engine for stage '{stage}'", "build it anew")
        return read_part(self.path, entry.engine)


def engine_part(stage: str, suffix: str, engine: bytes) -> Part:
    """Describe an engine as a part of a deployment."""
    return make_part(f"engines/{stage}.{suffix}", engine)


def write_deployment(
    path: Path, manifest: DeploymentManifest, engines: Mapping[str, bytes], *, replace: bool = False
) -> Deployment:
    """Write a deployment atomically; `engines` maps stage names to engine bytes.

    Raises:
        InvalidRequest: the path exists and `replace` is false.
    """
    files = {entry.engine.path: engines[entry.stage] for entry in manifest.engines}
    write_folder(path, {**files, DEPLOYMENT_FILE: manifest.to_json().encode()}, replace=replace)
    return Deployment(path, manifest)


def read_deployment(path: Path) -> Deployment:
    """Open a deployment and verify all its parts.

    Raises:
        BundleError: see `read_manifest` and `read_part`.
    """
    deployment = Deployment(path, read_manifest(path, DEPLOYMENT_FILE, DEPLOYMENT_SCHEMA, DeploymentManifest))
    for stage in deployment.manifest.bundle.stages:
        deployment.engine(stage.name)
    return deployment


def open_artefact(path: Path) -> Bundle | Deployment:
    """Open whichever of the two lies at `path`.

    Raises:
        BundleError: neither does, or it does not pass its checks.
    """
    with readable(path):
        built, other = (path / DEPLOYMENT_FILE).is_file(), path.is_dir() and not (path / BUNDLE_FILE).is_file()
    if built:
        return read_deployment(path)
    if other:
        raise BundleError(str(path), f"has no {BUNDLE_FILE} and no {DEPLOYMENT_FILE}", "give a bundle or deployment")
    return read_bundle(path)
