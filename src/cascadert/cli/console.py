"""What the commands share: two options, two consoles, progress, and names for missing extras."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cascadert.errors import MissingExtra

Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

out = Console(highlight=False)
"""Results."""

err = Console(stderr=True, highlight=False)
"""Progress and errors: what is no part of a result."""


def print_error(message: str) -> None:
    """Print one line on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def print_note(message: str) -> None:
    """Print one line on stderr that is no error."""
    err.print(Text(message), soft_wrap=True)


def print_json(text: str) -> None:
    """Print JSON as it is."""
    out.file.write(text.rstrip("\n") + "\n")


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Turn the failed import of a dependency inside into the name of the extra that installs it.

    Raises:
        MissingExtra: a module that is not ours is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "cascadert":
            raise
        missing = f"the Python module '{error.name}' is not installed"
        raise MissingExtra(purpose, missing, f'pip install "cascadert[{extra}]"') from error


class Tracker:
    """A progress bar on stderr; silent where nobody watches."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=None)

    def count(self, done: int, total: int | None = None) -> None:
        """Show `done` of `total`, or of an unknown number."""
        self._progress.update(self._task, completed=done, total=total)

    def say(self, description: str) -> None:
        """Change the text."""
        self._progress.update(self._task, description=description)

    def note(self, text: str) -> None:
        """Print a line above the bar that stays."""
        self._progress.console.print(Text(text), soft_wrap=True)


@contextmanager
def tracking(description: str, *, quiet: bool = False, counted: bool = True, timed: bool = False) -> Iterator[Tracker]:
    """Show a progress bar while the body runs; `counted` adds "3/10" to it, `timed` the time that is left."""
    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn()]
    if counted:
        columns.append(MofNCompleteColumn())
    columns.append(TimeElapsedColumn())
    if timed:
        columns += [TextColumn("left"), TimeRemainingColumn()]
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        yield Tracker(progress, description)
