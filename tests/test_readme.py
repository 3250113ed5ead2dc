"""README and docs name things that exist: files, fields, commands, Python."""

import ast
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cascadert.cli.app import app
from cascadert.spec import parse_spec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
INSTALLED = ("export", "cpu", "rtx", "video", "report", "dev")  # what `make` installs
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _commands() -> list[str]:
    lines = [line for page in PAGES for block in _blocks(page, "console") for line in block.splitlines()]
    lines += [line.lstrip("#") for path in EXAMPLES for line in path.read_text(encoding="utf-8").splitlines()]
    found = (re.match(r"^\s*(?:\$ )?(cascadert .+)$", line) for line in lines)
    return sorted({match[1] for match in found if match})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name} links to {link}"


def test_readme_shows_a_picture_and_says_no_number_that_is_still_to_come() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "![" in text
    assert "TBD" not in text
    pictures = (ROOT / "docs" / "images").iterdir()
    assert sum(picture.stat().st_size for picture in pictures) < 1_000_000


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "spec.md"], ids=lambda page: page.name)
def test_specifications_are_valid(page: Path) -> None:
    blocks = _blocks(page, "toml")
    assert blocks
    for block in blocks:
        parse_spec(tomllib.loads(block), page.name)


@pytest.mark.parametrize("command", _commands())
def test_commands_parse(command: str) -> None:
    _, name, *arguments = shlex.split(command, comments=True)
    program: Any = typer.main.get_command(app)
    assert name in program.commands
    program.commands[name].make_context(name, arguments)


def test_every_command_is_shown() -> None:
    shown = {shlex.split(command)[1] for command in _commands()}
    program: Any = typer.main.get_command(app)
    assert shown == set(program.commands)


def test_wrong_commands_would_be_noticed() -> None:
    program: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="no-such-option"):
        program.commands["parity"].make_context("parity", ["bundle", "--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_imports_what_exists(page: Path) -> None:
    for block in _blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_command_line_page_is_current() -> None:
    location = importlib.util.spec_from_file_location("write_cli", ROOT / "docs" / "write_cli.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.render(), "run: make docs"


def test_constraints_pin_what_the_project_asks_for() -> None:
    lines = (ROOT / "constraints" / "py311.txt").read_text(encoding="utf-8").splitlines()
    pins = {_canonical(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(entry for name in INSTALLED for entry in extras[name])]
    assert {_canonical(re.split(r"[<>=!~;\[ ]", entry)[0]) for entry in wanted} <= set(pins)
    assert pins["torch"] == "2.13.0"
