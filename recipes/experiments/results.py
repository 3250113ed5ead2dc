"""Results of experiments: read, written, and put on one page beside the papers' claims."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from files import write_whole

from cascadert.calibration.finite_json import dump
from experiments.experiment import Experiment, Outcome

PAGE_HEAD = """# The papers' claims, and what we found

Small networks, trained for minutes on two CPU cores on CamVid and on generated streets, cannot repeat the papers'
numbers. They can show whether a claim has the same *shape*: which side is better, and what grows with what. Each row
is one claim. "Holds", "does not hold" and "not significant" are computed from the numbers by a rule that each
experiment writes down: a difference by two standard errors over seeds, which is a mild test with two or three of them,
or a bound on a mean. What differs from the paper, and rules that changed after a first look, are said below.

Every experiment is one command, which its JSON file repeats: `python recipes/experiment.py x1 --root CAMVID`.
This page is made of those files by `python recipes/experiment.py page`.
"""


def save(experiment: Experiment, outcome: Outcome, folder: Path, command: str, minutes: float) -> Path:
    """Write NAME.json, and NAME.png if there is a picture; return the first."""
    path = folder / f"{experiment.name}.json"
    if outcome.figure is not None:
        figure = outcome.figure()
        picture = path.with_suffix(".png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture, dpi=110, facecolor="white", metadata={"Software": None})
    content = {
        "experiment": experiment.name,
        "title": experiment.title,
        "data": experiment.data,
        "command": command,
        "seeds": list(outcome.seeds),
        "minutes": round(minutes, 1),
        "torch": torch.__version__,
        "findings": [asdict(finding) for finding in outcome.findings],
        "deviations": list(outcome.deviations),
        "numbers": outcome.numbers,
    }
    write_whole(path, (dump(content) + "\n").encode())
    return path


def write_page(folder: Path) -> Path:
    """Write README.md of all results in the folder, in the order of their numbers."""
    found = (path for path in folder.glob("x*.json") if path.stem[1:].isdecimal())
    paths = sorted(found, key=lambda path: int(path.stem[1:]))
    if not paths:
        raise SystemExit(f"{folder}: no results x*.json; run an experiment first")
    results = [json.loads(path.read_text()) for path in paths]
    parts = [PAGE_HEAD, _summary(results), *map(_section, results, paths)]
    page = folder / "README.md"
    write_whole(page, "\n".join(parts).encode())
    return page


def _summary(results: list[dict[str, Any]]) -> str:
    rows = [
        f"| [{r['experiment'].upper()}](#{r['experiment']}) | {f['claim']} | {f['found']} | **{f['verdict']}** |"
        for r in results
        for f in r["findings"]
    ]
    return "\n".join(("| | the paper's claim | what we found | |", "|---|---|---|---|", *rows)) + "\n"


def _section(result: dict[str, Any], path: Path) -> str:
    seeds = ", ".join(map(str, result["seeds"])) or "none: nothing is drawn"
    lines = [
        f"## {result['experiment'].upper()}",
        "",
        f"**{result['title']}.**",
        f"{result['data']}. Seeds: {seeds}. {result['minutes']} minutes. [Numbers]({path.name}).",
        "",
        f"    {result['command']}",
        "",
    ]
    if path.with_suffix(".png").exists():
        lines += [f"![{result['title']}]({path.stem}.png)", ""]
    if result["deviations"]:
        lines += ["What differs from the paper:", "", *(f"- {one}" for one in result["deviations"]), ""]
    return "\n".join(lines)
