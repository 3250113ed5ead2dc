"""Folders of a JSON manifest and parts: written at once or not at all, read strictly, never edited in place.

Nothing here executes or unpickles what it reads. Every part is named in the manifest with its size and sha256, and a
reader refuses what is missing, changed, outside the folder, or of an unknown schema.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

from pydantic import Field, ValidationError

from cascadert.errors import BundleError, InvalidRequest
from cascadert.sharing import BrokenPieces, join
from cascadert.spec import Strict

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""Larger manifests are refused before they are parsed: real ones have some kilobytes."""


_KINDS = {"bundle.json": "bundle", "deployment.json": "deployment"}
_MEND = "choose another output, or mend the cause"
_ANEW = "write the artefact anew"


class Part(Strict):
    """One file of an artefact."""

    path: Annotated[str, Field(pattern=r"^[\w./-]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class Manifest(Strict):
    """What every manifest starts with."""

    schema_: Annotated[str, Field(alias="schema")]
    created_by: str

    def parts(self) -> tuple[Part, ...]:
        """Return every file that belongs to the artefact besides the manifest."""
        raise NotImplementedError

    def to_json(self) -> str:
        """Return the text of the manifest file."""
        return self.model_dump_json(by_alias=True, indent=1) + "\n"


M = TypeVar("M", bound=Manifest)
S = TypeVar("S", bound=Strict)
P = ParamSpec("P")
R = TypeVar("R")


def _in_its_folder(read: Callable[Concatenate[Path, P], R]) -> Callable[Concatenate[Path, P], R]:
    """Let a function of a folder answer what the file system refuses with an error of ours."""

    @functools.wraps(read)
    def guarded(folder: Path, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with readable(folder):
            return read(folder, *args, **kwargs)

    return guarded


def make_part(path: str, content: bytes) -> Part:
    """Describe `content` as the part at `path`, relative to the artefact's folder."""
    return Part(path=path, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error of ours.

    Raises:
        BundleError: no permission, a name that is too long, a disk that fails.
    """
    try:
        yield
    except OSError as error:
        raise BundleError(
            str(path), f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from error


def check_output(folder: Path, manifests: Collection[str], *, replace: bool = False) -> None:
    """Check that an artefact with one of `manifests` may be written to `folder`, before the work that makes it.

    Nothing is created.

    Raises:
        InvalidRequest: something is there already and `replace` is false, or what is there is not such an artefact.
        BundleError: the folder above takes no files, or cannot be made.
    """
    with readable(folder):
        exists = folder.exists()
        known = not exists or _is_artefact(folder, manifests)
    if exists and not replace:
        raise InvalidRequest(str(folder), "exists already", "choose another output, or pass --force to replace it")
    if not known:
        raise InvalidRequest(str(folder), "is not an artefact of this kind", "choose another output")
    reason = why_not_writable(folder)
    if reason is not None:
        raise BundleError(str(folder), f"cannot be written ({reason})", _MEND)


def why_not_writable(path: Path) -> str | None:
    """Return why nothing can be written at `path`, missing folders above it being made, or none if it can."""
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        return f"{above} is no folder"
    return None if os.access(above, os.W_OK | os.X_OK) else f"no permission to write to {above}"


def write_folder(folder: Path, files: Mapping[str, bytes], *, replace: bool = False) -> None:
    """Write a folder of files so that a reader sees all of it or none.

    Args:
        folder: where to write.
        files: content of each file by its path inside; the `.json` file at the top is the manifest.
        replace: take the place of an artefact that is there; anything but one with such a manifest is left alone.

    Raises:
        InvalidRequest: something is there already and `replace` is false, or what is there is not such an artefact.
        BundleError: the file system refuses.
    """
    check_output(folder, {name for name in files if name.endswith(".json")}, replace=replace)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write_and_swap(folder, files)
    except OSError as error:
        raise BundleError(str(folder), f"cannot be written ({error.strerror or error})", _MEND) from error


def _is_artefact(folder: Path, manifests: Collection[str]) -> bool:
    """Whether `folder` may be replaced: it is empty or holds one of the manifests."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or not names.isdisjoint(manifests)


def _write_and_swap(folder: Path, files: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        for name, content in files.items():
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(fresh, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


@_in_its_folder
def read_manifest(folder: Path, file_name: str, schema: str, model: type[M]) -> M:
    """Read and validate the manifest `file_name` of `folder`; parts are not touched yet.

    Raises:
        BundleError: no folder, no manifest, one that is too large, broken, of another schema, or with wrong fields.
    """
    path = folder / file_name
    if not path.is_file():
        other = next((kind for name, kind in _KINDS.items() if (folder / name).is_file()), None)
        if other is not None and file_name in _KINDS:
            raise BundleError(str(folder), f"is a {other}", f"give a {_KINDS[file_name]}")
        found = "there is no such folder" if not folder.exists() else f"holds no {file_name}"
        raise BundleError(str(folder), found, "give a folder written by cascadert")
    size = path.stat().st_size
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(str(path), f"has {size} bytes where {MAX_MANIFEST_BYTES} are the limit", "write it anew")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError(str(path), f"is not valid JSON: {error}", "write it anew") from error
    found_schema = data.get("schema") if isinstance(data, dict) else None
    if found_schema != schema:
        raise BundleError(str(path), f"has schema {found_schema!r}", f"this version reads {schema!r}: write it anew")
    return validated(model, data, str(path))


def validated(model: type[S], data: Any, origin: str) -> S:
    """Validate what was read from a file; `origin` names the file.

    Raises:
        BundleError: a wrong field.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        subject = ": ".join(filter(None, (origin, ".".join(map(str, problem["loc"])))))
        raise BundleError(subject, problem["msg"].removeprefix("Value error, "), "write it anew") from error


def read_json(folder: Path, part: Part, model: type[S]) -> S:
    """Read a part that is JSON.

    Raises:
        BundleError: see `read_part`; or not JSON, or a wrong field.
    """
    content, origin = read_part(folder, part), str(folder / part.path)
    try:
        return validated(model, json.loads(content), origin)
    except (ValueError, RecursionError) as error:
        raise BundleError(origin, f"is not valid JSON: {error}", "write it anew") from error


@_in_its_folder
def read_part(folder: Path, part: Part) -> bytes:
    """Read one part and check it against its description.

    Raises:
        BundleError: a path outside the folder, a missing file, or a size or digest that differs.
    """
    path = _inside(folder, part.path)
    if path.stat().st_size != part.bytes:
        raise BundleError(str(path), f"has {path.stat().st_size} bytes, not {part.bytes}", _ANEW)
    return verified(path.read_bytes(), part, path)


@_in_its_folder
def read_shared_part(folder: Path, part: Part, earlier: Mapping[str, bytes]) -> bytes:
    """Read a part that is stored as pieces (`sharing.py`), and check the whole against its description.

    Args:
        folder: of the artefact.
        part: the whole.
        earlier: the parts that it may have pieces of, by path, checked already.

    Raises:
        BundleError: see `read_part`; or pieces that make no whole.
    """
    path = _inside(folder, part.path)
    try:
        return verified(join(path.read_bytes(), earlier), part, path)
    except BrokenPieces as error:
        raise BundleError(str(path), str(error), _ANEW) from error


def verified(content: bytes, part: Part, path: Path) -> bytes:
    """Return what was read from `path`, once it is what its description says.

    Raises:
        BundleError: a size or digest that differs.
    """
    if len(content) != part.bytes:
        raise BundleError(str(path), f"has {len(content)} bytes, not {part.bytes}", _ANEW)
    digest = hashlib.sha256(content).hexdigest()
    if digest != part.sha256:
        found = f"was changed: sha256 {digest[:12]}…, not {part.sha256[:12]}…"
        raise BundleError(str(path), found, _ANEW)
    return content


def _inside(folder: Path, name: str) -> Path:
    """Return where a part lies.

    Raises:
        BundleError: outside the folder, or nowhere.
    """
    relative = PurePosixPath(name)
    path = folder / relative
    inside = path.resolve().is_relative_to(folder.resolve())
    if relative.is_absolute() or ".." in relative.parts or not inside:
        raise BundleError(f"{folder}: {name}", "lies outside the folder", "do not use this artefact")
    if not path.is_file():
        raise BundleError(str(path), "is missing", _ANEW)
    return path
