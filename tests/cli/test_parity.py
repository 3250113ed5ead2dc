"""The command `parity` with precisions: tables, pages and labels. Without them: see test_commands."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cascadert.cli import app
from cascadert.cli.parity import parse_precisions
from cascadert.errors import InvalidRequest


@pytest.fixture
def call():
    """`call(path, ...)` runs `parity`; `code` is the exit code that it must have."""

    def call(*arguments, code=0, width=80):
        environment = {"COLUMNS": str(width)}
        result = CliRunner().invoke(app, ["parity", *map(str, arguments)], env=environment)
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def streets(tmp_path, toy_frames):
    """Two frames, and labels of theirs."""
    for folder in ("frames", "labels"):
        (tmp_path / folder).mkdir()
    for index, frame in enumerate(toy_frames[:2]):
        Image.fromarray(frame).save(tmp_path / "frames" / f"s{index}.png")
        Image.fromarray(frame[..., 0] // 64).save(tmp_path / "labels" / f"s{index}.png")
    return tmp_path / "frames", tmp_path / "labels"


class TestPrecisions:
    def test_the_table(self, call, toy_bundle):
        result = call(toy_bundle.path, "--precisions", "fp16", "--count", 2, "--threads", 1)
        text = result.stdout
        assert re.findall(r"^ ?(fp32|torch|fp16) .*?(pass)? *$", text, re.MULTILINE) == [
            ("fp32", ""), ("torch", "pass"), ("fp16", "pass"),
        ]  # fmt: skip
        assert re.search(r"^ ?fp32 +100\.00 +exact ", text, re.MULTILINE)
        assert "2 frame(s)" in text
        assert "mIoU" not in text
        assert "…" not in text

    def test_labels_and_the_page(self, call, toy_bundle, streets, tmp_path):
        frames, labels = streets
        page = tmp_path / "parity.html"
        options = ["--frames", frames, "--labels", labels, "--html", page, "--threads", 1]
        result = call(toy_bundle.path, "--precisions", "fp16", *options)
        assert "mIoU" in result.stdout
        assert "…" not in result.stdout
        assert f"wrote {page}" in result.stderr.replace("\n", "")
        content = page.read_text()
        assert f"2 of {frames}, labels of {labels}" in content
        command = f"cascadert parity {toy_bundle.path} --precisions fp16 --count 3 --frames {frames} --labels {labels}"
        assert command in content

    def test_json(self, call, toy_bundle, streets):
        frames, labels = streets
        options = ["--frames", frames, "--labels", labels, "--threads", 1, "--json"]
        report = json.loads(call(toy_bundle.path, "--precisions", "fp16", *options).stdout)
        assert [row["name"] for row in report["rows"]] == ["fp32", "torch", "fp16"]
        assert report["passed"]
        assert report["frames"] == 2
        assert 0 < report["rows"][0]["quality"]["miou"] < 1

    def test_what_shows_nothing_fails(self, call, toy_bundle, tmp_path):
        shutil.copytree(toy_bundle.path, tmp_path / "bundle")
        manifest = tmp_path / "bundle" / "bundle.json"
        data = json.loads(manifest.read_text())
        data["spec"]["stages"][1]["select"]["theta"] = data["stages"][1]["select"]["policy"]["theta"] = 95
        manifest.write_text(json.dumps(data))
        result = call(tmp_path / "bundle", "--precisions", "fp16", "--count", "1", code=1)
        assert "error: parity: is vacuous: stage 'accurate' refined no block; give other" in result.stderr

    def test_a_page_that_cannot_be_written_is_noticed_first(self, call, toy_bundle, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setattr("cascadert.calibration.precision_parity.compare_precisions", pytest.fail)
        options = ["--precisions", "fp16", "--html", tmp_path / "file" / "page.html"]
        error = call(toy_bundle.path, *options, code=5).stderr
        assert f"page.html: cannot be written ({tmp_path / 'file'} is no folder); choose another output" in error

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--html", "x.html"], "--html: compares precisions; pass --precisions"),
            (["--labels", "x"], "--labels: compares precisions; pass --precisions"),
            (["--precisions", "fp16", "--dialect", "tensorrt"], "--dialect: does not go with --precisions"),
            (["--precisions", "fp16", "--labels", "x"], "--labels: needs frames of the same names"),
            (["--precisions", "int8"], "precision 'int8': not every stage .*; run `cascadert calibrate` first, or"),
            (["--precisions", "fp16,half"], "precision 'half': is not known; choose of fp32, fp16"),
        ],
    )
    def test_options_that_mean_nothing(self, call, toy_bundle, options, message):
        assert re.match(f"error: {message}", call(toy_bundle.path, *options, code=2).stderr)


class TestLabels:
    """Labels that do not fit are refused by name."""

    @pytest.fixture
    def refuse(self, call, toy_bundle, streets):
        frames, labels = streets

        def refuse(change, message, code=5):
            change(labels / "s1.png")
            options = ["--precisions", "fp16", "--frames", frames, "--labels", labels, "--threads", 1]
            error = call(toy_bundle.path, *options, code=code).stderr
            assert re.match(rf"error: {re.escape(str(labels))}/s1\.png: {message}", error), error

        return refuse

    def test_none(self, refuse):
        refuse(Path.unlink, "does not exist; every frame needs labels of its name")

    def test_another_size(self, refuse):
        refuse(lambda path: Image.new("L", (56, 41)).save(path), "is 56x41 pixels where its image has 56x40 ")

    def test_colours(self, refuse):
        refuse(lambda path: Image.new("RGB", (56, 40)).save(path), "has pixels of mode RGB; labels are class ids")

    def test_unknown_classes(self, refuse):
        labels = np.full((40, 56), 4, np.uint8)
        refuse(lambda path: Image.fromarray(labels).save(path), "holds label 4 where there are 4 classes")

    def test_no_image(self, refuse):
        refuse(lambda path: path.write_bytes(b"nothing"), "cannot be read as an image")

    def test_a_folder_for_each_camera(self, call, toy_bundle, streets):
        frames, labels = streets
        options = ["--precisions", "fp16", "--frames", frames, "--labels", labels, "--labels", labels]
        assert "--labels: 2 given for 1 camera(s)" in call(toy_bundle.path, *options, code=2).stderr


def test_names_of_precisions():
    every = ("fp32", "fp16", "int8-tensorrt", "int8-cpu")
    assert parse_precisions("int8", every) == ("int8-tensorrt", "int8-cpu")
    assert parse_precisions("int8-cpu, fp16", every) == ("int8-cpu", "fp16")
    assert parse_precisions("int8", ("fp32", "fp16", "int8-cpu")) == ("int8-cpu",)
    with pytest.raises(InvalidRequest, match="precision 'tf32': is arithmetic of GPUs"):
        parse_precisions("fp16,tf32", every)
    with pytest.raises(InvalidRequest, match="precision 'int8-tensorrt': not every stage"):
        parse_precisions("int8-tensorrt", ("fp32", "fp16", "int8-cpu"))
