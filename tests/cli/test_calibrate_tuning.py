"""`cascadert calibrate` with a goal: what it tunes, writes, prints and refuses."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cascadert.bundle import Bundle, read_bundle
from cascadert.cli.app import app
from cascadert.runtime.open import open_pipeline
from cascadert.runtime.options import RuntimeOptions
from cascadert.runtime.profiling.report import BENCH_SCHEMA
from cascadert.spec import ThresholdPolicy, TopKPolicy

Cli = Callable[..., Result]


@pytest.fixture
def cli() -> Cli:
    """`cli(code, bundle, ...)` calibrates, which must end with that code."""
    runner = CliRunner(env={"COLUMNS": "120"})

    def call(code: int, *arguments: object) -> Result:
        result = runner.invoke(app, ["calibrate", *(str(argument) for argument in arguments)])
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture(scope="module")
def streets(toy_bundle: Bundle, toy_frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Options: twelve frames, and as their labels what the toy's accurate network makes of them, some of it wrong."""
    folder, rng = tmp_path_factory.mktemp("streets"), np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    every = {"accurate": TopKPolicy(k=toy_bundle.spec.blocks)}
    with open_pipeline(toy_bundle, RuntimeOptions(mode="serial", threads=1)) as pipeline:
        for i in range(12):
            image = np.roll(toy_frames[i % 6], 9 * i, axis=1)
            labels = pipeline.infer(image, every).labels[0].copy()
            wrong = rng.random(labels.shape) < 0.1
            labels[wrong] = rng.integers(0, 4, int(wrong.sum()))
            Image.fromarray(image).save(folder / "images" / f"{i:02}.png")
            Image.fromarray(labels).save(folder / "labels" / f"{i:02}.png")
    found = {"--images": folder / "images", "--labels": folder / "labels", "--threads": 1, "--count": 12}
    return [*(word for pair in found.items() for word in pair), "--int8", "none"]


def measured(curve: dict[str, Any]) -> list[dict[str, Any]]:
    return [point["seen"] for point in curve["points"]]


def test_the_fastest_within_a_drop_is_written(
    cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path
) -> None:
    written, page = tmp_path / "tuned", tmp_path / "pages" / "tuned.html"
    options = ["--max-drop", 20, "-o", written, "--html", page, "--json"]
    found = json.loads(cli(0, toy_bundle.path, *streets, *options).stdout)["tuning"]
    (curve,) = found["curves"]
    best = curve["references"]["every block"]["seen"]["quality"]["miou"]
    within = [one["latency_ms"] for one in measured(curve) if one["quality"]["miou"] >= best - 0.2]
    chosen = curve["points"][found["choice"]["point"]]
    assert curve["composed"]
    assert chosen["seen"]["latency_ms"] == min(within)
    assert 0 < chosen["seen"]["n"]["accurate"]["mean"] < 15
    held_best = curve["references"]["every block"]["held"]["quality"]["miou"]
    assert found["choice"]["held_met"] == (chosen["held"]["quality"]["miou"] >= held_best - 0.2)
    (select,) = (stage.select for stage in read_bundle(written).manifest.stages if stage.select is not None)
    assert select.policy == ThresholdPolicy(theta=chosen["thetas"]["accurate"])
    assert set(select.thetas) == {"fp16"}
    html = page.read_text()
    assert html.count("data:image/svg+xml") == 4
    assert 'href="tuned-precisions.html"' in html
    assert (page.parent / "tuned-precisions.html").read_text().count("data:image") > 2


