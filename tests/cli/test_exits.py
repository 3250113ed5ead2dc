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
from cascadert.runtime.profiling.profile_file import PROFILE_SCHEMA
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
    assert "plans that no other beats, searched on 9 frames and judged on 3 others" in text
    assert "one exit alone, on all 12 frames" in text
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
    assert '<td>final</td><td class="text">segment1, segment2, segment3</td>' in html
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
    assert "a budget of 10 ms: no plan is within it; the soonest exit takes 11 ms" in too_soon.stderr
    del stage_ms["exit2"]
    profile.write_text(json.dumps(report))
    error = cli(2, "exits", exits_bundle.path, *streets, "--profile", profile).stderr
    assert "has no time of stage 'exit2' on a whole frame; measure with `cascadert bench --json > FILE`" in error
    profile.write_text(json.dumps({**report, "name": "another"}))
    error = cli(2, "exits", exits_bundle.path, *streets, "--profile", profile).stderr
    assert "is of the cascade 'another', not of 'multi-exit-tiny'; measure with `cascadert bench --json" in error
    profile.write_text(json.dumps({"schema": PROFILE_SCHEMA, "name": "multi-exit-tiny", "costs": {}}))
    error = cli(2, "exits", exits_bundle.path, *streets, "--profile", profile).stderr
    assert "is a profile, which does not have the time of every stage; measure with `cascadert bench --json" in error
    error = cli(2, "exits", exits_bundle.path, *streets, "--profile", tmp_path / "none.json").stderr
    assert "none.json: cannot be read (No such file or directory); measure with `cascadert bench --json" in error


def test_a_bundle_needs_a_plan(cli: Cli, exits_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    error = cli(2, "exits", exits_bundle.path, *streets, "-o", tmp_path / "plan").stderr
    assert "needs a plan; say which with --max-drop or --budget-ms" in error


def test_what_is_no_bundle_is_named(cli: Cli, exits_bundle: Bundle, streets: list[object], tmp_path: Path) -> None:
    kit = tmp_path / "one.kit"
    kit.touch()
    for command, rest in (("exits", streets), ("evaluate", streets), ("run", streets[1:2])):
        assert "one.kit: is a kit, which holds no engines yet; give a bundle" in cli(2, command, kit, *rest).stderr
    cpu = tmp_path / "cpu"
    cli(0, "build-engine", exits_bundle.path, "--target", "cpu", "-o", cpu)
    for command in ("exits", "evaluate"):
        assert "cpu: is a deployment; give a bundle" in cli(4, command, cpu, *streets).stderr


def test_sizes_are_width_x_height(cli: Cli, exits_bundle: Bundle, streets: list[object]) -> None:
    assert "256x128 rgb8" in cli(0, "inspect", exits_bundle.path).stdout
    assert "block oracle, 256x128 " in cli(0, "evaluate", exits_bundle.path, *streets, "--count", 1).stdout


def test_inspect_speaks_of_no_blocks(cli: Cli, exits_bundle: Bundle) -> None:
    text = cli(0, "inspect", exits_bundle.path).stdout
    assert "19 classes; no blocks" in text
    assert re.search(r"stage +weights +activations *$", text, re.MULTILINE)


def test_a_cascade_of_blocks_has_no_exits(cli: Cli, toy_bundle: Bundle, streets: list[object]) -> None:
    assert "exits of 'toy'" in cli(2, "exits", toy_bundle.path, *streets).stderr


@pytest.mark.parametrize(("drop", "budget"), [(1, 5), (-1, None), (101, None), (None, 0), (None, float("inf"))])
def test_bounds_that_are_none(drop: float | None, budget: float | None) -> None:
    with pytest.raises(InvalidRequest):
        make_objective(drop, budget)


def test_export_until(cli: Cli, exits_spec: Path, tmp_path: Path) -> None:
    written = tmp_path / "budgeted"
    cli(0, "export", exits_spec, "--random-weights", 0, "--until", "exit1", "-o", written)
    bundle = read_bundle(written)
    assert [stage.name for stage in bundle.manifest.stages] == ["segment1", "exit1"]
    assert bundle.spec.name == "multi-exit-tiny-until-exit1"
    error = cli(2, "export", exits_spec, "--random-weights", 0, "--until", "exit9", "-o", tmp_path / "none").stderr
    assert "until 'exit9': is no stage; choose one of segment1, exit1, segment2, exit2, segment3, final" in error


def test_reads_that_a_network_does_not_take_are_named(cli: Cli, exits_spec: Path, tmp_path: Path) -> None:
    text, spec = exits_spec.read_text(), tmp_path / "wrong.toml"
    reads = 'reads = ["segment1.features"]'
    assert reads in text
    spec.write_text(text.replace(reads, 'reads = ["segment1.features", "segment1.features"]', 1))
    error = cli(3, "export", spec, "--random-weights", 0, "-o", tmp_path / "none").stderr
    assert "failed on an input of [1, 16, 16, 32], [1, 16, 16, 32]: TypeError" in error
    assert "mend the network or reads: it is given segment1.features, segment1.features" in error


class TestRun:
    def test_it_says_who_answered(self, cli: Cli, exits_bundle: Bundle, exits_streets: tuple[Path, Path]) -> None:
        run = ["run", exits_bundle.path, exits_streets[0], "--threads", 1, "--limit", 4]
        text = cli(0, *run, "--exit-threshold", 0).stdout
        assert "labels are from: exit1 100% (4), exit2 0% (0), final 0% (0)" in text
        assert "answered within" not in text
        assert re.search(r"^ +segment2 +confidence < 0 +0% of frames +- *$", text, re.MULTILINE)
        assert re.search(r"^ +exit1 +100% of frames +\d+\.\d *$", text, re.MULTILINE)
        assert "blocks" not in text
        text = cli(0, *run, "--exit-threshold", 2, "--deadline-ms", 0.001).stdout
        assert "labels are from: exit1 100% (4)" in text
        assert re.search(r"answered within 0\.001 ms: 0 of 4 frame\(s\), late: 4, by at most \d+\.\d ms", text)

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            (["--exit-threshold", 0.5, "--theta", 0.5], "--exit-threshold and --theta: both say what is decided"),
            (["--exit-threshold", 0.5, "--stage", "exit2"], "stages that do: segment2, segment3"),
            (["--exit-threshold", -1], "--exit-threshold -1: is no confidence"),
            (["--deadline-ms", 0], "--deadline-ms 0: is no number above 0"),
        ],
    )
    def test_what_it_refuses(
        self, cli: Cli, exits_bundle: Bundle, exits_streets: tuple[Path, Path], options: list[object], found: str
    ) -> None:
        assert found in cli(2, "run", exits_bundle.path, exits_streets[0], *options).stderr
