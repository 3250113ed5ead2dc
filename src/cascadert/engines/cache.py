"""Engines that were built before on this machine, each under a digest of everything that decides what it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from cascadert.deployment import GpuFingerprint
from cascadert.engines.process import BuiltEngine
from cascadert.engines.recipe import EngineRecipe
from cascadert.engines.sealed import Broken, read_header, read_sealed, write_sealed
from cascadert.errors import InvalidRequest
from cascadert.spec import Strict

CACHE_SCHEMA = "cascadert-engine-1"
"""Raise it when the worker sets builders up otherwise: entries of the old schema then answer no request."""

_DIGEST = 64


def default_cache_folder() -> Path:
    """Return where engines are kept: $CASCADERT_CACHE, else cascadert/engines in the user's cache folder."""
    if own := os.environ.get("CASCADERT_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cascadert" / "engines"


@dataclass(frozen=True)
class EngineKey:
    """What decides an engine, as labelled text, and whose engine it is: `cascade/stage`, which decides nothing."""

    owner: str
    fields: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """Digest over labels and values, each with its length before it: no two sets of fields spell the same bytes."""
        sha256 = hashlib.sha256()
        for text in (text for item in sorted(self.fields.items()) for text in item):
            encoded = text.encode()
            sha256.update(len(encoded).to_bytes(8, "big") + encoded)
        return sha256.hexdigest()


def engine_key(cascade: str, recipe: EngineRecipe, version: str, gpu: GpuFingerprint | None) -> EngineKey:
    """Return the key of the engine that `version` of the recipe's builder makes; `gpu` for those that time on it."""
    fields = {
        "schema": CACHE_SCHEMA,
        "backend": recipe.backend,
        "version": version,
        "compute_capability": recipe.compute_capability,
        "precision": recipe.precision,
        "strongly_typed": json.dumps(recipe.strongly_typed),
        "shapes": json.dumps({name: recipe.shapes[name] for name in sorted(recipe.shapes)}),
        **{name: json.dumps(value) for name, value in asdict(recipe.settings).items()},
        **({} if gpu is None else {f"gpu_{name}": str(value) for name, value in gpu.model_dump().items()}),
        "graph": recipe.graph.sha256,
    }
    return EngineKey(f"{cascade}/{recipe.stage}", fields)


class EntryHeader(Strict):
    """What an entry says of itself, in clear."""

    schema_: Annotated[Literal["cascadert-engine-1"], Field(alias="schema")] = "cascadert-engine-1"
    owner: str
    fields: dict[str, str]
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class Miss:
    """No entry that may be loaded, and why not."""

    why: str


class EngineCache:
    """A folder with one file for each engine. Any number of processes may use it at once.

    Args:
        folder: made when it is not there.

    Raises:
        InvalidRequest: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise self._unusable(PermissionError(13, os.strerror(13)))

    def find(self, key: EngineKey) -> BuiltEngine | Miss:
        """Return the engine of a key, verified; else why there is none.

        Raises:
            InvalidRequest: the file system refuses.
        """
        path = self._path(key)
        try:
            header, engine = read_sealed(path)
            entry = _parse(header, path)
        except FileNotFoundError:
            return Miss(self._compare(key))
        except Broken as broken:
            return Miss(f"the entry {path} is corrupt: {broken}")
        except OSError as error:
            raise self._unusable(error) from error
        return BuiltEngine(engine, entry.seconds, entry.versions)

    def store(self, key: EngineKey, built: BuiltEngine) -> None:
        """Write an entry; it takes the place of one that is corrupt.

        Raises:
            InvalidRequest: the file system refuses.
        """
        entry = EntryHeader(
            owner=key.owner, fields=dict(key.fields), seconds=built.seconds, versions=dict(built.versions)
        )
        try:
            write_sealed(self._path(key), entry.model_dump_json(by_alias=True).encode(), built.engine)
        except OSError as error:
            raise self._unusable(error) from error

    def find_timings(self, key: EngineKey) -> bytes | Miss:
        """Return what kernels took, for the builder and the GPU of a key; else why it is not known.

        Raises:
            InvalidRequest: the file system refuses.
        """
        path = self._timings_path(key)
        try:
            return read_sealed(path)[1]
        except FileNotFoundError:
            return Miss("nothing was built here for this GPU yet")
        except Broken as broken:
            return Miss(f"{path} is corrupt: {broken}")
        except OSError as error:
            raise self._unusable(error) from error

    def store_timings(self, key: EngineKey, timings: bytes) -> None:
        """Keep what kernels took.

        Raises:
            InvalidRequest: the file system refuses.
        """
        try:
            write_sealed(self._timings_path(key), json.dumps(_timing_fields(key)).encode(), timings)
        except OSError as error:
            raise self._unusable(error) from error

    def _timings_path(self, key: EngineKey) -> Path:
        return self.folder / f"{EngineKey('', _timing_fields(key)).digest}.timings"

    def _path(self, key: EngineKey) -> Path:
        return self.folder / f"{key.digest}.engine"

    def _compare(self, key: EngineKey) -> str:
        """Say what differs from the entry of the same stage that is most like the one asked for."""
        others: list[list[str]] = [
            _differences(entry.fields, key.fields) for entry in self._entries() if entry.owner == key.owner
        ]
        others = [names for names in others if names]  # but for one that was stored a moment ago
        if not others:
            return "there is none of this stage"
        nearest = min(others, key=len)
        return f"the nearest differs in {', '.join(nearest)}"

    def _entries(self) -> Iterator[EntryHeader]:
        """Yield what can be read; an entry that is corrupt, or another user's, is reported when it is asked for."""
        for path in sorted(self.folder.glob("*.engine")):
            try:
                yield _parse(read_header(path), path)
            except (Broken, OSError):
                continue

    def _unusable(self, error: OSError) -> InvalidRequest:
        found = f"cannot be used ({error.strerror or error})"
        return InvalidRequest(f"engine cache {self.folder}", found, "set CASCADERT_CACHE, or build without the cache")


def _timing_fields(key: EngineKey) -> dict[str, str]:
    """Return those fields that decide how long a kernel takes."""
    shared = ("schema", "backend", "version", "compute_capability")
    return {name: value for name, value in key.fields.items() if name in shared or name.startswith("gpu_")}


def _parse(header: bytes, path: Path) -> EntryHeader:
    try:
        entry = EntryHeader.model_validate_json(header)
    except ValidationError as error:
        raise Broken(f"its header is not of schema {CACHE_SCHEMA}") from error
    if EngineKey(entry.owner, entry.fields).digest != path.stem:
        raise Broken("it lies under a name that is not its own")
    return entry


def _differences(found: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """Name the fields that differ; the graph only where it differs alone, since precision and shapes change it too."""
    names = [name for name in (*asked, *(found.keys() - asked.keys())) if found.get(name) != asked.get(name)]
    others = [name for name in names if name != "graph"]
    return [f"{name}: {_brief(found.get(name))} there, {_brief(asked.get(name))} asked" for name in others or names]


def _brief(value: str | None) -> str:
    if value is None:
        return "nothing"
    return f"{value[:12]}…" if len(value) == _DIGEST else value