def test_goals_of_time(cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    """With times of a bench, n that fits is known."""
    profile = tmp_path / "bench.json"
    stage_ms = {"fast": {"frame": 10.0}, "accurate": {"1": 8.0, "2": 12.0, "20": 84.0}}
    report = {"schema": BENCH_SCHEMA, "name": "toy", "stage_ms": stage_ms, "copy_ms": {"upload": 1.0}}
    profile.write_text(json.dumps(report))
    for goal, value, time in (("--target-ms", 40, "latency_ms"), ("--target-fps", 1000 / 40, "period_ms")):
        options = [goal, value, "--profile", profile, "--json", "-o", tmp_path / goal]
        found = json.loads(cli(0, toy_bundle.path, *streets, *options).stdout)["tuning"]
        (curve,) = found["curves"]
        assert curve["times_from"] == "the bench bench.json"
        chosen = measured(curve)[found["choice"]["point"]]
        assert chosen[time] <= 40
        fits = [one["quality"]["miou"] for one in measured(curve) if one[time] <= 40]
        assert chosen["quality"]["miou"] == max(fits)
        assert len(fits) < len(curve["points"])
    nothing = curve["references"]["fast"]["seen"]
    assert nothing["latency_ms"] == pytest.approx(11.0)
    assert nothing["period_ms"] == pytest.approx(10.0)


def test_without_a_goal_a_page_has_curves_and_theta_stays(
    cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path
) -> None:
    page = tmp_path / "curves.html"
    text = cli(0, toy_bundle.path, *streets, "-o", tmp_path / "out", "--html", page).stdout
    assert "nothing was chosen: theta stays 1.05" in text
    assert "theta of accurate: 1.05 in fp32" in text
    assert "No goal was given" in page.read_text()


@pytest.mark.slow
def test_two_thetas(cli: Cli, chain_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    written, page = tmp_path / "tuned", tmp_path / "page.html"
    options = ["--max-drop", 10, "-o", written, "--html", page, "--json"]
    found = json.loads(cli(0, chain_bundle.path, *streets, *options).stdout)["tuning"]
    (curve,) = found["curves"]
    assert not curve["composed"]
    thetas = curve["points"][found["choice"]["point"]]["thetas"]
    selects = {stage.name: stage.select for stage in read_bundle(written).manifest.stages if stage.select is not None}
    assert {name: select.policy for name, select in selects.items()} == {
        name: ThresholdPolicy(theta=theta) for name, theta in thetas.items()
    }
    html = page.read_text()
    assert "Every theta was run on every frame" in html
    assert all(f"What {name} refines" in html for name in ("middle", "accurate"))


@pytest.mark.slow
def test_blocks_halo_and_precision(cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    written = tmp_path / "tuned"
    options = ["--max-drop", 20, "--block", "8,20", "--halo", "0,3", "--precision", "fp32,int8-cpu", "-o", written]
    calibration = ["--int8", "cpu", "--calibrator", "min-max"]
    found = json.loads(cli(0, toy_bundle.path, *streets, *options, *calibration, "--json").stdout)["tuning"]
    variants = [(c["variant"]["block"], c["variant"]["halo"], c["variant"]["numerics"]) for c in found["curves"]]
    assert [(b[0], h) for b, h, numerics in variants if numerics == "fp32"] == [(8, 0), (8, 3), (20, 0), (20, 3)]
    assert [numerics for *_, numerics in variants[4:]] == ["int8-cpu"]
    bundle = read_bundle(written)
    assert (list(bundle.spec.make_grid().block), bundle.spec.stages[1].halo) == variants[4][:2]
    (select,) = (stage.select for stage in bundle.manifest.stages if stage.select is not None)
    assert set(select.thetas) == {"fp16", "int8-cpu"}
    if variants[found["choice"]["curve"]][2] == "int8-cpu":
        theta = found["curves"][4]["points"][found["choice"]["point"]]["thetas"]["accurate"]
        assert select.thetas["int8-cpu"] == theta
    assert bundle.manifest.calibration is not None
    assert {row.numerics for row in bundle.manifest.calibration.quality} >= {"fp16", "int8-cpu"}, "judged as written"


@pytest.mark.slow
def test_a_precision_is_tried_although_fp32_is_too_slow(
    cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path
) -> None:
    """Blocks are still picked to calibrate on, and the goal is what is said to be missed."""
    options = ["--target-ms", 0.001, "--precision", "fp32,int8-cpu", "--calibrator", "min-max", "--count", 8]
    output = cli(2, toy_bundle.path, *streets, *options, "--int8", "cpu", "-o", tmp_path / "out").output
    assert "--target-ms 0.001: is not reached: the fastest takes" in re.sub(r"\s+", " ", output)


@pytest.mark.slow
def test_exits_are_planned(cli: Cli, exits_bundle: Bundle, exits_streets: tuple[Path, Path], tmp_path: Path) -> None:
    streets = ["--images", exits_streets[0], "--labels", exits_streets[1], "--threads", 1, "--int8", "none"]
    written, page = tmp_path / "planned", tmp_path / "page.html"
    options = ["--max-drop", 100, "-o", written, "--html", page]
    text = cli(0, exits_bundle.path, *streets, *options).stdout
    assert [stage.name for stage in read_bundle(written).manifest.stages] == ["segment1", "exit1"]
    assert "--max-drop 100: is met on held-out frames" in text
    assert "chosen plan, searched on 9 frames and judged on 3 others" in text
    html = page.read_text()
    assert "Who leaves where" in html
    assert html.count("data:image/svg+xml") == 3
    refused = cli(2, exits_bundle.path, *streets, "--halo", 0, "-o", tmp_path / "none").stderr
    assert "has exits about whole frames, which are planned in fp32; leave --block, --halo" in refused


def test_tables_say_what_was_chosen_and_for_what(
    cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path
) -> None:
    text = cli(0, toy_bundle.path, *streets, "--max-drop", 20, "-o", tmp_path / "tuned").stdout
    assert "what no other beats; chosen on 9 frames, 3 others held out" in text
    assert re.search(r"^chosen: block 16 every 12, halo 3, theta \d\.\d+: \d+\.\d\d % mIoU, ", text, re.MULTILINE)
    assert re.search(r"^--max-drop 20: is (met|MISSED) on held-out frames", text, re.MULTILINE)
    assert text.index("what no other beats") < text.index("theta of accurate: ")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--max-drop", 1, "--target-ms", 5], "--max-drop and --target-ms: ask for different things; give one goal"),
        (["--target-ms", 0.001], "--target-ms 0.001: is not reached: the fastest takes "),
        (["--target-fps", 1e6], "frames per second, at theta = "),
        (["--target-fps", -3], "--target-fps -3: is no number above 0"),
        (["--max-drop", 100], "is best met where 'accurate' (almost) never runs, with "),
        (["--precision", "fp16"], "--precision fp16: has no kernels on a CPU, so that its time here would say nothing"),
        (["--precision", "fp8"], "--precision fp8: has 'fp8'; choose of fp32, fp16, int8-tensorrt, int8-cpu"),
        (["--halo", "x"], "--halo x: has 'x'; write numbers of pixels"),
        (["--block", "0"], "--block 0: has '0'"),
        (["--block", "999", "--max-drop", 3], "grid.block = 999"),
        (["--profile", "p.json", "--halo", "0"], "has the times of one bundle in one precision; leave --block, --halo"),
    ],
)
def test_what_it_refuses(
    cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path, options: list[object], found: str
) -> None:
    assert found in cli(2, toy_bundle.path, *streets, *options, "-o", tmp_path / "out").stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--max-drop", 1], ["--block", "16"], ["--precision", "fp32"]])
def test_labels_are_needed(
    cli: Cli, toy_bundle: Bundle, streets: list[object], tmp_path: Path, options: list[object]
) -> None:
    unlabelled = [*streets[:2], "-o", tmp_path / "out"]
    assert "needs to know what is right; give --labels" in cli(2, toy_bundle.path, *unlabelled, *options).stderr


def test_networks_that_moved_are_asked_for(
    cli: Cli, toy_bundle: Bundle, toy_spec: Path, streets: list[object], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(toy_bundle.path, moved)
    data = json.loads((moved / "bundle.json").read_text())
    (moved / "bundle.json").write_text(json.dumps({**data, "spec_folder": str(tmp_path / "gone")}))
    options = ["--halo", "0", "--max-drop", 50, "-o", tmp_path / "out"]
    error = cli(2, moved, *streets, *options).stderr
    assert "and that is not there; pass --spec with the specification's present path" in error
    other = toy_spec.parent / "other.toml"
    other.write_text(toy_spec.read_text().replace('name = "toy"', 'name = "other"'))
    assert "is of 'other', and the bundle of 'toy'" in cli(2, moved, *streets, *options, "--spec", other).stderr
