"""Kits: one file that makes engines where neither torch nor onnx is, and that nobody has changed."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascadert.bundle import Bundle
from cascadert.engines.kit import Kit, is_kit, read_kit, write_kit
from cascadert.engines.options import BuildOptions
from cascadert.engines.plan import make_plan
from cascadert.engines.profiles import load_target
from cascadert.errors import BundleError, InvalidRequest

Files = dict[str, bytes]


@pytest.fixture(scope="session")
def orin_kit(calibrated: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """The calibrated toy for an Orin Nano, int8 before fp16."""
    options = BuildOptions(precision={"fast": "int8", "accurate": "fp16"}, tensorrt="10.3.0", typical_blocks=3)
    plan = make_plan(calibrated, load_target("orin-nano-8gb"), options)
    return write_kit(tmp_path_factory.mktemp("kits") / "toy.kit", plan, calibrated.calibrations)


@pytest.fixture(scope="session")
def files(orin_kit: Kit) -> Files:
    with zipfile.ZipFile(orin_kit.path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def copy(orin_kit: Kit, tmp_path: Path) -> Path:
    """A kit of the test's own."""
    path = tmp_path / "copy.kit"
    path.write_bytes(orin_kit.path.read_bytes())
    return path


def pack(path: Path, files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def forge(files: Files) -> list[tuple[str, bytes]]:
    """Return files with the sums that belong to them, as somebody who knows the format would."""
    others = {name: content for name, content in files.items() if name != "SHA256SUMS"}
    sums = "".join(f"{hashlib.sha256(others[name]).hexdigest()}  {name}\n" for name in sorted(others))
    return [*others.items(), ("SHA256SUMS", sums.encode())]


def changed(files: Files, change: Callable[[dict], None]) -> list[tuple[str, bytes]]:  # type: ignore[type-arg]
    """Return files with another manifest, forged."""
    manifest = json.loads(files["kit.json"])
    change(manifest)
    return forge({**files, "kit.json": json.dumps(manifest).encode()})


class TestWhole:
    def test_what_is_written_is_read(self, orin_kit: Kit) -> None:
        found = read_kit(orin_kit.path)
        assert found == orin_kit
        assert found.plan.stages["accurate"].graph.onnx == orin_kit.plan.stages["accurate"].graph.onnx
        assert found.plan.stages["accurate"].shapes == {"indices": ((1,), (3,), (8,))}

    @pytest.mark.parametrize(
        ("target", "precision", "version", "flags"),
        [
            ("orin-nano-8gb", "fp16", "10.3.0", ()),
            ("orin-nano-8gb", "int8", "8.5.2", ("INT8", "FP16")),
            ("gtx-1080-ti", "int8", "8.6.1", ("INT8",)),
            ("gtx-1080-ti", "fp32", None, ()),
        ],
    )
    def test_contents(
        self, calibrated: Bundle, tmp_path: Path, target: str, precision: str, version: str | None, flags: object
    ) -> None:
        plan = make_plan(calibrated, load_target(target), BuildOptions(precision=precision, tensorrt=version))
        write_kit(tmp_path / "toy.kit", plan, calibrated.calibrations)
        with zipfile.ZipFile(tmp_path / "toy.kit") as archive:
            assert archive.testzip() is None
            assert archive.namelist() == [
                "kit.json",
                "graphs/fast.onnx",
                "graphs/accurate.onnx",
                "calibration/fast.json",
                "calibration/accurate.json",
                "SHA256SUMS",
            ]
        manifest = read_kit(tmp_path / "toy.kit").manifest
        assert (manifest.target, manifest.backend) == (load_target(target), plan.facts)
        assert {stage.precision for stage in manifest.stages} == {precision}
        assert manifest.stages[0].settings.flags == flags
        assert bool(manifest.stages[0].settings.float32_nodes) == ("FP16" in flags)

    def test_policies_are_those_of_the_precision(self, orin_kit: Kit) -> None:
        select = orin_kit.manifest.bundle.stages[1].select
        assert select is not None
        assert (select.policy.model_dump(), select.thetas) == ({"policy": "threshold", "theta": 0.6}, {})

    def test_equal_plans_make_equal_files(self, orin_kit: Kit, calibrated: Bundle, tmp_path: Path) -> None:
        write_kit(tmp_path / "other.kit", orin_kit.plan, calibrated.calibrations)
        assert (tmp_path / "other.kit").read_bytes() == orin_kit.path.read_bytes()

    def test_a_bundle_without_calibration_makes_one_without(self, bundle: Bundle, tmp_path: Path) -> None:
        plan = make_plan(bundle, load_target("gtx-1080-ti"))
        write_kit(tmp_path / "plain.kit", plan, bundle.calibrations)
        assert [part.path for part in read_kit(tmp_path / "plain.kit").manifest.parts()] == [
            "graphs/fast.onnx",
            "graphs/accurate.onnx",
        ]

    def test_other_programs_can_check_it(self, files: Files, tmp_path: Path) -> None:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.count(": OK") == len(files) - 1

    def test_an_older_one_is_replaced_only_on_request(self, orin_kit: Kit, calibrated: Bundle, copy: Path) -> None:
        with pytest.raises(InvalidRequest, match=r"copy\.kit: exists already; choose another output, or pass --force"):
            write_kit(copy, orin_kit.plan, calibrated.calibrations)
        write_kit(copy, orin_kit.plan, calibrated.calibrations, replace=True)
        (copy.parent / "folder.kit").mkdir()
        with pytest.raises(InvalidRequest, match="is a folder; choose another output"):
            write_kit(copy.parent / "folder.kit", orin_kit.plan, calibrated.calibrations, replace=True)
        assert (is_kit(copy), is_kit(copy.parent), is_kit(copy.parent / "folder.kit")) == (True, False, False)


class TestTampered:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_flipped_bit_changes_nothing_or_is_refused(self, orin_kit: Kit, copy: Path, data: st.DataObject) -> None:
        """What zip says besides names and contents (times, rights) decides nothing."""
        whole = bytearray(orin_kit.path.read_bytes())
        # As often in the manifest and in the directory at the end as in the graphs.
        start = data.draw(st.sampled_from([0, len(whole) // 2, len(whole) - 600]))
        place = data.draw(st.integers(start, min(len(whole) - 1, start + 600)))
        whole[place] ^= 1 << data.draw(st.integers(0, 7))
        copy.write_bytes(whole)
        try:
            found = read_kit(copy)
        except BundleError:
            return
        assert replace(found, path=orin_kit.path) == orin_kit

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_truncated_one_is_refused(self, orin_kit: Kit, copy: Path, data: st.DataObject) -> None:
        whole = orin_kit.path.read_bytes()
        copy.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(BundleError, match=r"copy\.kit: is truncated, changed, or no kit"):
            read_kit(copy)

    @pytest.mark.parametrize("part", ["graphs/fast.onnx", "graphs/accurate.onnx", "calibration/fast.json"])
    def test_a_changed_part_is_named(self, files: Files, copy: Path, part: str) -> None:
        content = bytearray(files[part])
        content[len(content) // 2] ^= 1
        pack(copy, forge({**files, part: bytes(content)}))
        with pytest.raises(
            BundleError, match=rf"copy\.kit: {part}: was changed: its sha256 differs; copy the kit anew"
        ):
            read_kit(copy)
        pack(copy, forge({**files, part: files[part] + b"\n"}))
        with pytest.raises(BundleError, match=rf"{part}: has {len(content) + 1} bytes, not {len(content)};"):
            read_kit(copy)

    def test_a_changed_manifest_is_refused(self, files: Files, copy: Path) -> None:
        edited = files["kit.json"].replace(b'"theta": 0.6', b'"theta": 9.9')
        assert edited != files["kit.json"]
        pack(copy, list({**files, "kit.json": edited}.items()))
        with pytest.raises(BundleError, match=r"copy\.kit: kit\.json: is not what SHA256SUMS says; copy the kit anew$"):
            read_kit(copy)

    @pytest.mark.parametrize("name", ["kit.json", "SHA256SUMS", "graphs/fast.onnx", "calibration/accurate.json"])
    def test_a_missing_file_is_refused(self, files: Files, copy: Path, name: str) -> None:
        pack(copy, [item for item in files.items() if item[0] != name])
        with pytest.raises(BundleError, match=r"is missing; copy|holds no kit\.json or no SHA256SUMS"):
            read_kit(copy)

    @pytest.mark.parametrize(
        "name", ["more.txt", "../evil", "/etc/evil", "graphs/../../evil", "graphs\\evil", "graphs/", "kit.json/x"]
    )
    def test_a_file_that_does_not_belong_is_refused(self, files: Files, copy: Path, name: str) -> None:
        pack(copy, forge({**files, name: b"x"}))
        with pytest.raises(BundleError, match=r"copy\.kit: .*: is no part of a kit; do not use this kit$"):
            read_kit(copy)
        assert not list(copy.parent.parent.glob("**/evil*"))

    @pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "graphs/../../evil", "graphs/accurate.onnx"])
    def test_a_manifest_that_names_other_places_is_refused(self, files: Files, copy: Path, path: str) -> None:
        def elsewhere(manifest) -> None:  # type: ignore[no-untyped-def]
            manifest["stages"][0]["graph"]["path"] = path

        pack(copy, [*changed(files, elsewhere), *([] if path in files else [(path, files["graphs/fast.onnx"])])])
        with pytest.raises(BundleError, match=r"kit\.json: stages\.0: stage 'fast' has parts of other names than its"):
            read_kit(copy)

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize("name", ["kit.json", "graphs/fast.onnx"])
    def test_a_name_that_is_there_twice_is_refused(self, files: Files, copy: Path, name: str) -> None:
        pack(copy, [*files.items(), (name, files[name])])
        with pytest.raises(BundleError, match=rf"holds '{name}' twice, or too many files; do not use this kit$"):
            read_kit(copy)

    def test_a_bomb_is_refused_before_it_is_opened(self, files: Files, copy: Path) -> None:
        bomb = bytes(64 * 2**20)
        pack(copy, forge({**files, "graphs/fast.onnx": bomb}), zipfile.ZIP_DEFLATED)
        assert copy.stat().st_size < len(bomb) // 100
        with pytest.raises(BundleError, match="holds compressed or encrypted files; do not use this kit"):
            read_kit(copy)

    def test_files_that_overlap_are_refused(self, files: Files, copy: Path) -> None:
        """Many names of one large file: each is as large as it says, together they are larger than the archive."""
        pack(copy, [*files.items(), ("more", bytes(2**20))])
        with zipfile.ZipFile(copy, "a") as archive:
            info = archive.getinfo("more")
            for i in range(100):
                twin = zipfile.ZipInfo(f"twin{i}")
                for name in ("header_offset", "CRC", "compress_size", "file_size"):
                    setattr(twin, name, getattr(info, name))
                archive.filelist.append(twin)
            archive.start_dir = archive.fp.tell() if archive.fp else 0
            archive._didModify = True  # type: ignore[attr-defined]
        with pytest.raises(BundleError, match="holds files that are larger than itself; do not use this kit"):
            read_kit(copy)

    def test_too_many_files_are_refused(self, files: Files, copy: Path) -> None:
        pack(copy, [*files.items(), *((str(i), b"") for i in range(300))])
        with pytest.raises(BundleError, match="too many files"):
            read_kit(copy)

    def test_a_manifest_of_another_schema_or_without_sense_is_refused(self, files: Files, copy: Path) -> None:
        def newer(manifest) -> None:  # type: ignore[no-untyped-def]
            manifest["schema"] = "cascadert-kit-2"

        def more(manifest) -> None:  # type: ignore[no-untyped-def]
            manifest["stages"][0]["settings"]["magic"] = 1

        def fewer(manifest) -> None:  # type: ignore[no-untyped-def]
            manifest["stages"].pop()

        for change, message in (
            (newer, r"kit\.json: has schema 'cascadert-kit-2'; this version reads 'cascadert-kit-1'"),
            (more, r"kit\.json: stages\.0\.settings\.magic: Extra inputs are not permitted"),
            (fewer, r"kit\.json: the stages are \['fast'\] where the bundle has \['fast', 'accurate'\]"),
        ):
            pack(copy, changed(files, change))
            with pytest.raises(BundleError, match=message):
                read_kit(copy)
        pack(copy, forge({**files, "kit.json": b"[" * 100_000}))
        with pytest.raises(BundleError, match=r"kit\.json: is not valid JSON"):
            read_kit(copy)
        pack(copy, forge({**files, "kit.json": b" " * (5 * 2**20)}))
        with pytest.raises(BundleError, match=r"kit\.json: has more than 4194304 bytes"):
            read_kit(copy)

    def test_what_is_no_kit_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"none\.kit: there is no such file; give a kit written by cascadert"):
            read_kit(tmp_path / "none.kit")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w"):
            pass
        (tmp_path / "empty.kit").write_bytes(buffer.getvalue())
        with pytest.raises(BundleError, match=r"empty\.kit: holds no kit\.json"):
            read_kit(tmp_path / "empty.kit")
        with pytest.raises(BundleError, match="cannot be read"):
            read_kit(tmp_path)
