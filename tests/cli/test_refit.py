"""`refit`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from cascadert.bundle import Bundle
from cascadert.cli import app


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout or result.stderr


def test_refit_writes_a_deployment_and_refuses_another_cascade(
    toy_bundle: Bundle, chain_bundle: Bundle, tmp_path: Path
) -> None:
    built, new = tmp_path / "cpu", tmp_path / "new"
    run("build-engine", toy_bundle.path, "--target", "cpu", "--refittable", "-o", built)
    found = json.loads(run("refit", built, toy_bundle.path, "-o", new, "--json"))
    assert (found["kind"], found["path"]) == ("deployment", str(new))
    assert (new / "deployment.json").read_bytes() == (built / "deployment.json").read_bytes()
    said = run("refit", built, chain_bundle.path, "-o", tmp_path / "no", code=2)
    assert "has the stages fast, middle, accurate where the deployment has fast, accurate" in " ".join(said.split())
    assert not (tmp_path / "no").exists()
