"""`cascadert calibrate` on the toy cascade: what it prints, writes and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cascadert.bundle import Bundle, read_bundle
from cascadert.cli.app import app
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
        f"wrote {written}",
    ):
        assert words in result.output
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
    final = found["int8"]["fast"]["tensorrt"]["final"]
    assert final == {"sqnr_db": None, "agreement": 1.0, "entropy_bits": 0.0}, "convolutions this thin stay in float"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibrator", "best"], "'best' is not one of 'min-max', 'percentile', 'entropy', 'mse'"),
        (["--refit", "miou"], "refit 'miou': there are no labels; give labels, or refit for 'blocks'"),
        (["--labels", "nowhere"], "does not exist; every frame needs labels of its name"),
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
