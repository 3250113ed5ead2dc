"""Tries the papers' claims, one command each: `python recipes/experiment.py x1 --root CAMVID`.

Writes NAME.json and NAME.png to docs/results. `list` says what there is, `page` puts all results on one page. Networks
that an experiment trains are kept in --work and found again there.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import time
from pathlib import Path

import experiments
import torch
from experiments.experiment import Context, Experiment
from experiments.results import save, write_page
from trainer import command_line

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def find_experiments() -> dict[str, Experiment]:
    """All modules experiments/xNN_*.py, by the name of their `EXPERIMENT`, in the order of their numbers."""
    names = sorted(info.name for info in pkgutil.iter_modules(experiments.__path__) if info.name[0] == "x")
    found = [importlib.import_module(f"experiments.{name}").EXPERIMENT for name in names]
    return {experiment.name: experiment for experiment in found}


def parse(known: dict[str, Experiment], arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Try a claim of a paper.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="say which experiments there are")
    page = commands.add_parser("page", help="put all results on one page")
    page.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of results (docs/results)")
    for experiment in known.values():
        command = commands.add_parser(experiment.name, help=f"{experiment.title} ({experiment.data})")
        command.add_argument("--root", type=Path, help="CamVid folder with images/ and labels/")
        command.add_argument("--cache", type=Path, default=Path(".cache/scenes"), help="folder for rendered scenes")
        command.add_argument("--work", type=Path, default=Path("out/experiments"), help="folder for trained weights")
        command.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU (%(default)s)")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="trains there")
        command.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder of results (docs/results)")
        experiment.add_arguments(command)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    known = find_experiments()
    options = parse(known, arguments)
    if options.command == "page":
        print(f"wrote {write_page(options.output)}")
        return
    if options.command == "list":
        for name, one in known.items():
            again, whole = one.minutes
            print(f"{name:4} {one.title} ({one.data}; {whole:g} min, {again:g} min once trained)")
        return
    torch.set_num_threads(options.threads)
    experiment, start = known[options.command], time.monotonic()
    outcome = experiment.run(Context(options, options.work / experiment.name))
    minutes = (time.monotonic() - start) / 60
    path = save(experiment, outcome, options.output, command_line(arguments), minutes)
    for finding in outcome.findings:
        print(f"{finding.verdict}: {finding.claim}\n    {finding.found}")
    print(f"wrote {path} after {minutes:.1f} min")


if __name__ == "__main__":
    main()
