"""`Deployment`: a bundle built for one target, one engine per stage.

The key of a TensorRT-RTX deployment is the compute capability it was built for; ONNX Runtime's is the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cascadert.artefacts import Manifest, Part, make_part, read_manifest, read_part, readable, write_folder
from cascadert.bundle import BUNDLE_FILE, Bundle, BundleManifest, read_bundle
from cascadert.errors import BundleError
from cascadert.spec import Strict

DEPLOYMENT_SCHEMA = "cascadert-deployment-1"
DEPLOYMENT_FILE = "deployment.json"

Backend = Literal["onnxruntime", "tensorrt-rtx"]
Precision = Literal["fp32"]


class BuiltFor(Strict):
    """What an engine was built for, and how.

    `compute_capability` is absent for a CPU. `blocks` is the smallest, typical and largest n that refinement engines
    take; a CPU takes any.
    """

    target: str
    backend: Backend
    precision: Precision
    compute_capability: str | None = None
    blocks: tuple[int, int, int] | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None


class EngineEntry(Strict):
    """The engine of one stage and how it came to be."""

    stage: str
    engine: Part
    graph_sha256: str
    build_seconds: float


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
