"""Options that decide how many blocks to refine, and threads, as commands take them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from cascadert.errors import InvalidRequest

if TYPE_CHECKING:
    from cascadert.spec import SelectPolicy

Threads = Annotated[
    int, typer.Option(min=0, help="CPU threads of each stage; 0 shares out the cores (with --serial: all to each).")
]
StageThreads = Annotated[
    str | None, typer.Option(metavar="NAME=N,...", help="Threads of single stages, as in fast=1,accurate=2.")
]
Slots = Annotated[
    int, typer.Option(min=0, help="Frames in flight on the device; 0 takes one more than the longest chain of stages.")
]


def make_policy(
    theta: float | None, top_k: int | None, budget_ms: float | None = None, fps: float | None = None,
    *, top_k_option: str = "--top-k",
) -> SelectPolicy | None:  # fmt: skip
    """Return the decision that options ask for, or none. Theta is the least score beside a budget or a frame rate.

    Raises:
        InvalidRequest: options that contradict each other or are out of range.
    """
    from cascadert.spec import FrameRatePolicy, LatencyPolicy, ThresholdPolicy, TopKPolicy

    _refuse_two({top_k_option: top_k, "--budget-ms": budget_ms, "--fps": fps})
    _refuse_two({"--theta": theta, top_k_option: top_k})
    if theta is not None and not math.isfinite(theta):
        raise InvalidRequest(f"--theta {theta}", "is not a finite number", "give bits: -1 refines all, 99 none")
    for name, value in (("--budget-ms", budget_ms), ("--fps", fps)):
        if value is not None and not 0 < value < math.inf:
            raise InvalidRequest(f"{name} {value:g}", "is no number above 0", "give one")
    if budget_ms is not None:
        return LatencyPolicy(policy="latency", budget_ms=budget_ms, theta=theta)
    if fps is not None:
        return FrameRatePolicy(policy="frame-rate", fps=fps, theta_min=0.0 if theta is None else theta)
    if theta is not None:
        return ThresholdPolicy(theta=theta)
    return None if top_k is None else TopKPolicy(policy="top-k", k=top_k)


def check_exit_options(exit_threshold: float | None, deadline_ms: float | None, others: Mapping[str, object]) -> None:
    """Refuse what `run` is asked of exits and cannot do; `others` are options that decide, too.

    Raises:
        InvalidRequest: two ways to decide, or numbers out of range.
    """
    for name, value in others.items():
        if exit_threshold is not None and value is not None:
            raise InvalidRequest(f"--exit-threshold and {name}", "both say what is decided", "give one of them")
    if exit_threshold is not None and not 0 <= exit_threshold < math.inf:
        raise InvalidRequest(f"--exit-threshold {exit_threshold:g}", "is no confidence", "give 0 to 1, or more: never")
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        raise InvalidRequest(f"--deadline-ms {deadline_ms:g}", "is no number above 0", "give milliseconds")


def _refuse_two(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise InvalidRequest(" and ".join(given), "both decide how many blocks to refine", "give one of them")


def make_threads(threads: int, stage_threads: str | None) -> int | Mapping[str, int]:
    """Return threads of all stages, or of each that is named.

    Raises:
        InvalidRequest: what is not `NAME=N,...`, or both options.
    """
    if stage_threads is None:
        return threads
    if threads:
        raise InvalidRequest("--threads and --stage-threads", "both say how many threads", "give one of them")
    found = {}
    for part in stage_threads.split(","):
        name, equals, count = part.strip().partition("=")
        if not (name and equals and count.isdecimal()) or name in found:
            raise InvalidRequest(f"--stage-threads {stage_threads}", f"has {part!r}", "give NAME=N,... once each")
        found[name] = int(count)
    return found
