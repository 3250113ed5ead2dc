"""The kernels that TensorRT-RTX compiles while it runs, kept in a file for the next time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cascadert.errors import InvalidRequest

CacheState = Literal["new", "loaded", "refused"]


class RuntimeCache:
    """A cache of compiled kernels in a file.

    TensorRT-RTX refuses a file from another environment (its version, the driver, the GPU). Then, and where there is no
    file yet, kernels are compiled as they are needed, and `save` writes them anew; `state` tells which it was.

    Args:
        config: the runtime configuration of the context that is to use it.
        path: the file; its folder is made when it is saved.

    Raises:
        InvalidRequest: the file cannot be read.
    """

    def __init__(self, config: Any, path: Path) -> None:
        self._cache, self._path = config.create_runtime_cache(), path
        self.state: CacheState = self._load()
        config.set_runtime_cache(self._cache)

    def _load(self) -> CacheState:
        with _file_errors(self._path, "read"):
            if not self._path.exists():
                return "new"
            blob = self._path.read_bytes()
        return "loaded" if self._cache.deserialize(blob) else "refused"

    def save(self) -> None:
        """Write the file at once or not at all.

        Raises:
            InvalidRequest: the file system refuses.
        """
        blob = self._cache.serialize()
        with _file_errors(self._path, "written"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._path.parent, prefix=f".{self._path.name}.") as scratch:
                fresh = Path(scratch) / "fresh"
                fresh.write_bytes(blob)
                os.replace(fresh, self._path)


@contextmanager
def _file_errors(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"cannot be {verb} ({error.strerror or error})"
        raise InvalidRequest(f"runtime cache {path}", found, "choose another folder, or leave it out") from error
