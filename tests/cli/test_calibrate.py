"""`cascadert calibrate` on the toy cascade: what it prints, writes and refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cascadert.bundle import Bundle, CalibrationEntry, QualityRow, calibration_part, read_bundle, write_bundle
from cascadert.cli.app import app
from cascadert.cli.calibrate import show_duration
from cascadert.precision import QuantizationPlan, StageCalibration
from cascadert.scenes import SceneOptions, render

Cli = Callable[..., Result]


@pytest.fixture
def cli() -> Cli:
    runner = CliRunner(env={"COLUMNS": "140"})
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def images(toy_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve streets of the toy's size, and labels of their names in a folder beside them."""
    folder, frame = tmp_path_factory.mktemp("streets"), toy_bundle.spec.frame
    (folder / "labels").mkdir()
    (folder / "images").mkdir()
    for i in range(12):
        scene = render(5, 6 * i, SceneOptions(height=64, width=64))
        Image.fromarray(scene.image[: frame.height, : frame.width]).save(folder / "images" / f"{i:02}.png")
        labels = scene.labels[: frame.height, : frame.width]
        Image.fromarray(np.where(labels < 4, labels, 255).astype(np.uint8)).save(folder / "labels" / f"{i:02}.png")
    return folder


def test_it_writes_a_calibrated_bundle_and_says_what_was_found(
    cli: Cli, toy_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    written = tmp_path / "calibrated"
    options = ["--int8", "cpu", "--calibrator", "min-max", "--threads", 1, "--count", 12]
    result = cli("calibrate", toy_bundle.path, "--images", images / "images", "-o", written, *options)
    assert result.exit_code == 0, result.output
    for words in (
        "fast: int8",
        "accurate: int8",
        "cpu",
        "min-max",
        "theta of accurate: 1.05 in fp32",
        "fast, cpu: nothing that int8 takes stays in floating point",
    ):
        assert words in result.output
    assert re.search(rf"^wrote {re.escape(str(written))} after \d", result.output, re.MULTILINE)
    bundle = read_bundle(written)
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration.images == 9
    assert all(set(found.int8) == {"cpu"} for found in bundle.calibrations.values())


def test_json_has_every_number(cli: Cli, toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    options = ["--int8", "none", "--threads", 1, "--count", 8, "--labels", images / "labels", "--json"]
    result = cli("calibrate", toy_bundle.path, "--images", images / "images", "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["int8"] == {"fast": {}, "accurate": {}}
    assert set(found["thetas"]["accurate"]) == {"fp16"}
    assert [row["name"] for row in found["parity"]["rows"]] == ["fp32", "fp16"]
    assert found["parity"]["rows"][1]["quality"]["miou"] is not None


def test_json_has_no_word_for_a_stage_without_noise(cli: Cli, toy_bundle: Bundle, images: Path, tmp_path: Path) -> None:
    options = ["--int8", "tensorrt", "--calibrator", "min-max", "--threads", 1, "--count", 8, "--json"]
    result = cli("calibrate", toy_bundle.path, "--images", images / "images", "-o", tmp_path / "out", *options)
    found = json.loads(result.stdout, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert found["seconds"] > 0
    exact, *_ = found["parity"]["rows"]
    assert (exact["name"], exact["sqnr_db"]) == ("fp32", {"fast": None, "accurate": None})


def test_convolutions_too_thin_for_tensorrt_are_said_to_be_none_of_int8(
    cli: Cli, toy_bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    options = ["--int8", "tensorrt", "--calibrator", "min-max", "--threads", 1, "--count", 8]
    result = cli("calibrate", toy_bundle.path, "--images", images / "images", "-o", tmp_path / "out", *options)
    assert "fast, tensorrt: int8 takes none of its operators" in result.output
    assert "nothing that int8 takes" not in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibrator", "best"], "'best' is not one of 'min-max', 'percentile', 'entropy', 'mse'"),
        (["--refit", "miou"], "refit 'miou': there are no labels; give labels, or refit for 'blocks'"),
        (["--labels", "nowhere"], "does not exist; every frame needs labels of its name"),
        (["--count", "7"], "--count 7: is too few, since every 4th frame judges and does not calibrate; give at least"),
        (["--count", "-1"], "--count -1: is too few"),
        (["--glob", "0[0-5]*"], "frames: are 6, of which every 4th is held out; give at least 8"),
    ],
)
def test_bad_requests(
    cli: Cli, toy_bundle: Bundle, images: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = cli("calibrate", toy_bundle.path, "--images", images / "images", "-o", tmp_path / "out", *options)
    assert result.exit_code in (2, 5)
    assert message in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "code"), [("-o", 4), ("--html", 5)])
def test_what_cannot_be_written_is_noticed_before_any_frame_is_read(
    cli: Cli,
    toy_bundle: Bundle,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    code: int,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("cascadert.cli.calibrate._read", pytest.fail)
    wrong = tmp_path / "file" / "below"
    outputs = {"-o": tmp_path / "new" / "out", "--html": tmp_path / "new" / "page.html", option: wrong}
    arguments = [word for name, path in outputs.items() for word in (name, path)]
    result = cli("calibrate", toy_bundle.path, "--images", images / "images", *arguments)
    assert result.exit_code == code, result.output
    assert f"{wrong}: cannot be written ({tmp_path / 'file'} is no folder); choose another output" in result.output
    assert not (tmp_path / "new").exists(), "a check creates nothing"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.31, "0.3 s"), (59.4, "59.4 s"), (60.2, "1 min 0 s"), (754, "12 min 34 s")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert show_duration(seconds) == shown


def test_inspect_shows_what_calibration_found(cli: Cli, toy_bundle: Bundle, tmp_path: Path) -> None:
    kept = {"a": "it is noisy", "b": "it is noisy"}
    plan = QuantizationPlan(calibrator="percentile", ranges={}, keep=kept)
    calibration = StageCalibration(peaks={}, fp16_keep={"c": "it exceeds float16"}, int8={"cpu": plan})
    quality = {
        "label_agreement": 1,
        "score_errors": {"fast": 0},
        "iou_selected_before": 1,
        "iou_selected": 1,
        "mean_n": 7.5,
    }
    entry = CalibrationEntry(
        source="streets",
        images=9,
        images_sha256="0" * 64,
        seed=0,
        chosen={"accurate": {"cpu": "percentile"}},
        quality=(
            QualityRow(numerics="fp32", sqnr_db={"fast": None, "accurate": None}, **quality),
            QualityRow(numerics="int8-cpu", sqnr_db={"fast": None, "accurate": 31.25}, **quality),
        ),
    )
    fast, accurate = toy_bundle.manifest.stages
    assert accurate.select is not None
    select = accurate.select.model_copy(update={"thetas": {"int8-cpu": 1.0375}})
    part = calibration_part("accurate", calibration)
    stages = (fast, accurate.model_copy(update={"select": select, "calibration": part}))
    manifest = toy_bundle.manifest.model_copy(update={"stages": stages, "calibration": entry})
    write_bundle(tmp_path / "calibrated", manifest, toy_bundle.graphs, {"accurate": calibration})
    text = cli("inspect", tmp_path / "calibrated").stdout
    rows = [line.split() for line in text.splitlines()]
    assert "calibrated on 9 frames of streets" in text
    assert ["accurate", "fp16", "1"] in rows
    assert ["accurate", "int8-cpu", "percentile", "2"] in rows
    assert "theta of accurate: 1.05 in fp32, 1.038 in int8-cpu" in text
    assert ["fp32", "100.00", "exact", "0.0000", "1.000", "1.000", "7.50"] in rows
    assert ["int8-cpu", "100.00", "31.2", "0.0000", "1.000", "1.000", "7.50"] in rows
    assert "mIoU" not in text
    assert "calibrated" not in cli("inspect", toy_bundle.path).stdout
