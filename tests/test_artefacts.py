"""Folders on disk: written at once or not at all, read strictly."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from cascadert import artefacts
from cascadert.artefacts import (
    MAX_MANIFEST_BYTES,
    Manifest,
    Part,
    check_output,
    make_part,
    read_manifest,
    read_part,
    write_folder,
)
from cascadert.errors import BundleError, InvalidRequest

CONTENT = {"thing.json": b"{}", "parts/a.bin": b"aaaa", "parts/deep/b.bin": b"\x00\x01"}


class Thing(Manifest):
    schema_: Annotated[Literal["thing-1"], Field(alias="schema")]
    part: Part


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "out" / "thing", CONTENT)
    return tmp_path / "out" / "thing"


def test_what_is_written_is_there_and_nothing_else(folder: Path) -> None:
    assert contents(folder) == CONTENT
    assert list(folder.parent.iterdir()) == [folder]


def test_an_output_that_exists_is_refused_unless_forced(folder: Path) -> None:
    refusal = rf"^{re.escape(str(folder))}: exists already; choose another output, or pass --force to replace it$"
    with pytest.raises(InvalidRequest, match=refusal):
        write_folder(folder, {"thing.json": b"new"})
    assert contents(folder) == CONTENT
    write_folder(folder, {"thing.json": b"new"}, replace=True)
    assert contents(folder) == {"thing.json": b"new"}
    assert list(folder.parent.iterdir()) == [folder]


def test_force_replaces_only_artefacts_of_the_same_kind(tmp_path: Path) -> None:
    file = tmp_path / "thesis.tex"
    file.write_text("years of work")
    project = tmp_path / "project"
    project.mkdir()
    (project / "package.json").write_text("{}")
    for path in (file, project):
        with pytest.raises(InvalidRequest, match=rf"^{path}: is not an artefact of this kind; choose another output$"):
            write_folder(path, CONTENT, replace=True)
    assert (file.read_text(), contents(project)) == ("years of work", {"package.json": b"{}"})
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "empty", CONTENT, replace=True)
    assert contents(tmp_path / "empty") == CONTENT


@pytest.mark.parametrize("failing_call", [1, 2])
def test_a_swap_that_fails_leaves_the_old_one_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    calls, replace = [], os.replace

    def fail(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing_call:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(artefacts.os, "replace", fail)
    with pytest.raises(
        BundleError, match=r": cannot be written \(No space left on device\); choose another output, or"
    ):
        write_folder(folder, {"thing.json": b"new"}, replace=True)
    assert len(calls) >= failing_call
    assert contents(folder) == CONTENT
    assert list(folder.parent.iterdir()) == [folder]


def test_a_write_that_fails_leaves_the_old_one_whole_and_no_litter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def fail(self: Path, data: bytes) -> int:
        if self.name == "b.bin":
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    for target in (folder, folder.with_name("other")):
        with pytest.raises(BundleError, match="cannot be written"):
            write_folder(target, CONTENT, replace=True)
    assert contents(folder) == CONTENT
    assert list(folder.parent.iterdir()) == [folder]


def test_an_interrupt_while_writing_is_not_swallowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Path, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, CONTENT, replace=True)
    monkeypatch.undo()
    assert contents(folder) == CONTENT


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"file/thing: cannot be written \(.+\); choose another output"):
        write_folder(tmp_path / "file" / "thing", CONTENT)


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes no files, for root too."""
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    access = os.access
    monkeypatch.setattr(artefacts.os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    return folder


def test_what_cannot_be_written_is_noticed_before_the_work(read_only: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (read_only / "thing", f"no permission to write to {read_only}"),
        (read_only / "new" / "thing", f"no permission to write to {read_only}"),
        (tmp_path / "file" / "thing", f"{tmp_path / 'file'} is no folder"),
    ):
        with pytest.raises(BundleError) as caught:
            check_output(path, ["thing.json"])
        assert str(caught.value) == f"{path}: cannot be written ({reason}); choose another output, or mend the cause"
    before = sorted(tmp_path.rglob("*"))
    check_output(tmp_path / "new" / "deeper" / "thing", ["thing.json"])
    assert sorted(tmp_path.rglob("*")) == before, "a check creates nothing"


def test_a_path_below_the_present_folder_can_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(Path("thing"), ["thing.json"])
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"^file/thing: cannot be written"):
        check_output(Path("file/thing"), ["thing.json"])


