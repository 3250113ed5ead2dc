"""`build-engine`, and `inspect` of a kit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cascadert.bundle import Bundle
from cascadert.cli import app
from cascadert.cli.build import doubts
from cascadert.cli.stages import by_stage, parse_precision
from cascadert.errors import InvalidRequest

Call = Callable[..., Any]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """`call(path, ...)` runs `build-engine`; `code` is the exit code that it must have."""
    monkeypatch.setenv("CASCADERT_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object, code: int = 0, command: str = "build-engine") -> Any:
        result = CliRunner().invoke(app, [command, *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def kit(call: Call, toy_bundle: Bundle, tmp_path: Path) -> Path:
    """A kit for a GTX 1080 Ti, which is not this machine's GPU."""
    call(toy_bundle.path, "--target", "gtx-1080-ti", "-o", tmp_path / "kits", "--max-blocks", 6)
    return tmp_path / "kits" / "toy-gtx-1080-ti.kit"


class TestEngines:
    def test_say_whether_they_come_from_the_cache(self, call: Call, toy_bundle: Bundle, tmp_path: Path) -> None:
        pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
        first = call(toy_bundle.path, "--target", "rtx-40", "-o", tmp_path / "first")
        assert "fast: not in the cache: there is none of this stage" in first.stderr
        assert "earlier" not in first.stdout
        second = call(toy_bundle.path, "--target", "rtx-40", "-o", tmp_path / "second")
        assert [line for line in second.stderr.splitlines() if line] == [
            "fast: from the cache",
            "accurate: from the cache",
        ]
        assert second.stdout.count("earlier") == 2
        other = call(
            toy_bundle.path, "--target", "rtx-40", "-o", tmp_path / "x", "--precision", "fast=fp32,accurate=tf32"
        )
        assert "accurate: not in the cache: the nearest differs in precision: fp32 there, tf32 asked" in other.stderr
        assert "tensorrt-rtx, compute capability 8.9, fast=fp32, accurate=tf32" in other.stdout
        fresh = call(toy_bundle.path, "--target", "rtx-40", "-o", tmp_path / "y", "--no-cache", "--json")
        assert "cache" not in fresh.stderr
        engines = json.loads(fresh.stdout)["manifest"]["engines"]
        assert [entry["from_cache"] for entry in engines] == [False, False]

    def test_help_says_where_the_cache_is(self, call: Call) -> None:
        text = call("--help").stdout
        assert "$CASCADERT_CACHE" in text
        assert "~/.cache/cascadert/engines" in text

    def test_a_bundle_needs_a_target(self, call: Call, toy_bundle: Bundle, tmp_path: Path) -> None:
        message = call(toy_bundle.path, "-o", tmp_path / "out", code=2).stderr
        assert "target: is missing: a bundle is built for one; choose one of cascadert targets, or 'auto'" in message

    def test_a_refused_target_says_why(self, call: Call, toy_bundle: Bundle, tmp_path: Path) -> None:
        message = call(toy_bundle.path, "--target", "nano", "-o", tmp_path / "out", code=2).stderr
        assert message.startswith("error: target 'nano': is refused: ")
        assert not (tmp_path / "out").exists()


class TestKit:
    def test_is_written_where_engines_cannot_be_built(self, call: Call, kit: Path, toy_bundle: Bundle) -> None:
        text = call(toy_bundle.path, "--target", "gtx-1080-ti", "-o", kit.parent, "--force").stdout
        assert f"kit {kit}" in text
        assert "of toy for gtx-1080-ti: tensorrt >=8.5,<8.7, fp32; refines 1 to 15 blocks, tuned for 4" in text
        assert re.search(r"graphs/accurate\.onnx +[\d,]+ +[0-9a-f]{16}…", text)
        assert text.rstrip().endswith("cascadert build-engine toy-gtx-1080-ti.kit -o toy-gtx-1080-ti")

    def test_is_inspected(self, call: Call, kit: Path) -> None:
        assert "refines 1 to 6 blocks, tuned for 4" in call(kit, command="inspect").stdout
        shown = json.loads(call(kit, "--json", command="inspect").stdout)
        assert shown["kind"] == "kit"
        assert [stage["stage"] for stage in shown["manifest"]["stages"]] == ["fast", "accurate"]

    def test_is_checked_when_it_is_inspected(self, call: Call, kit: Path) -> None:
        content = bytearray(kit.read_bytes())
        content[len(content) // 2] ^= 1
        kit.write_bytes(content)
        assert str(kit) in call(kit, command="inspect", code=4).stderr

    def test_says_what_is_missing_here(self, call: Call, kit: Path, tmp_path: Path) -> None:
        message = call(kit, "-o", tmp_path / "out", code=8).stderr
        assert "to build engines of tensorrt: the Python module 'tensorrt' is not installed" in message


@pytest.mark.parametrize(
    ("text", "found"),
    [("fast=int8", {"fast": "int8"}), (" fast = int8 , accurate=fp16", {"fast": "int8", "accurate": "fp16"})],
)
def test_values_by_stage(text: str, found: dict[str, str]) -> None:
    assert by_stage("--precision", text) == found


@pytest.mark.parametrize("text", ["fast", "fast=", "=int8", "fast=int8,", "fast=int8,fast=fp16"])
def test_values_by_stage_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^--dla {text}: (has '.*'; write STAGE=VALUE|names stage 'fast' twice)"):
        by_stage("--dla", text)


def test_precisions_of_all_stages_or_of_each() -> None:
    assert parse_precision(None) is None
    assert parse_precision("fp16") == "fp16"
    assert parse_precision("fast=int8,accurate=fp16") == {"fast": "int8", "accurate": "fp16"}


def test_what_is_built_but_may_gain_nothing_is_said() -> None:
    (doubt,) = doubts("rtx-40", {"fp16", "int8"})
    assert doubt.startswith("int8 on rtx-40: TensorRT-RTX 1.7.1 convolves int8 but writes sums as float32")
    assert doubt.endswith("; build fp16, too, and compare")
    assert doubts("rtx-40", {"fp32", "tf32", "fp16"}) == doubts("cpu", {"int8"}) == []
