"""What an experiment is, and what it leaves: a JSON file and a picture in docs/results."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["holds", "does not hold", "not significant"]


@dataclass(frozen=True)
class Finding:
    """One claim of a paper beside what was found.

    Attributes:
        claim: what the paper says, with its numbers and where it says so.
        found: our numbers, in a sentence.
        verdict: computed from the numbers by a rule that is written before they are known; see `verdict_of`.
    """

    claim: str
    found: str
    verdict: Verdict


@dataclass(frozen=True)
class Outcome:
    """What came of an experiment.

    Attributes:
        findings: one for each claim.
        numbers: everything that was measured, for the JSON file.
        deviations: what differs from the paper.
        seeds: of trainings and of chance.
        figure: a picture of the numbers.
    """

    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any]
    deviations: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    figure: Callable[[], Figure] | None = None


@dataclass(frozen=True)
class Context:
    """What an experiment may use: its options, and a folder for weights that it trains and finds again."""

    options: argparse.Namespace
    work: Path

    @property
    def camvid(self) -> Path:
        """The CamVid folder.

        Raises:
            SystemExit: none was given.
        """
        root: Path | None = self.options.root
        if root is None:
            raise SystemExit("this experiment needs CamVid: pass --root, the folder that holds images/ and labels/")
        return root


@dataclass(frozen=True)
class Experiment:
    """A claim to try.

    Attributes:
        name: as in "x1".
        title: a few words.
        data: what it runs on.
        run: measures.
        minutes: about how long it takes on two CPU cores once what it trains is in --work; and with training.
        add_arguments: options of its own.
    """

    name: str
    title: str
    data: str
    run: Callable[[Context], Outcome]
    minutes: tuple[float, float]
    add_arguments: Callable[[argparse.ArgumentParser], None] = field(default=lambda parser: None)


def verdict_of(differences: Sequence[float], *, at_least: float = 0.0) -> Verdict:
    """Judge a claim that says "better by more than `at_least`", from one paired difference for each seed.

    It holds where the mean lies above `at_least` by more than two standard errors, does not hold where it lies below
    by as much, and is not significant in between. One seed alone has no error: its sign decides.
    """
    mean = statistics.fmean(differences) - at_least
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    if mean > 2 * error:
        return "holds"
    return "does not hold" if mean <= -2 * error else "not significant"


def within(difference: float, limit: float) -> Verdict:
    """Judge a claim that says "about the same": a difference of at most `limit` either way."""
    return "holds" if abs(difference) <= limit else "does not hold"
