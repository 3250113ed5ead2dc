"""`Kit`: a build plan in one file, for a board that must build its engines itself and has neither torch nor onnx.

A zip archive without compression: `kit.json`, what it describes, and `SHA256SUMS` over all of it, which `sha256sum -c`
reads too. Nothing is ever extracted: members are read into memory, under names that the manifest makes known.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cascadert.artefacts import MAX_MANIFEST_BYTES, Manifest, Part, make_part, validated
from cascadert.bundle import CREATED_BY, BundleManifest
from cascadert.engines.facts import BackendFacts
from cascadert.engines.plan import BuildPlan, StagePlan
from cascadert.engines.profiles import Target
from cascadert.engines.recipe import BuilderSettings
from cascadert.errors import BundleError, InvalidRequest
from cascadert.graph import Graph
from cascadert.precision import Precision, StageCalibration
from cascadert.spec import Strict

KIT_SCHEMA = "cascadert-kit-1"
KIT_FILE, SUMS_FILE = "kit.json", "SHA256SUMS"
SUFFIX = ".kit"

_EPOCH = (1980, 1, 1, 0, 0, 0)  # what a zip archive can say least
_MAX_PARTS = 256

Shape = tuple[int, ...]


class SettingsEntry(Strict):
    """`BuilderSettings` as read from disk."""

    workspace_bytes: int | None
    optimization_level: int | None
    aux_streams: int | None
    dla_core: int | None
    flags: tuple[str, ...]
    float32_nodes: tuple[str, ...]
    refittable: bool = False


class KitStage(Strict):
    """What one stage's engine is built from. `calibration` is what its ranges came from; the graph holds them."""

    stage: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    graph: Part
    calibration: Part | None
    precision: Precision
    device: Annotated[str, Field(pattern=r"^(gpu|dla\d)$")]
    shapes: dict[str, tuple[Shape, Shape, Shape]]
    settings: SettingsEntry
    architecture_sha256: str | None = None

    @model_validator(mode="after")
    def _parts_lie_in_their_place(self) -> KitStage:
        calibration = None if self.calibration is None else self.calibration.path
        if self.graph.path != _graph_path(self.stage) or calibration not in (None, _calibration_path(self.stage)):
            raise ValueError(f"stage '{self.stage}' has parts of other names than its own")
        return self


class KitManifest(Manifest):
    """A build plan but for its graphs."""

    schema_: Annotated[Literal["cascadert-kit-1"], Field(alias="schema")]
    bundle: BundleManifest
    target: Target
    backend: BackendFacts
    blocks: tuple[int, int, int]
    stages: Annotated[tuple[KitStage, ...], Field(min_length=1)]
    tools: dict[str, str]

    def parts(self) -> tuple[Part, ...]:
        """Return the graphs, and what calibration found."""
        found = (stage.calibration for stage in self.stages if stage.calibration is not None)
        return (*(stage.graph for stage in self.stages), *found)

    @model_validator(mode="after")
    def _has_every_stage(self) -> KitManifest:
        stages, wanted = [stage.stage for stage in self.stages], [stage.name for stage in self.bundle.stages]
        if stages != wanted:
            raise ValueError(f"the stages are {stages} where the bundle has {wanted}")
        if self.backend.name != "tensorrt":
            raise ValueError(f"a kit for {self.backend.name}, which needs none")
        return self


@dataclass(frozen=True)
class Kit:
    """A kit on disk whose parts were checked, and the plan in it."""

    path: Path
    manifest: KitManifest
    plan: BuildPlan


def kit_path(folder: Path, cascade: str, target: str) -> Path:
    """Return where the kit of a cascade for a target lies in a folder."""
    return folder / f"{cascade}-{target}{SUFFIX}"


def is_kit(path: Path) -> bool:
    """Whether a path is that of a kit, by its name."""
    return path.suffix == SUFFIX and not path.is_dir()


def write_kit(
    path: Path, plan: BuildPlan, calibrations: Mapping[str, StageCalibration], *, replace: bool = False
) -> Kit:
    """Write a kit at once or not at all. Equal plans make equal files.

    Raises:
        InvalidRequest: the file exists and `replace` is false.
        BundleError: the file system refuses.
    """
    check_kit_output(path, replace=replace)
    files = {_graph_path(stage): planned.graph.onnx for stage, planned in plan.stages.items()}
    files |= {_calibration_path(stage): calibrations[stage].to_json() for stage in plan.stages if stage in calibrations}
    manifest = _describe(plan, {name: make_part(name, content) for name, content in files.items()})
    files = {KIT_FILE: manifest.to_json().encode(), **files}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, {**files, SUMS_FILE: _sums(files)})
    except OSError as error:
        found = f"cannot be written ({error.strerror or error})"
        raise BundleError(str(path), found, "choose another output, or mend the cause") from error
    return Kit(path, manifest, plan)


def check_kit_output(path: Path, *, replace: bool = False) -> None:
    """Check that a kit may be written, before the work that makes it.

    Raises:
        InvalidRequest: something is there already and `replace` is false, or it is no file.
    """
    if path.exists() and not replace:
        raise InvalidRequest(str(path), "exists already", "choose another output, or pass --force to replace it")
    if path.is_dir():
        raise InvalidRequest(str(path), "is a folder", "choose another output")


