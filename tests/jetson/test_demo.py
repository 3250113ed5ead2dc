"""The demo, end to end on a toy cascade, and what it does with a folder that is not its own."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cascadert.calibration.metrics import ConfusionMatrix
from cascadert.deployment import open_artefact
from cascadert.errors import InvalidRequest
from cascadert.jetson.demo import DemoOptions, DemoSummary, make_demo
from cascadert.jetson.demo.folder import DEMO_FILE, DemoFolder
from cascadert.jetson.demo.make import SCENES
from cascadert.jetson.demo.measure import EVERY_BLOCK, FAST
from cascadert.spec import load_spec

SaveSpec = Callable[[Path, dict[str, Any]], Path]


@pytest.fixture(scope="module")
def street_spec(toy_folder: Path, save_spec: SaveSpec) -> Path:
    """Toy networks for 19 classes, without weights."""
    stage = {"model": "networks.py:toy", "args": {"classes": 19}}
    return save_spec(
        toy_folder,
        {
            "name": "demo",
            "classes": "cityscapes",
            "frame": {"height": 48, "width": 96},
            "grid": {"block": 24},
            "stages": [
                {"name": "fast", **stage, "scale": 0.5, "emit": ["labels", "scores", "order", "entropy"]},
                {"name": "accurate", **stage, "halo": 4, "select": {"policy": "threshold", "theta": 1.0}},
            ],
        },
    )


@pytest.fixture(scope="module")
def options(street_spec: Path) -> DemoOptions:
    return DemoOptions(
        spec=street_spec,
        random_weights=0,
        targets=("cpu",),
        streets=(11, 13),
        frames_per_street=3,
        thetas=(0.5,),
        sweep_every=2,
        threads=1,
    )


@pytest.fixture(scope="module")
def demo(options: DemoOptions, tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    return make_demo(tmp_path_factory.mktemp("made") / "demo", options)


def test_leaves_everything_that_other_commands_can_be_tried_on(demo: DemoSummary) -> None:
    names = {path.name for path in demo.output.iterdir()}
    pictures = {"demo.mp4", "demo.gif", "contact_sheet.png", "report.html"}
    assert names == pictures | {"bundle", "deployments", "frames", "labels", DEMO_FILE}
    assert [path.name for path in sorted((demo.output / "frames").iterdir())][:2] == [
        "street011_000.png",
        "street011_001.png",
    ]
    assert len([*(demo.output / "labels").iterdir()]) == 6
    for folder in ("bundle", "deployments/cpu"):
        open_artefact(demo.output / folder)


def test_measures_more_blocks_for_lower_thresholds(demo: DemoSummary) -> None:
    rows = demo.sweep.rows
    assert [row.name for row in rows] == [FAST, "cascade, θ = 1", "cascade, θ = 0.5", EVERY_BLOCK]
    counts = [row.mean_n for row in rows]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, demo.sweep.blocks)
    assert 0 < counts[1] < counts[2]
    assert demo.sweep.frames == 3


def test_quality_is_that_of_the_written_labels(demo: DemoSummary, options: DemoOptions, tmp_path: Path) -> None:
    from cascadert.jetson.outputs import OutputOptions
    from cascadert.jetson.run import RunOptions, run

    written = OutputOptions(labels=tmp_path / "found")
    run(demo.output / "bundle", demo.output / "frames", RunOptions(outputs=written, threads=1))
    matrix = ConfusionMatrix(19)
    for truth in (demo.output / "labels").iterdir():
        matrix.add(np.asarray(Image.open(tmp_path / "found" / truth.name)), np.asarray(Image.open(truth)))
    assert demo.video.cascade_mean_iou == pytest.approx(matrix.mean_iou(), abs=1e-6)
    assert demo.video.cascade_mean_iou != demo.video.fast_mean_iou


def test_report_shows_what_was_measured_and_needs_no_other_file(demo: DemoSummary) -> None:
    page = demo.report.read_text(encoding="utf-8")
    for row in demo.sweep.rows:
        assert f"<td>{100 * row.mean_iou:.1f}</td>" in page
        assert f"<td>{row.median_ms:.1f}</td>" in page
    assert f"cascadert export {demo.bundle.manifest.spec_folder}" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)


def test_ledger_holds_the_results(demo: DemoSummary) -> None:
    summary = json.loads((demo.output / DEMO_FILE).read_text())["summary"]
    assert summary["video"]["frames"] == 6
    assert all(row["passed"] for row in summary["parity"])
    assert summary["engines"]["cpu"]["fast"]["bytes"] > 0


def test_runs_again_and_keeps_files_of_others(demo: DemoSummary, options: DemoOptions) -> None:
    mine = demo.output / "mine.txt"
    mine.write_text("keep")
    again = make_demo(demo.output, replace(options, streets=(11,), frames_per_street=2))
    assert again.video.frames == 2
    assert len([*(demo.output / "frames").iterdir()]) == 2
    assert mine.read_text() == "keep"


def test_spec_that_comes_with_the_package_can_be_shown() -> None:
    spec = load_spec(SCENES)
    assert (spec.num_classes, "entropy" in spec.wiring["fast"].emit) == (19, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": {"height": 48, "width": 96, "cameras": 2}}, r"2 camera\(s\), .* one camera"),
        ({"classes": "camvid"}, r"has 11 classes where generated streets have 19; .*cityscapes"),
    ],
)
def test_refuses_what_it_cannot_show(
    change: dict[str, Any], message: str, street_spec: Path, save_spec: SaveSpec, tmp_path: Path
) -> None:
    data = load_spec(street_spec).model_dump(exclude_none=True, exclude_defaults=True, mode="json")
    data["stages"][1]["select"] = {"policy": "threshold", "theta": 1.0}
    data["classes"] = "cityscapes"
    spec = save_spec(tmp_path, {**data, **change})
    with pytest.raises(InvalidRequest, match=message):
        make_demo(tmp_path / "demo", DemoOptions(spec=spec, random_weights=0))
    assert not (tmp_path / "demo").exists()


def test_refuses_nothing_to_show() -> None:
    with pytest.raises(InvalidRequest, match=r"demo: 0 streets .*; ask for one or more"):
        DemoOptions(streets=())


def test_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidRequest, match=r"holds files that no demo made; choose another output"):
        DemoFolder(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_interrupted_demo_can_be_repeated(tmp_path: Path) -> None:
    folder = DemoFolder(tmp_path / "demo")
    folder.claim("frames").mkdir()
    assert not (DemoFolder(tmp_path / "demo").path / "frames").exists()


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        ("{", r"demo\.json: cannot be read"),
        ('{"schema": "other", "made": []}', r"demo\.json: has schema 'other'"),
        ('{"schema": "cascadert-demo-1", "made": ["../precious"]}', r"\.\./precious: lies outside the folder"),
    ],
)
def test_broken_ledger_deletes_nothing(ledger: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / DEMO_FILE).write_text(ledger)
    with pytest.raises(InvalidRequest, match=message):
        DemoFolder(tmp_path / "demo")
    assert (tmp_path / "precious").read_text() == "keep"
