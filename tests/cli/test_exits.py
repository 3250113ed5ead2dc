"""`cascadert exits` and `export --until`: what they print, write and refuse."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cascadert.bundle import Bundle, read_bundle
from cascadert.cli.app import app
from cascadert.cli.exits import make_objective
from cascadert.errors import InvalidRequest
from cascadert.runtime.profiling.report import BENCH_SCHEMA

Cli = Callable[..., Result]


@pytest.fixture
def cli(exits_streets: tuple[Path, Path]) -> Cli:
    """`cli(code, command, ...)` runs a command, which must end with that code."""
    runner = CliRunner(env={"COLUMNS": "120"})

    def call(code: int, *arguments: object) -> Result:
        result = runner.invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture
def streets(exits_streets: tuple[Path, Path]) -> list[object]:
    images, labels = exits_streets
    return ["--images", images, "--labels", labels, "--threads", 1]


def test_the_front_alone(cli: Cli, exits_bundle: Bundle, streets: list[object]) -> None:
    text = cli(0, "exits", exits_bundle.path, *streets).stdout
    assert re.findall(r"^ (exit1|exit2|final) +[\d.-]+ +\d+\.\d\d +\d+\.\d\d +(\d\.\d{3}) *$", text, re.MULTILINE) == [
        ("exit1", "0.019"), ("exit2", "0.037"), ("final", "0.107"),
    ]  # fmt: skip
    assert "best plans" in text
    assert "chosen plan" not in text
    assert re.search(r"^12 frame\(s\), of which 3 are held out; times: this run", text, re.MULTILINE)


def test_a_plan_a_bundle_a_page_and_json(cli: Cli, exits_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    written, page = tmp_path / "plan", tmp_path / "pages" / "exits.html"
    options = ["--max-drop", 100, "-o", written, "--html", page, "--json"]
    found = json.loads(cli(0, "exits", exits_bundle.path, *streets, *options).stdout)
    plan = found["plan"]
    assert plan["exits"] == ["exit1"]  # whatever it costs in mIoU: the soonest exit, for every image
    bundle = read_bundle(written)
    assert [stage.name for stage in bundle.manifest.stages] == ["segment1", "exit1"]
    html = page.read_text()
    assert html.count("data:image/svg+xml") == 2
    assert "12 labelled images" in html
    assert "The plan that was asked for" in html
    assert f"{100 * found['exits'][2]['miou']:.2f}" in html
    again = cli(2, "exits", exits_bundle.path, *streets, "--max-drop", 100, "-o", written)
    assert "exists already" in again.stderr


def test_times_of_another_machine(cli: Cli, exits_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    stages = [stage.name for stage in exits_bundle.manifest.stages]
    times = dict(zip(stages, (10.0, 1.0, 20.0, 2.0, 30.0, 3.0), strict=True))
    stage_ms = {stage: {"1" if stage in ("segment2", "segment3") else "frame": ms} for stage, ms in times.items()}
    report = {"schema": BENCH_SCHEMA, "name": "multi-exit-tiny", "stage_ms": stage_ms}
    profile = tmp_path / "bench.json"
    profile.write_text(json.dumps(report))
    result = cli(0, "exits", exits_bundle.path, *streets, "--profile", profile, "--budget-ms", 12, "--json")
    found = json.loads(result.stdout)
    assert found["times_from"] == "a bench"
    assert [row["latency_ms"] for row in found["exits"]] == [11, 32, 63]
    assert found["plan"]["latency_ms"] <= 12
    assert found["plan"]["exits"][0] == "exit1"

    too_soon = cli(2, "exits", exits_bundle.path, *streets, "--profile", profile, "--budget-ms", 10)
    assert "no plan is within it; the soonest exit takes 11 ms" in too_soon.stderr
    del stage_ms["exit2"]
    profile.write_text(json.dumps(report))
    error = cli(2, "exits", exits_bundle.path, *streets, "--profile", profile).stderr
    assert "has no time of stage 'exit2' on a whole frame; measure with `cascadert bench --json`" in error
    profile.write_text(json.dumps({**report, "name": "another"}))
    assert "is of the cascade 'another'" in cli(2, "exits", exits_bundle.path, *streets, "--profile", profile).stderr


def test_a_bundle_needs_a_plan(cli: Cli, exits_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    error = cli(2, "exits", exits_bundle.path, *streets, "-o", tmp_path / "plan").stderr
    assert "needs a plan; say which with --max-drop or --budget-ms" in error


def test_a_cascade_of_blocks_has_no_exits(cli: Cli, toy_bundle: Bundle, streets: list[object]) -> None:
    assert "exits of 'toy'" in cli(2, "exits", toy_bundle.path, *streets).stderr


@pytest.mark.parametrize(("drop", "budget"), [(1, 5), (-1, None), (101, None), (None, 0), (None, float("inf"))])
def test_bounds_that_are_none(drop: float | None, budget: float | None) -> None:
    with pytest.raises(InvalidRequest):
        make_objective(drop, budget)


def test_export_until(cli: Cli, exits_spec: Path, tmp_path: Path) -> None:
    written = tmp_path / "budgeted"
    cli(0, "export", exits_spec, "--random-weights", 0, "--until", "exit1", "-o", written)
    assert [stage.name for stage in read_bundle(written).manifest.stages] == ["segment1", "exit1"]
    error = cli(2, "export", exits_spec, "--random-weights", 0, "--until", "exit9", "-o", tmp_path / "none").stderr
    assert "until 'exit9': is no stage; choose one of segment1, exit1, segment2, exit2, segment3, final" in error


class TestRun:
    def test_it_says_who_answered(self, cli: Cli, exits_bundle: Bundle, exits_streets: tuple[Path, Path]) -> None:
        run = ["run", exits_bundle.path, exits_streets[0], "--threads", 1, "--limit", 4]
        text = cli(0, *run, "--exit-threshold", 0).stdout
        assert "labels are from: exit1 100% (4), exit2 0% (0), final 0% (0)" in text
        assert "deadline" not in text
        text = cli(0, *run, "--exit-threshold", 2, "--deadline-ms", 0.001).stdout
        assert "labels are from: exit1 100% (4)" in text
        assert "4 of 4 frame(s) were cut short by their deadline" in text

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            (["--exit-threshold", 0.5, "--theta", 0.5], "--exit-threshold and --theta: both say what is decided"),
            (["--exit-threshold", 0.5, "--stage", "segment2"], "--exit-threshold and --stage"),
            (["--exit-threshold", -1], "--exit-threshold -1: is no confidence"),
            (["--deadline-ms", 0], "--deadline-ms 0: is no number above 0"),
        ],
    )
    def test_what_it_refuses(
        self, cli: Cli, exits_bundle: Bundle, exits_streets: tuple[Path, Path], options: list[object], found: str
    ) -> None:
        assert found in cli(2, "run", exits_bundle.path, exits_streets[0], *options).stderr
