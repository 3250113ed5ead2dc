"""The frame around experiments: verdicts by hand, results and their page, and what the command finds."""

import importlib
import json
import pkgutil
from argparse import ArgumentParser, Namespace
from pathlib import Path

import experiment as command
import experiments
import pytest
from experiments.experiment import Context, Experiment, Finding, Outcome, Verdict, verdict_of, within
from experiments.results import save, write_page
from matplotlib.figure import Figure


@pytest.mark.parametrize(
    ("differences", "at_least", "verdict"),
    [
        ([1.0, 1.2, 0.8], 0.0, "holds"),  # 1 above two standard errors of 0.115
        ([1.0, -1.2, 0.8], 0.0, "not significant"),  # 0.2, and a standard error of 0.70
        ([-1.0, -1.2, -0.8], 0.0, "does not hold"),
        ([1.0, 1.2, 0.8], 1.0, "not significant"),
        ([1.0, 1.2, 0.8], 1.3, "does not hold"),
        ([0.1], 0.0, "holds"),  # one seed: its sign decides
        ([0.0], 0.0, "does not hold"),
        ([0.5, 0.5], 0.0, "holds"),
    ],
)
def test_verdict_compares_the_mean_with_two_standard_errors(
    differences: list[float], at_least: float, verdict: Verdict
) -> None:
    assert verdict_of(differences, at_least=at_least) == verdict


def test_about_the_same_counts_both_ways_and_the_limit_itself() -> None:
    assert [within(difference, 0.5) for difference in (-0.5, 0.0, 0.5)] == ["holds"] * 3
    assert within(-0.51, 0.5) == within(0.51, 0.5) == "does not hold"


def test_every_module_holds_an_experiment_of_its_own_number() -> None:
    modules = sorted(one.name for one in pkgutil.iter_modules(experiments.__path__) if one.name[0] == "x")
    found = command.find_experiments()
    assert len(found) == len(modules) > 0
    for module in modules:
        own = importlib.import_module(f"experiments.{module}").EXPERIMENT
        assert module.startswith(f"x{int(own.name[1:]):02}_"), f"{module} names its experiment {own.name}"
        assert found[own.name] is own
    numbers = [int(name[1:]) for name in found]
    assert numbers == sorted(numbers)


def test_list_says_what_each_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(command.find_experiments())
    assert all(" min once trained" in line for line in lines)


def test_experiment_without_its_data_says_what_to_pass() -> None:
    with pytest.raises(SystemExit, match="--root"):
        _ = Context(Namespace(root=None), Path("work")).camvid


def outcome(verdict: Verdict, *, figure: bool) -> Outcome:
    finding = Finding("more is better (Table 1)", "12.5 instead of 11.0", verdict)
    drawn = (lambda: Figure(figsize=(1, 1))) if figure else None
    return Outcome((finding,), {"miou": [11.0, 12.5]}, ("smaller networks",), (0, 1), drawn)


def test_page_puts_results_in_order_with_their_pictures(tmp_path: Path) -> None:
    for name, verdict, figure in (("x12", "not significant", False), ("x2", "holds", True)):
        one = Experiment(name, f"Title of {name}", "CamVid", lambda context: outcome("holds", figure=False), (1, 2))
        save(one, outcome(verdict, figure=figure), tmp_path, f"python recipes/experiment.py {name}", 1.25)
    assert write_page(tmp_path) == tmp_path / "README.md"
    page = (tmp_path / "README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| [X")]
    assert rows == [
        "| [X2](#x2) | more is better (Table 1) | 12.5 instead of 11.0 | **holds** |",
        "| [X12](#x12) | more is better (Table 1) | 12.5 instead of 11.0 | **not significant** |",
    ]
    assert "![Title of x2](x2.png)" in page and "x12.png" not in page
    assert "Seeds: 0, 1." in page and "- smaller networks" in page and "python recipes/experiment.py x12" in page
    kept = json.loads((tmp_path / "x2.json").read_text())
    assert kept["numbers"] == {"miou": [11.0, 12.5]} and kept["findings"][0]["verdict"] == "holds"


def test_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results"):
        write_page(tmp_path)


def test_command_runs_an_experiment_with_its_options_and_a_folder_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Context] = []

    def run(context: Context) -> Outcome:
        seen.append(context)
        return outcome("does not hold", figure=False)

    def more(parser: ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=1)

    one = Experiment("x99", "A try", "nothing", run, (0, 0), more)
    monkeypatch.setattr(command, "find_experiments", lambda: {"x99": one})
    folders = ["--work", str(tmp_path / "work"), "-o", str(tmp_path / "results")]
    command.main(["x99", "--rounds", "3", "--threads", "1", *folders])
    assert seen[0].work == tmp_path / "work" / "x99" and seen[0].options.rounds == 3
    assert capsys.readouterr().out.startswith("does not hold: more is better (Table 1)\n    12.5 instead of 11.0\n")
    assert json.loads((tmp_path / "results" / "x99.json").read_text())["command"].startswith("x99 --rounds 3")
