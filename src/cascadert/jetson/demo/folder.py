"""The folder of a demo: what is in it was made by a demo, or is left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from cascadert.errors import InvalidRequest
from cascadert.jetson.sinks import write_atomically

DEMO_SCHEMA = "cascadert-demo-1"
DEMO_FILE = "demo.json"


class DemoFolder:
    """A ledger of what a demo made, so that the next one replaces that and nothing else.

    A name is claimed before anything is written there: a demo that was interrupted can be repeated like any other.

    Raises:
        InvalidRequest: the path is a file, a folder with other content, or one whose ledger is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[str] = []
        if path.exists() and not path.is_dir():
            raise InvalidRequest(str(path), "is a file", "give the name of a folder")
        if path.is_dir() and any(path.iterdir()):
            for name in _read_ledger(path):
                _remove(path, name)
        path.mkdir(parents=True, exist_ok=True)
        self._write({})

    def claim(self, name: str) -> Path:
        """Return the path of a file or folder that is about to be made.

        Raises:
            InvalidRequest: it is there, and no demo made it.
        """
        path = self.path / name
        if path.exists():
            raise InvalidRequest(str(path), "was not made by a demo", "move it away, or choose another output")
        self._made.append(name)
        self._write({})
        return path

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the ledger with the results of the demo beside it."""
        self._write({"summary": summary})

    def _write(self, more: dict[str, Any]) -> None:
        text = json.dumps({"schema": DEMO_SCHEMA, "made": self._made, **more}, indent=1) + "\n"
        write_atomically(self.path / DEMO_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def _read_ledger(folder: Path) -> list[str]:
    file = folder / DEMO_FILE
    if not file.is_file():
        raise InvalidRequest(str(folder), "holds files that no demo made", "choose another output")
    try:
        ledger = json.loads(file.read_text(encoding="utf-8"))
        names = [str(name) for name in ledger["made"]] if ledger["schema"] == DEMO_SCHEMA else None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(str(file), f"cannot be read: {error}", "remove it, or choose another output") from error
    if names is None:
        raise InvalidRequest(str(file), f"has schema {ledger['schema']!r}", "remove it, or choose another output")
    return names


def _remove(folder: Path, name: str) -> None:
    relative = PurePosixPath(name)
    path = folder / relative
    if relative.is_absolute() or ".." in relative.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(f"{folder / DEMO_FILE}: {name}", "lies outside the folder", "choose another output")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