def read_kit(path: Path) -> Kit:
    """Open a kit and verify all of it.

    Raises:
        BundleError: not a kit, of another schema, or anything in it missing, changed, doubled or unknown.
    """
    with _refusing(path), zipfile.ZipFile(path) as archive:
        members = _members(path, archive)
        manifest = _read_manifest(path, archive, members)
        files = {KIT_FILE: archive.read(KIT_FILE)}
        for part in manifest.parts():
            if members[part.path] != part.bytes:
                found = f"has {members[part.path]} bytes, not {part.bytes}"
                raise BundleError(f"{path}: {part.path}", found, "copy the kit anew")
            files[part.path] = archive.read(part.path)
            if make_part(part.path, files[part.path]) != part:
                raise BundleError(f"{path}: {part.path}", "was changed: its sha256 differs", "copy the kit anew")
        if archive.read(SUMS_FILE) != _sums(files):
            raise BundleError(f"{path}: {KIT_FILE}", f"is not what {SUMS_FILE} says", "copy the kit anew")
    return Kit(path, manifest, _plan(manifest, files))


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Return size by name of every member, once nothing about them can surprise: they take no more than the file."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    doubled = next((name for name in names if names.count(name) > 1), None) if len(names) <= _MAX_PARTS else names[0]
    if len(names) > _MAX_PARTS or doubled is not None:
        raise BundleError(str(path), f"holds '{doubled}' twice, or too many files", "do not use this kit")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise BundleError(str(path), "holds compressed or encrypted files", "do not use this kit")
    sizes = {info.filename: info.file_size for info in infos}
    if sum(sizes.values()) > path.stat().st_size:
        raise BundleError(str(path), "holds files that are larger than itself", "do not use this kit")
    return sizes


def _read_manifest(path: Path, archive: zipfile.ZipFile, members: Mapping[str, int]) -> KitManifest:
    origin = f"{path}: {KIT_FILE}"
    if not {KIT_FILE, SUMS_FILE} <= members.keys():
        raise BundleError(str(path), f"holds no {KIT_FILE} or no {SUMS_FILE}", "give a kit written by cascadert")
    if max(members[KIT_FILE], members[SUMS_FILE]) > MAX_MANIFEST_BYTES:
        raise BundleError(origin, f"has more than {MAX_MANIFEST_BYTES} bytes", "do not use this kit")
    try:
        data = json.loads(archive.read(KIT_FILE))
    except (ValueError, RecursionError) as error:
        raise BundleError(origin, f"is not valid JSON: {error}", "write it anew") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != KIT_SCHEMA:
        raise BundleError(origin, f"has schema {schema!r}", f"this version reads {KIT_SCHEMA!r}: write it anew")
    manifest = validated(KitManifest, data, origin)
    known = {KIT_FILE, SUMS_FILE, *(part.path for part in manifest.parts())}
    if missing := sorted(known - members.keys()):
        raise BundleError(f"{path}: {missing[0]}", "is missing", "copy the kit anew")
    if unknown := sorted(members.keys() - known):
        raise BundleError(f"{path}: {unknown[0]!r}", "is no part of a kit", "do not use this kit")
    return manifest


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what zipfile and the file system say into an error of ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise BundleError(str(path), "there is no such file", "give a kit written by cascadert") from error
    except zipfile.BadZipFile as error:
        raise BundleError(str(path), f"is truncated, changed, or no kit ({error})", "copy the kit anew") from error
    except (EOFError, NotImplementedError, OverflowError, UnicodeError, RuntimeError) as error:
        raise BundleError(str(path), f"is no kit ({error})", "copy the kit anew") from error
    except OSError as error:
        raise BundleError(str(path), f"cannot be read ({error.strerror or error})", "check the path") from error


def _describe(plan: BuildPlan, parts: Mapping[str, Part]) -> KitManifest:
    stages = [
        KitStage(
            stage=name,
            graph=parts[_graph_path(name)],
            calibration=parts.get(_calibration_path(name)),
            precision=planned.precision,
            device=planned.device,
            shapes=dict(planned.shapes),
            settings=SettingsEntry(**asdict(planned.settings)),
            architecture_sha256=planned.architecture,
        )
        for name, planned in plan.stages.items()
    ]
    fields = {"bundle": plan.manifest, "target": plan.target, "backend": plan.facts, "blocks": plan.blocks}
    schema = {"schema": KIT_SCHEMA, "created_by": CREATED_BY}
    return KitManifest.model_validate({**schema, **fields, "stages": tuple(stages), "tools": dict(plan.tools)})


def _plan(manifest: KitManifest, files: Mapping[str, bytes]) -> BuildPlan:
    stages = {}
    for stage, entry in zip(manifest.stages, manifest.bundle.stages, strict=True):
        inputs, outputs = (tuple(port.spec() for port in ports) for ports in (entry.inputs, entry.outputs))
        graph = Graph(files[stage.graph.path], inputs, outputs, "tensorrt")
        settings = BuilderSettings(**stage.settings.model_dump())
        stages[stage.stage] = StagePlan(
            graph, stage.precision, stage.device, stage.shapes, settings, stage.architecture_sha256
        )
    return BuildPlan(manifest.bundle, manifest.target, manifest.backend, stages, manifest.blocks, manifest.tools)


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        fresh = Path(scratch) / "kit"
        with fresh.open("wb") as file:
            file.write(_pack(files))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)


def _pack(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16  # the same on every system
            archive.writestr(info, content)
    return buffer.getvalue()


def _sums(files: Mapping[str, bytes]) -> bytes:
    """Return digests in the form of `sha256sum`."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def _graph_path(stage: str) -> str:
    return f"graphs/{stage}.onnx"


def _calibration_path(stage: str) -> str:
    return f"calibration/{stage}.json"
