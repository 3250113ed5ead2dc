"""The command `bench` on the toy cascade: what it prints and writes. Its figures are tested with the runtime."""

import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from cascadert.cli import app

QUICK = ["--frames", "3", "--rounds", "5", "--threads", "1"]


@pytest.fixture
def call():
    """`call("bench", path, ...)` runs the program; `code` is the exit code that it must have."""

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})
        assert result.exit_code == code, result.output
        return result

    return call


@pytest.fixture(scope="module")
def street(tmp_path_factory, toy_frames):
    folder = tmp_path_factory.mktemp("streets")
    for index, frame in enumerate(toy_frames[:2]):
        Image.fromarray(frame).save(folder / f"s{index}.png")
    return folder


def test_tables_and_files(call, toy_bundle, tmp_path):
    names = {"--trace": "trace.json", "--plot": "plot.png", "--save-profile": "profile.json"}
    options = [word for option, name in names.items() for word in (option, tmp_path / name)]
    text = call("bench", toy_bundle.path, "--n", 4, *QUICK, *options).stdout
    assert "3 frames of generated streets, 5 rounds; accurate: top 4" in text
    assert re.search(r"overlapped gains \d+\.\d\d \(.*\) over serial with the same threads", text)
    assert "labels of all runs are the same" in text
    assert re.search(r"accurate +8 +\d+\.\d\d", text)
    assert re.search(r"memory, MiB: predicted \d", text)
    assert all(f"wrote {tmp_path / name}" in text for name in names.values())
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 4


def test_a_saved_profile_is_what_run_takes(call, toy_bundle, street, tmp_path):
    profile = tmp_path / "profile.json"
    call("bench", toy_bundle.path, street, *QUICK, "--save-profile", profile)
    budget = ["--budget-ms", "10000", "--profile", profile]
    result = call("run", toy_bundle.path, street, *budget, "--json")
    assert json.loads(result.stdout)["mean_n"] == {"accurate": 15}
    assert result.stderr == ""


def test_json(call, toy_bundle, street):
    result = call("bench", toy_bundle.path, street, "--match", *QUICK, "--json")
    report = json.loads(result.stdout)
    assert report["schema"] == "cascadert-bench-1"
    assert report["settings"]["source"] == str(street)
    assert report["settings"]["threads"]["serial"] == {"fast": 1, "accurate": 1}
    assert report["settings"]["policies"]["accurate"]["policy"] == "top-k"
    assert report["memory_bytes"]["serial"]["peak_resident_bytes"] > 0
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "1", "--theta", "1"], r"--theta and --n: both decide"),
        (["--n", "1", "--match"], r"--match: decides how many blocks to refine, and so does --n or --theta"),
        (["--match", "--stage", "fast"], r"stage 'fast': makes no decision; stages that do: accurate"),
        (["--threads", "1", "--stage-threads", "fast=1"], r"--threads and --stage-threads: both say how many threads"),
        (["--stage-threads", "fast"], r"--stage-threads fast: has 'fast'; give NAME=N,... once each"),
        (["--stage-threads", "slow=1"], r"threads of 'slow': is no stage; stages are fast, accurate"),
    ],
)
def test_wrong_requests(call, toy_bundle, options, message):
    assert re.match(f"error: {message}", call("bench", toy_bundle.path, "--frames", "3", *options, code=2).stderr)


def test_outputs_in_the_way_are_found_before_anything_is_measured(call, toy_bundle, tmp_path):
    (tmp_path / "t.json").write_text("mine")
    message = call("bench", toy_bundle.path, "--trace", tmp_path / "t.json", code=2).stderr
    assert re.match(r"error: .*t.json: exists already; .*--force", message)
    assert (tmp_path / "t.json").read_text() == "mine"


def test_several_stages_that_decide(call, chain_bundle, street):
    message = call("bench", chain_bundle.path, street, *QUICK, "--match", code=2).stderr
    assert re.match(r"error: match: 2 stages decide; name one of: middle, accurate", message)
    report = json.loads(
        call("bench", chain_bundle.path, street, *QUICK, "--n", 3, "--stage", "middle", "--json").stdout
    )
    assert report["mean_n"]["middle"] == 3
    assert set(report["costs"]) == {"middle", "accurate"}
