"""One file of a JSON header and bytes: written whole or not at all, and never read where a single bit differs.

The first line is `cascadert-sealed-1 HEADER_BYTES CONTENT_BYTES HEADER_SHA256 CONTENT_SHA256`; the header and the
content follow, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

_SEAL = re.compile(rb"cascadert-sealed-1 (\d{1,7}) (\d{1,12}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")
_LONGEST_SEAL = 256
_LEFTOVER_S = 24 * 3600.0
PARTIAL = ".partial"


class Broken(Exception):
    """A file that is truncated, changed, or no sealed file; the text says which."""


def write_sealed(path: Path, header: bytes, content: bytes) -> None:
    """Write a file so that readers see all of it or none, whenever this process or the machine stops.

    Raises:
        OSError: the file system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    seal = f"cascadert-sealed-1 {len(header)} {len(content)} {_sha256(header)} {_sha256(content)}\n".encode()
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines((seal, header, content))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_header(path: Path) -> bytes:
    """Read and verify the header alone.

    Raises:
        Broken: see there.
        OSError: the file system refuses.
    """
    with path.open("rb") as file:
        return _read_start(file)[0]


def read_sealed(path: Path) -> tuple[bytes, bytes]:
    """Read and verify header and content.

    Raises:
        Broken: see there.
        OSError: the file system refuses.
    """
    with path.open("rb") as file:
        header, digest = _read_start(file)
        content = file.read()
    if _sha256(content) != digest:
        raise Broken(f"content was changed: sha256 {_sha256(content)[:12]}…, not {digest[:12]}…")
    return header, content


def _read_start(file: BinaryIO) -> tuple[bytes, str]:
    """Return the header and the digest of the content."""
    file_bytes = os.fstat(file.fileno()).st_size  # of this file, whatever has taken its name since
    seal = _SEAL.fullmatch(file.readline(_LONGEST_SEAL))
    if seal is None:
        raise Broken("is no file of this kind, or its first line was changed")
    header_bytes, content_bytes = int(seal[1]), int(seal[2])
    whole = seal.end() + header_bytes + content_bytes
    if file_bytes != whole:
        raise Broken(f"has {file_bytes} bytes, not {whole}")
    header = file.read(header_bytes)
    if _sha256(header) != seal[3].decode():
        raise Broken("header was changed: its sha256 differs")
    return header, seal[4].decode()


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes left behind that were killed while they wrote; nobody writes for a day."""
    for path in folder.glob(f".*{PARTIAL}"):
        try:
            if time.time() - path.stat().st_mtime > _LEFTOVER_S:
                path.unlink()
        except FileNotFoundError:  # another process was faster
            continue


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
