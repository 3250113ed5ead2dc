"""Writes docs/cli.md from the program itself: `make docs`. A test checks that it is current."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer
from rich.text import Text

from cascadert.cli.app import app

HEAD = """# Command line

Written by `make docs` from the program's own help. Every command has `--help`; results go to stdout, progress and
errors to stderr. An error is one line: what was asked, what was found, what to do.
"""


def main() -> None:
    Path(__file__).with_name("cli.md").write_text(render(), encoding="utf-8")


def render() -> str:
    """Returns the page."""
    program: Any = typer.main.get_command(app)
    chapters = [HEAD, "## Exit codes\n", exit_codes(program.epilog)]
    chapters += [chapter(name, command) for name, command in program.commands.items()]
    return "\n".join(chapters)


def exit_codes(epilog: str) -> str:
    found = re.findall(r"^\s*(\d+)  (.+)$", epilog, re.MULTILINE)
    return table(("code", "meaning"), [(code, meaning) for code, meaning in found])


def chapter(name: str, command: Any) -> str:
    rows = [describe(parameter) for parameter in command.params if parameter.name != "help"]
    examples = [line for line in plain(command.epilog).splitlines() if line.startswith("cascadert ")]
    parts = [f"## cascadert {name}\n", paragraphs(command.help), table(("option", "meaning", "default"), rows)]
    return "\n".join([*parts, "```console", *(f"$ {line}" for line in examples), "```", ""])


def describe(parameter: Any) -> tuple[str, str, str]:
    # Only what every version of typer has: how it names types differs between them.
    value = parameter.metavar or parameter.name.upper()
    default = "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"
    last = "required" if parameter.required else default
    if parameter.param_type_name == "argument":
        return f"`{value}`", plain(parameter.help), last
    names = ", ".join(sorted(parameter.opts, key=len, reverse=True))
    return f"`{names}`" if parameter.is_flag else f"`{names} {value}`", plain(parameter.help), last


def plain(text: str | None) -> str:
    return Text.from_markup((text or "").replace("\b", "")).plain.strip()


def paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in plain(text).split("\n\n")) + "\n"


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
