"""The command `evaluate`: tables, page, pictures, and what it refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cascadert.cli import app
from cascadert.cli.evaluate import parse_pixels, parse_stages
from cascadert.errors import InvalidRequest
from cascadert.export.compile import export_bundle


@pytest.fixture
def call():
    """`call(path, ...)` runs `evaluate`; `code` is the exit code that it must have."""

    def call(*arguments, code=0):
        words = ["evaluate", *map(str, arguments), "--threads", "1"]
        result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def streets(tmp_path, toy_frames):
    """Four frames and their labels, as options."""
    for folder in ("frames", "labels"):
        (tmp_path / folder).mkdir()
    for index, frame in enumerate(toy_frames[:4]):
        Image.fromarray(frame).save(tmp_path / "frames" / f"s{index}.png")
        Image.fromarray(frame[..., 0] // 64).save(tmp_path / "labels" / f"s{index}.png")
    return ["--images", tmp_path / "frames", "--labels", tmp_path / "labels"]


@pytest.fixture(scope="module")
def unsure_bundle(toy_folder, save_spec, tmp_path_factory):
    """The toy cascade whose first stage emits entropy."""
    stage = {"model": "networks.py:toy"}
    emit = ["labels", "scores", "order", "entropy"]
    data = {
        "name": "unsure",
        "classes": {"names": ["a", "b", "c", "d"], "palette": [[0, 0, 0], [90, 0, 0], [0, 90, 0], [0, 0, 90]]},
        "frame": {"height": 40, "width": 56},
        "grid": {"block": 8},
        "stages": [
            {"name": "fast", **stage, "args": {"stride": 4}, "weights": "fast.safetensors", "emit": emit},
            {"name": "accurate", **stage, "weights": "accurate.safetensors", "select": {"policy": "top-k", "k": 3}},
        ],
    }
    return export_bundle(save_spec(toy_folder, data), tmp_path_factory.mktemp("bundles") / "unsure")


def test_tables(call, toy_bundle, streets):
    text = call(toy_bundle.path, *streets, "--blocks", "8,40").stdout
    names = ["fast", "accurate", "random blocks", "cascade", "block oracle, 16x16 every 12x12", "block oracle, 8x8"]
    for name in (*names, "block oracle, 40x40", "pixel oracle"):
        assert re.search(rf"^ *{name} +\d+\.\d\d +\d+\.\d\d", text, re.MULTILINE), name
    assert "4 frame(s), 8,960 labelled pixels; oracles choose between fast and accurate" in text
    assert re.search(r"^ *a +\d", text, re.MULTILINE)
    assert "PAvPU" not in text
    assert "…" not in text


def test_json_and_count(call, toy_bundle, streets):
    report = json.loads(call(toy_bundle.path, *streets, "--count", 2, "--json", "--stages", "accurate,fast").stdout)
    assert (report["frames"], report["faster"], report["better"]) == (2, "accurate", "fast")
    assert [row["kind"] for row in report["rows"]] == ["stage", "stage", "cascade", "block oracle", "pixel oracle"]
    assert report["uncertainty"] is None


def test_page_and_pictures(call, toy_bundle, streets, tmp_path):
    page, pictures = tmp_path / "out" / "page.html", tmp_path / "pictures"
    result = call(toy_bundle.path, *streets, "--html", page, "--pictures", pictures, "--blocks", "8")
    assert f"wrote {page}" in result.stderr.replace("\n", "")
    assert sorted(path.name for path in pictures.iterdir()) == ["s0.png", "s1.png", "s2.png", "s3.png"]
    content = page.read_text()
    assert content.count("data:image/jpeg") == 3
    command = f"cascadert evaluate {toy_bundle.path} {' '.join(map(str, streets))} --blocks 8 --html {page}"
    assert command in content
    assert "undefined" not in content.lower()
    again = call(toy_bundle.path, *streets, "--pictures", pictures, code=2).stderr
    assert "is not empty; choose another folder, or pass --force" in again
    call(toy_bundle.path, *streets, "--pictures", pictures, "--force", "--count", 1)


def test_uncertainty(call, unsure_bundle, streets, tmp_path):
    options = ["--uncertainty", "fast", "--windows", "2,4", "--train-images", streets[1], "--html", tmp_path / "p.html"]
    text = call(unsure_bundle.path, *streets, *options).stdout
    mean = re.search(r"certain below (\d\.\d{4}) bits; mean over all pixels: entropy (\d\.\d{4}) bits", text)
    assert mean
    assert mean[1] == mean[2]  # the same frames
    assert re.search(r"^ *2 x 2 +\d+\.\d\d( +[\d,]+){4}", text, re.MULTILINE)
    assert "add up" not in text  # no ensemble
    content = (tmp_path / "p.html").read_text()
    assert "Uncertainty of fast" in content
    assert f"--train-images {streets[1]}" in content
    report = json.loads(
        call(unsure_bundle.path, *streets, "--uncertainty", "fast", "--certain-below", 0.5, "--json").stdout
    )
    assert report["uncertainty"]["threshold"] == 0.5
    assert [row["window"] for row in report["uncertainty"]["pavpu"]] == [4]


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--stages", "fast"], "--stages fast: names not two stages; write FAST,BETTER"),
            (["--stages", "fast,slow"], "stage 'slow': is none that labels; choose two of fast, accurate"),
            (["--blocks", "64,big"], "--blocks 64,big: has 'big'; write numbers of pixels, separated by commas"),
            (["--windows", "4"], "--windows: judges the uncertainty of a stage; say which with --uncertainty STAGE"),
            (["--uncertainty", "fast"], "--uncertainty: needs to know what is certain; pass --train-images or"),
            (["--uncertainty", "fast", "--certain-below", 1, "--train-images", "x"], "--uncertainty: both say what is"),
            (["--uncertainty", "fast", "--certain-below", 1], "uncertainty of stage 'fast': it is none that emits"),
        ],
    )
    def test_options(self, call, toy_bundle, streets, options, message):
        assert (
            call(toy_bundle.path, *streets, *options, code=2).stderr.replace("\n", " ").startswith(f"error: {message}")
        )

    def test_a_frame_without_labels(self, call, toy_bundle, streets):
        (streets[3] / "s2.png").unlink()
        error = call(toy_bundle.path, *streets, code=5).stderr
        assert re.search(r"s2\.png: does not exist; every frame needs labels of its name", error)

    def test_labels_of_another_size(self, call, toy_bundle, streets):
        Image.fromarray(np.zeros((20, 28), np.uint8)).save(streets[3] / "s0.png")
        assert "is 28x20 pixels where its image has 56x40" in call(toy_bundle.path, *streets, code=5).stderr

    def test_labels_that_name_no_class(self, call, toy_bundle, streets):
        for path in Path(streets[3]).iterdir():
            Image.fromarray(np.full((40, 56), 255, np.uint8)).save(path)
        assert "evaluation: no pixel of any frame has a label" in call(toy_bundle.path, *streets, code=1).stderr

    def test_a_page_that_cannot_be_written(self, call, toy_bundle, streets, tmp_path):
        error = call(toy_bundle.path, *streets, "--html", tmp_path, code=5).stderr
        assert "cannot be written (it is a folder)" in error


def test_lists():
    assert parse_stages(" fast , accurate ") == ("fast", "accurate")
    assert parse_pixels("--blocks", "64, 128") == (64, 128)
    for text in ("0", "", "-4", "4,,8"):
        with pytest.raises(InvalidRequest):
            parse_pixels("--blocks", text)
    for text in ("a,b,c", "a,", ","):
        with pytest.raises(InvalidRequest):
            parse_stages(text)