def manifest(**changes: Any) -> str:
    part = {"path": "a.bin", "sha256": "0" * 64, "bytes": 4}
    return json.dumps({"schema": "thing-1", "created_by": "test", "part": part, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r": is not valid JSON: .*line 1 column 1 .*; write it anew$"),
        (manifest()[:-3], r": is not valid JSON: .*; write it anew$"),
        ("[" * 100_000, r": is not valid JSON: .*; write it anew$"),
        ("\udcff", r": is not valid JSON: .*decode.*; write it anew$"),
        ("[]", r": has schema None; this version reads 'thing-1': write it anew$"),
        ("{}", r": has schema None; this version reads 'thing-1': write it anew$"),
        (manifest(schema="thing-2"), r": has schema 'thing-2'; this version reads 'thing-1': write it anew$"),
        (manifest(schema=["thing-1"]), r": has schema \['thing-1'\]; this version reads 'thing-1'"),
        (manifest(surplus=1), r": surplus: Extra inputs are not permitted; write it anew$"),
        (manifest(created_by=3), r": created_by: Input should be a valid string; write it anew$"),
        (manifest(part={"path": "a", "sha256": "xyz", "bytes": 1}), r": part\.sha256: String should match pattern"),
        (manifest(part={"path": "a", "sha256": "0" * 64, "bytes": -1}), r": part\.bytes: .*greater than or equal to 0"),
        (manifest(part={"path": "a\0b", "sha256": "0" * 64, "bytes": 1}), r": part\.path: String should match pattern"),
        (manifest(part={"path": "a"}), r": part\.sha256: Field required; write it anew$"),
        (
            " " * (MAX_MANIFEST_BYTES + 1),
            rf": has {MAX_MANIFEST_BYTES + 1} bytes where {MAX_MANIFEST_BYTES} are the limit",
        ),
    ],
)
def test_broken_manifests_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "thing.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BundleError, match="^" + re.escape(str(path)) + message) as caught:
        read_manifest(tmp_path, "thing.json", "thing-1", Thing)
    assert "\n" not in str(caught.value)


def test_a_good_manifest_is_read(tmp_path: Path) -> None:
    (tmp_path / "thing.json").write_text(manifest())
    thing = read_manifest(tmp_path, "thing.json", "thing-1", Thing)
    assert (thing.schema_, thing.part.path) == ("thing-1", "a.bin")
    assert json.loads(thing.to_json()) == json.loads(manifest())


def test_a_missing_folder_or_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none: there is no such folder; give a folder written by cascadert$"):
        read_manifest(tmp_path / "none", "thing.json", "thing-1", Thing)
    with pytest.raises(BundleError, match=rf"^{tmp_path}: holds no thing\.json; give a folder written by cascadert$"):
        read_manifest(tmp_path, "thing.json", "thing-1", Thing)


def test_parts_are_read_whole(folder: Path) -> None:
    assert read_part(folder, make_part("parts/a.bin", b"aaaa")) == b"aaaa"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (make_part("parts/c.bin", b"aaaa"), r"thing/parts/c\.bin: is missing; write the artefact anew$"),
        (make_part("parts", b"aaaa"), r"thing/parts: is missing; write"),
        (make_part("parts/a.bin", b"aaa"), r"thing/parts/a\.bin: has 4 bytes, not 3; write the artefact anew$"),
        (
            make_part("parts/a.bin", b"aaab"),
            r"thing/parts/a\.bin: was changed: sha256 61be55a8e2f6…, not [0-9a-f]{12}…; write",
        ),
        (make_part("../secret", b"key"), r"thing: \.\./secret: lies outside the folder; do not use this artefact$"),
        (make_part("parts/../../secret", b"key"), r"lies outside the folder"),
        (make_part("parts/../parts/a.bin", b"aaaa"), r"lies outside the folder"),
        (make_part("/etc/hostname", b"key"), r"/etc/hostname: lies outside the folder"),
        (make_part("parts/link", b"key"), r"parts/link: lies outside the folder"),
        (make_part("linked/secret", b"key"), r"linked/secret: lies outside the folder"),
    ],
)
def test_parts_that_are_not_what_they_should_be_are_refused(folder: Path, part: Part, message: str) -> None:
    (folder.parent / "secret").write_bytes(b"key")
    (folder / "parts" / "link").symlink_to(folder.parent / "secret")
    (folder / "linked").symlink_to(folder.parent)
    with pytest.raises(BundleError, match=message):
        read_part(folder, part)


def test_a_folder_reached_through_a_link_is_fine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    assert read_part(tmp_path / "latest", make_part("parts/a.bin", b"aaaa")) == b"aaaa"
